//! A PCI function's configuration space: 256 bytes, of which a guest can change what a mask allows.

use std::ops::Range;

/// Bytes of the configuration space of a conventional PCI function.
pub const CONFIG_LEN: usize = 256;
/// The command register's bit that makes a function answer in its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;

const VENDOR_ID: usize = 0x00;
const DEVICE_ID: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS_CODE: usize = 0x09;
const BAR0: usize = 0x10;
const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
const SUBSYSTEM_ID: usize = 0x2e;
const CAPABILITIES_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: u8 = 0x40;

const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTERRUPT_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const MAX_BARS: usize = 6;

/// The id of a capability whose meaning is the vendor's (PCI 3.0, appendix H).
pub const VENDOR_SPECIFIC: u8 = 0x09;
/// The id of the MSI-X capability.
pub const MSI_X: u8 = 0x11;

/// Who a function is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
    /// Class, subclass and programming interface, in the low 24 bits.
    pub class_code: u32,
    /// Revision.
    pub revision: u8,
}

/// A 32-bit memory BAR, not prefetchable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Where it is at the start: a multiple of its size.
    pub address: u32,
    /// Bytes: a power of two from 16 on.
    pub len: u32,
}

/// The configuration space of a function with a type 0 header.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_LEN],
    writable: [u8; CONFIG_LEN],
    /// Bytes of each BAR, from number 0 on.
    bar_lens: Vec<u32>,
    /// The last capability and the first byte behind it.
    last_capability: Option<(u8, u8)>,
}

/// A BAR that can't be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BarError {
    /// The size isn't a power of two of at least 16 bytes.
    #[error("a BAR of {len:#x} bytes is impossible: sizes are powers of two from 16 on")]
    Size {
        /// Bytes.
        len: u32,
    },
    /// The address isn't a multiple of the size.
    #[error("a BAR of {len:#x} bytes can't be at {address:#x}: its address is a multiple of its size")]
    Alignment {
        /// Where it should be.
        address: u32,
        /// Bytes.
        len: u32,
    },
    /// A function has six.
    #[error("a PCI function has at most {MAX_BARS} BARs")]
    TooMany,
}

