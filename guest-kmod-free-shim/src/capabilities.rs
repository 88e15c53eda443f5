//! Where the device's structures are in its BAR: what the PCI capabilities claim, checked.

use cairn_abi::pci;
use thiserror::Error;

use crate::registers::{COMMON_CFG_SIZE, DEVICE_CFG_SIZE};

/// Bytes of configuration space that Linux shows to a program without `CAP_SYS_ADMIN`.
const UNPRIVILEGED_CONFIG: usize = 64;
/// Bytes of a configuration space that can hold capabilities.
pub(crate) const CONFIG_SIZE: usize = 256;
/// Capabilities that fit the configuration space; a longer list has a loop.
const MAX_CAPABILITIES: usize = (CONFIG_SIZE - UNPRIVILEGED_CONFIG) / 4;
/// Bytes of the largest BAR that is mapped: bounds the address space that a device can take.
const MAX_BAR_SIZE: u64 = 1 << 20;

/// Why a function's configuration is not that of a device to drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LayoutError {
    /// Fewer bytes than any function has.
    #[error("its configuration space has only {0} bytes")]
    Truncated(usize),
    /// Not an ordinary function.
    #[error("its header type is {0:#x}, not 0")]
    HeaderType(u8),
    /// The BAR doesn't answer.
    #[error(
        "memory decoding is off, which the hypervisor turns on: turn it on again by writing 1 to the file \
         `enable` beside `config`, as root"
    )]
    DecodeOff,
    /// No capability list.
    #[error("it has no capabilities")]
    NoCapabilities,
    /// A capability outside of the capabilities' space.
    #[error("the capability at {0:#x} is cut off")]
    CutOff(usize),
    /// The list has a loop.
    #[error("its capabilities don't end after {MAX_CAPABILITIES}")]
    Endless,
    /// A structure that the driver needs isn't there.
    #[error("there is no capability for its {0}")]
    Missing(&'static str),
    /// A structure is in a BAR that can't be, or not in the one of the common configuration.
    #[error("its {structure} is in BAR {bar}, not in the BAR of the others")]
    Bar {
        /// Which structure.
        structure: &'static str,
        /// Where it claims to be.
        bar: u8,
    },
    /// A structure is smaller than its fields.
    #[error("its {structure} has {len} bytes and needs {need}")]
    TooSmall {
        /// Which structure.
        structure: &'static str,
        /// Bytes it has.
        len: u32,
        /// Bytes its fields take.
        need: u32,
    },
    /// A structure whose fields can't be accessed whole.
    #[error("its {structure} is at the odd offset {offset:#x}")]
    Unaligned {
        /// Which structure.
        structure: &'static str,
        /// Where it claims to be.
        offset: u32,
    },
    /// A structure ends behind its BAR.
    #[error("its {structure} ends behind the {bar_len:#x} bytes of its BAR")]
    Outside {
        /// Which structure.
        structure: &'static str,
        /// Bytes of the BAR.
        bar_len: u64,
    },
    /// The BAR isn't memory, isn't there, or is huge.
    #[error("BAR {bar} is not memory of at most {MAX_BAR_SIZE:#x} bytes")]
    NotMemory {
        /// Which BAR.
        bar: u8,
    },
}

/// A structure's place in the BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// The structures that the driver uses, all in one BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) bar: u8,
    pub(crate) common: Place,
    pub(crate) notify: Place,
    /// Bytes between the notification addresses of two queues.
    pub(crate) notify_multiplier: u32,
    pub(crate) device: Place,
}

impl Layout {
    /// The places that belong to the device's revision.
    pub(crate) const FIXED: Self = Self {
        bar: pci::BAR,
        common: Place { offset: pci::COMMON_CFG_OFFSET, len: pci::COMMON_CFG_SIZE },
        notify: Place { offset: pci::NOTIFY_OFFSET, len: pci::NOTIFY_SIZE },
        notify_multiplier: pci::NOTIFY_OFF_MULTIPLIER,
        device: Place { offset: pci::DEVICE_CFG_OFFSET, len: pci::DEVICE_CFG_SIZE },
    };

    /// What the configuration space `config` says, or the fixed places if only the header can be read.
    pub(crate) fn from_config(config: &[u8]) -> Result<Self, LayoutError> {
        let header: &[u8; UNPRIVILEGED_CONFIG] =
            config.first_chunk().ok_or(LayoutError::Truncated(config.len()))?;
        if header[HEADER_TYPE] & !MULTI_FUNCTION != 0 {
            return Err(LayoutError::HeaderType(header[HEADER_TYPE]));
        }
        if header[COMMAND] & COMMAND_MEMORY == 0 {
            return Err(LayoutError::DecodeOff);
        }
        if header[STATUS] & STATUS_CAPABILITIES == 0 {
            return Err(LayoutError::NoCapabilities);
        }
        if config.len() == UNPRIVILEGED_CONFIG {
            return Ok(Self::FIXED);
        }
        let found = Found::walk(config, header[CAPABILITY_POINTER])?;
        found.layout()
    }

