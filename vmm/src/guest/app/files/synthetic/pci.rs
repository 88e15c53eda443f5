//! The files of a PCI function in sysfs, as a user-space driver uses them.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;

use super::{
    super::{
        backend::{Answer, OpenRequest},
        open::{Object, PciBarHandle, SynthesizedFile, SynthesizedHandle},
        status::Status,
    },
    Node, slice,
};

/// Bytes of the configuration space of a PCI function without extensions.
const CONFIG_BYTES: u64 = 256;

/// Lines in sysfs's `resource` file: six BARs, the ROM, and six windows of a bridge.
const RESOURCE_LINES: u8 = 13;

/// A PCI function that the guest is to find in /sys/bus/pci/devices.
pub trait PciSysfs: Debug + Send {
    /// Its name there, such as `0000:00:01.0`.
    fn address(&self) -> String;

    /// What it says it is.
    fn ids(&self) -> PciIds;

    /// Its BARs.
    fn bars(&self) -> Vec<Bar>;

    /// Reads configuration space; how many bytes there were. The driver's claims go through here.
    fn config_read(&self, offset: u64, buffer: &mut [u8]) -> usize;

    /// Writes configuration space.
    fn config_write(&mut self, offset: u64, bytes: &[u8]);
}

/// A PCI function, shared by its files.
pub type SharedPci = Arc<Mutex<dyn PciSysfs>>;

/// Identification registers of a PCI function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciIds {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem_device: u16,
}

/// A base address register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// 0 to 5.
    pub index: u8,
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Linux's resource flags, such as `IORESOURCE_MEM` (0x200).
    pub flags: u64,
}

/// One file of a PCI function.
#[derive(Clone, Debug)]
pub(in crate::guest::app::files) struct PciFile {
    function: SharedPci,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Config,
    /// Writing 1 enables the function; it always is.
    Enable,
    Bar(Bar),
}

/// The node of a function's directory, or of a file in it.
pub(super) fn node(function: &SharedPci, names: &[&[u8]]) -> Option<Node> {
    match names {
        [] => Some(Node::Directory(listing(function))),
        [name] => file(function, name),
        _ => None,
    }
}

/// Locks a function; nothing that holds the lock leaves it half-changed.
pub(super) fn lock(function: &SharedPci) -> MutexGuard<'_, dyn PciSysfs + 'static> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PciFile {
    pub(super) fn mode(&self) -> u32 {
        match self.kind {
            Kind::Config | Kind::Enable => 0o644,
            Kind::Bar(_) => 0o600,
        }
    }

    pub(super) fn size(&self) -> i64 {
        match self.kind {
            Kind::Config => 256,
            Kind::Enable => 4096,
            Kind::Bar(bar) => i64::try_from(bar.size).unwrap_or(i64::MAX),
        }
    }

    pub(super) fn open(&self, status: Status, request: &OpenRequest) -> Answer<Object> {
        let file: Box<dyn SynthesizedFile> = match self.kind {
            Kind::Config => Box::new(Config(Arc::clone(&self.function))),
            Kind::Enable => Box::new(Enable),
            Kind::Bar(bar) => {
                let address = lock(&self.function).address();
                return Ok(Object::PciBar(PciBarHandle { address, bar, status }));
            }
        };
        Ok(Object::Synthesized(SynthesizedHandle::new(file, status, request)))
    }
}

fn listing(function: &SharedPci) -> Vec<(Vec<u8>, u8)> {
    let mut names: Vec<String> =
        ["vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device"]
            .into_iter()
            .chain(["resource", "config", "enable", "irq"])
            .map(str::to_owned)
            .collect();
    names.extend(lock(function).bars().iter().map(|bar| format!("resource{}", bar.index)));
    names.into_iter().map(|name| (name.into_bytes(), libc::DT_REG)).collect()
}

fn file(function: &SharedPci, name: &[u8]) -> Option<Node> {
    let (ids, bars) = {
        let function = lock(function);
        (function.ids(), function.bars())
    };
    let text = match name {
        b"vendor" => format!("{:#06x}\n", ids.vendor),
        b"device" => format!("{:#06x}\n", ids.device),
        b"class" => format!("{:#08x}\n", ids.class),
        b"revision" => format!("{:#04x}\n", ids.revision),
        b"subsystem_vendor" => format!("{:#06x}\n", ids.subsystem_vendor),
        b"subsystem_device" => format!("{:#06x}\n", ids.subsystem_device),
        b"irq" => "0\n".to_owned(),
        b"resource" => resource_lines(&bars),
        b"config" => return Some(special(function, Kind::Config)),
        b"enable" => return Some(special(function, Kind::Enable)),
        _ => {
            let index = name.strip_prefix(b"resource")?;
            let bar = bars.into_iter().find(|bar| bar.index.to_string().as_bytes() == index)?;
            return Some(special(function, Kind::Bar(bar)));
        }
    };
    Some(Node::Fixed(text.into_bytes()))
}

fn special(function: &SharedPci, kind: Kind) -> Node {
    Node::Pci(PciFile { function: Arc::clone(function), kind })
}

/// The `resource` file: start, end and flags of each, zeros where there is none.
fn resource_lines(bars: &[Bar]) -> String {
    let mut text = String::new();
    for index in 0..RESOURCE_LINES {
        let (start, end, flags) = match bars.iter().find(|bar| bar.index == index) {
            Some(bar) => (bar.address, bar.address.saturating_add(bar.size.saturating_sub(1)), bar.flags),
            None => (0, 0, 0),
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{start:#018x} {end:#018x} {flags:#018x}");
    }
    text
}

/// `config`: configuration space.
#[derive(Debug)]
struct Config(SharedPci);

impl SynthesizedFile for Config {
    fn read(&self, offset: u64, length: usize) -> Answer<Vec<u8>> {
        let left = usize::try_from(CONFIG_BYTES.saturating_sub(offset)).map_err(|_| Errno::EINVAL)?;
        let mut bytes = vec![0; length.min(left)];
        let count = if bytes.is_empty() { 0 } else { lock(&self.0).config_read(offset, &mut bytes) };
        bytes.truncate(count);
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Answer<usize> {
        let left = usize::try_from(CONFIG_BYTES.saturating_sub(offset)).map_err(|_| Errno::EINVAL)?;
        let count = bytes.len().min(left);
        if count > 0 {
            lock(&self.0).config_write(offset, &bytes[..count]);
        }
        Ok(count)
    }

    fn size(&self) -> u64 {
        CONFIG_BYTES
    }

    fn write_back(&self) -> Answer<()> {
        Ok(())
    }
}

/// `enable`.
#[derive(Debug)]
struct Enable;

impl Enable {
    const TEXT: &[u8] = b"1\n";
}

impl SynthesizedFile for Enable {
    fn read(&self, offset: u64, length: usize) -> Answer<Vec<u8>> {
        Ok(slice(Self::TEXT, offset, length).to_vec())
    }

    fn write(&self, _offset: u64, bytes: &[u8]) -> Answer<usize> {
        match bytes.trim_ascii() {
            b"0" | b"1" => Ok(bytes.len()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn size(&self) -> u64 {
        Self::TEXT.len() as u64
    }

    fn write_back(&self) -> Answer<()> {
        Ok(())
    }
}