impl ConfigSpace {
    /// A function without BARs and capabilities.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_LEN],
            writable: [0; CONFIG_LEN],
            bar_lens: Vec::new(),
            last_capability: None,
        };
        space.put(VENDOR_ID, &identity.vendor.to_le_bytes());
        space.put(DEVICE_ID, &identity.device.to_le_bytes());
        space.put(REVISION, &[identity.revision]);
        space.put(CLASS_CODE, &identity.class_code.to_le_bytes()[..3]);
        space.put(SUBSYSTEM_VENDOR_ID, &identity.subsystem_vendor.to_le_bytes());
        space.put(SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTERRUPT_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds the BAR with the next number, which answers from the start: memory decode is on from now on.
    ///
    /// # Errors
    /// [`BarError`] if it isn't one.
    pub fn add_bar(&mut self, bar: Bar) -> Result<(), BarError> {
        let Bar { address, len } = bar;
        if !len.is_power_of_two() || len < 16 {
            return Err(BarError::Size { len });
        }
        if !address.is_multiple_of(len) {
            return Err(BarError::Alignment { address, len });
        }
        if self.bar_lens.len() >= MAX_BARS {
            return Err(BarError::TooMany);
        }
        let register = BAR0 + 4 * self.bar_lens.len();
        self.put(register, &address.to_le_bytes());
        // The low bits of a BAR are fixed: a guest that writes ones reads back the size (PCI 3.0, 6.2.5.1).
        self.allow(register, &(!(len - 1)).to_le_bytes());
        self.put(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        self.bar_lens.push(len);
        Ok(())
    }

    /// Appends a capability whose bytes from the third on are `body`, and returns where it is. `None` if the
    /// space is full.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> Option<u8> {
        let at = self.last_capability.map_or(FIRST_CAPABILITY, |(_, end)| end);
        let len = u8::try_from(body.len() + 2).ok()?;
        // Capabilities begin at multiples of four (PCI 3.0, 6.7).
        let end = at.checked_add(len)?.checked_next_multiple_of(4)?;
        let pointer = self.last_capability.map_or(CAPABILITIES_POINTER, |(last, _)| usize::from(last) + 1);
        self.put(pointer, &[at]);
        self.put(usize::from(at), &[id, 0]);
        self.put(usize::from(at) + 2, body);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_capability = Some((at, end));
        Some(at)
    }

    /// Lets the guest change the bits of `mask` at `offset`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        if let Some(writable) = self.writable.get_mut(offset..offset + mask.len()) {
            writable.copy_from_slice(mask);
        }
    }

    /// Sets bytes, whatever the mask says.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(to) = self.bytes.get_mut(offset..offset + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// The little-endian word at `offset`; 0 beyond the end.
    #[must_use]
    pub fn u32_at(&self, offset: usize) -> u32 {
        self.bytes
            .get(offset..offset + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    }

    /// Reads from `offset`. Beyond the end there is no function: all ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes `data` at `offset`, as far as the guest may.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(usize::from(offset));
        for ((byte, &writable), &new) in bytes.zip(data) {
            *byte = (*byte & !writable) | (new & writable);
        }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; CONFIG_LEN] {
        &self.bytes
    }

    /// The addresses at which BAR `bar` answers now; `None` while memory decode is off, or without such a BAR.
    #[must_use]
    pub fn memory(&self, bar: u8) -> Option<Range<u64>> {
        let len = *self.bar_lens.get(usize::from(bar))?;
        let [low, high, ..] = self.u32_at(COMMAND).to_le_bytes();
        let command = u16::from_le_bytes([low, high]);
        let address = u64::from(self.u32_at(BAR0 + 4 * usize::from(bar)) & !(len - 1));
        (command & COMMAND_MEMORY != 0).then_some(address..address + u64::from(len))
    }

    /// The BARs that answer now, by number.
    pub fn bars(&self) -> impl Iterator<Item = (u8, Range<u64>)> {
        (0..).zip(&self.bar_lens).filter_map(|(bar, _)| Some((bar, self.memory(bar)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x10f0,
        subsystem_vendor: 0x1af4,
        subsystem: 0xb0,
        class_code: 0xff_00_00,
        revision: 1,
    };

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(IDENTITY);
        space.add_bar(Bar { address: 0xe000_0000, len: 0x4000 }).unwrap();
        space
    }

    fn read_u32(space: &ConfigSpace, offset: u16) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_header_says_who_it_is() {
        let space = space();
        assert_eq!(read_u32(&space, 0), 0x10f0_1af4);
        assert_eq!(read_u32(&space, 8), 0xff00_0001);
        assert_eq!(read_u32(&space, 0x2c), 0x00b0_1af4);
        assert_eq!(space.memory(0), Some(0xe000_0000..0xe000_4000));
    }

    #[test]
    fn sizing_a_bar_and_moving_it() {
        let mut space = space();
        space.write(0x04, &[0, 0]);
        assert_eq!(space.memory(0), None);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(read_u32(&space, 0x10), 0xffff_c000);
        space.write(0x10, &0xd000_4000_u32.to_le_bytes());
        space.write(0x04, &COMMAND_MEMORY.to_le_bytes());
        assert_eq!(space.memory(0), Some(0xd000_4000..0xd000_8000));
        space.write(0x10, &[0xff; 4]);
        assert_eq!(space.memory(0), Some(0xffff_c000..0x1_0000_0000));
        space.write(0x14, &[0xff; 4]);
        assert_eq!(read_u32(&space, 0x14), 0, "there is no second BAR");
        assert_eq!(space.memory(1), None);
    }

    #[test]
    fn identity_and_capabilities_can_not_be_written() {
        let mut space = space();
        space.add_capability(VENDOR_SPECIFIC, &[16, 1]).unwrap();
        let before = space.bytes;
        for offset in (0..256_u16).filter(|offset| ![4, 5, 0x11, 0x12, 0x13, 0x3c].contains(offset)) {
            space.write(offset, &[!before[usize::from(offset)]]);
        }
        assert_eq!(space.bytes, before);
    }

    #[test]
    fn accesses_beyond_the_end_read_ones_and_write_nothing() {
        let mut space = space();
        let mut data = [0; 8];
        space.read(252, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        space.write(u16::MAX, &[1; 8]);
        space.read(u16::MAX, &mut data);
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn capabilities_are_linked_until_the_space_is_full() {
        let mut space = space();
        let first = space.add_capability(VENDOR_SPECIFIC, &[5, 1, 2]).unwrap();
        let second = space.add_capability(VENDOR_SPECIFIC, &[4, 1]).unwrap();
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(space.bytes[0x34], 0x40);
        assert_eq!(space.bytes[0x40..0x46], [9, 0x48, 5, 1, 2, 0]);
        assert_eq!(space.bytes[0x49], 0);
        while space.add_capability(VENDOR_SPECIFIC, &[0; 14]).is_some() {}
        assert_eq!(space.bytes[0x49], 0x4c);
    }

    #[test]
    fn impossible_bars_are_refused() {
        let mut space = ConfigSpace::new(IDENTITY);
        let mut add = |address, len| space.add_bar(Bar { address, len });
        assert_eq!(add(0, 0x3000), Err(BarError::Size { len: 0x3000 }));
        assert_eq!(add(0, 8), Err(BarError::Size { len: 8 }));
        assert_eq!(add(0x1000, 0x4000), Err(BarError::Alignment { address: 0x1000, len: 0x4000 }));
        for _ in 0..MAX_BARS {
            assert_eq!(add(0x1000, 0x1000), Ok(()));
        }
        assert_eq!(add(0x1000, 0x1000), Err(BarError::TooMany));
    }

    #[test]
    fn several_bars_answer_each_at_its_place() {
        let mut space = space();
        space.add_bar(Bar { address: 0xe000_4000, len: 0x1000 }).unwrap();
        space.write(0x14, &0xd000_0000_u32.to_le_bytes());
        let bars: Vec<_> = space.bars().collect();
        assert_eq!(bars, [(0, 0xe000_0000..0xe000_4000), (1, 0xd000_0000..0xd000_1000)]);
        space.write(0x04, &[0, 0]);
        assert_eq!(space.bars().count(), 0);
    }
}