    /// Checks the places against the lines of the function's `resource` file; returns the BAR's size.
    pub(crate) fn bar_len(&self, resource: &str) -> Result<usize, LayoutError> {
        let line = resource.lines().nth(self.bar.into()).and_then(ResourceLine::parse);
        let bar_len = line.and_then(|line| line.memory_len()).filter(|&len| len <= MAX_BAR_SIZE);
        let bar_len = bar_len.ok_or(LayoutError::NotMemory { bar: self.bar })?;
        for (structure, place) in [(COMMON, self.common), (NOTIFY, self.notify), (DEVICE, self.device)] {
            if u64::from(place.offset) + u64::from(place.len) > bar_len {
                return Err(LayoutError::Outside { structure, bar_len });
            }
        }
        usize::try_from(bar_len).map_err(|_| LayoutError::NotMemory { bar: self.bar })
    }
}

// PCI 3.0, 6.1: offsets in the header, and the bits that are looked at.
const COMMAND: usize = 0x04;
const COMMAND_MEMORY: u8 = 1 << 1;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const HEADER_TYPE: usize = 0x0e;
const MULTI_FUNCTION: u8 = 1 << 7;
const CAPABILITY_POINTER: usize = 0x34;
// virtio 1.2, 4.1.4: a vendor-specific capability that places a structure.
const VENDOR_SPECIFIC: u8 = 0x09;
const CAP_LEN: u8 = 16;
const NOTIFY_CAP_LEN: u8 = 20;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_DEVICE: u8 = 4;
/// BARs that a function has; higher numbers are reserved, and the capability must be ignored.
const BARS: u8 = 6;

const COMMON: &str = "common configuration";
const NOTIFY: &str = "notification area";
const DEVICE: &str = "device configuration";

/// A structure as a capability claims it.
#[derive(Clone, Copy)]
struct Claimed {
    bar: u8,
    place: Place,
}

/// The first capability of each kind, as the standard asks.
#[derive(Default)]
struct Found {
    common: Option<Claimed>,
    notify: Option<(Claimed, u32)>,
    device: Option<Claimed>,
}

impl Found {
    fn walk(config: &[u8], first: u8) -> Result<Self, LayoutError> {
        let mut found = Self::default();
        let mut next = first;
        for _ in 0..MAX_CAPABILITIES {
            // The low two bits are reserved and must be masked.
            let at = usize::from(next & !3);
            if at == 0 {
                return Ok(found);
            }
            let bytes = config.get(at..).filter(|_| at >= UNPRIVILEGED_CONFIG);
            let bytes = bytes.ok_or(LayoutError::CutOff(at))?;
            let &[id, link] = bytes.first_chunk().ok_or(LayoutError::CutOff(at))?;
            if id == VENDOR_SPECIFIC {
                found.take(bytes).ok_or(LayoutError::CutOff(at))?;
            }
            next = link;
        }
        Err(LayoutError::Endless)
    }

    /// Takes one vendor-specific capability; `None` if it's cut off.
    fn take(&mut self, bytes: &[u8]) -> Option<()> {
        let &[_, _, cap_len, kind, bar] = bytes.first_chunk()?;
        if !matches!(kind, CFG_COMMON | CFG_NOTIFY | CFG_DEVICE) || bar >= BARS {
            return Some(());
        }
        let min_len = if kind == CFG_NOTIFY { NOTIFY_CAP_LEN } else { CAP_LEN };
        if cap_len < min_len {
            return None;
        }
        let claimed = Claimed { bar, place: Place { offset: le32(bytes, 8)?, len: le32(bytes, 12)? } };
        match kind {
            CFG_COMMON => _ = self.common.get_or_insert(claimed),
            CFG_DEVICE => _ = self.device.get_or_insert(claimed),
            _ => _ = self.notify.get_or_insert((claimed, le32(bytes, 16)?)),
        }
        Some(())
    }

    fn layout(&self) -> Result<Layout, LayoutError> {
        let common = self.common.ok_or(LayoutError::Missing(COMMON))?;
        let (notify, notify_multiplier) = self.notify.ok_or(LayoutError::Missing(NOTIFY))?;
        let device = self.device.ok_or(LayoutError::Missing(DEVICE))?;
        let place = |claimed: Claimed, structure, need, align: u32| {
            let Place { offset, len } = claimed.place;
            if claimed.bar != common.bar {
                return Err(LayoutError::Bar { structure, bar: claimed.bar });
            }
            if len < need {
                return Err(LayoutError::TooSmall { structure, len, need });
            }
            if !offset.is_multiple_of(align) {
                return Err(LayoutError::Unaligned { structure, offset });
            }
            Ok(claimed.place)
        };
        Ok(Layout {
            bar: common.bar,
            common: place(common, COMMON, COMMON_CFG_SIZE, 4)?,
            notify: place(notify, NOTIFY, 2, 2)?,
            notify_multiplier,
            device: place(device, DEVICE, DEVICE_CFG_SIZE, 4)?,
        })
    }
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// A line of sysfs's `resource`: where a BAR starts and ends, and its flags, in hexadecimal.
struct ResourceLine {
    start: u64,
    end: u64,
    flags: u64,
}

impl ResourceLine {
    /// `IORESOURCE_MEM` of the kernel's `ioport.h`.
    const MEMORY: u64 = 0x200;

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line
            .split_whitespace()
            .map(|field| field.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()));
        let line = Self { start: fields.next()??, end: fields.next()??, flags: fields.next()?? };
        fields.next().is_none().then_some(line)
    }

    /// Bytes, if it's memory with an address.
    fn memory_len(&self) -> Option<u64> {
        let assigned = self.flags & Self::MEMORY != 0 && self.start != 0;
        self.end.checked_sub(self.start)?.checked_add(1).filter(|_| assigned)
    }
}

#[cfg(test)]
mod tests;
