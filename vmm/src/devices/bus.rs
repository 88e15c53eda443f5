//! The bus: which device answers at a guest-physical address.

use std::ops::Range;

use crate::virtio::device::VirtioDevice;
use crate::virtio::{Event, PciFunction};

/// Something that answers at a range of addresses.
pub trait MmioDevice {
    /// What a write can be beyond a change of a register.
    type Event: Default;

    /// Reads from `offset` in the device's range into all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` in the device's range.
    fn write(&mut self, offset: u64, data: &[u8]) -> Self::Event;
}

impl<D: VirtioDevice> MmioDevice for PciFunction<D> {
    type Event = Event;

    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.bar_read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Event {
        self.bar_write(offset, data)
    }
}

/// Devices by their addresses. Where none is, reads give all ones and writes are dropped, as on a PC.
#[derive(Debug)]
pub struct Bus<D> {
    /// Sorted by address, without overlap.
    places: Vec<(Range<u64>, D)>,
    holes: u64,
}

/// Why a device can't be put where it should.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BusError {
    /// The range has no addresses.
    #[error("a device can't be at {0:#x?}: the range is empty")]
    Empty(Range<u64>),
    /// Another device is there.
    #[error("a device can't be at {wanted:#x?}: another one is at {taken:#x?}")]
    Overlap {
        /// Where it should be.
        wanted: Range<u64>,
        /// Where the other one is.
        taken: Range<u64>,
    },
}

impl<D> Default for Bus<D> {
    fn default() -> Self {
        Self { places: Vec::new(), holes: 0 }
    }
}

impl<D: MmioDevice> Bus<D> {
    /// Lets `device` answer at `range`.
    ///
    /// # Errors
    /// [`BusError`] if the range is empty or not free; the bus is as before.
    pub fn insert(&mut self, range: Range<u64>, device: D) -> Result<(), BusError> {
        if range.is_empty() {
            return Err(BusError::Empty(range));
        }
        let at = self.places.partition_point(|(place, _)| place.end <= range.start);
        if let Some((taken, _)) = self.places.get(at)
            && taken.start < range.end
        {
            return Err(BusError::Overlap { wanted: range, taken: taken.clone() });
        }
        self.places.insert(at, (range, device));
        Ok(())
    }

    /// The device that answers at all of `address..address + len`, and the offset in its range.
    pub fn find(&mut self, address: u64, len: usize) -> Option<(&mut D, u64)> {
        let end = address.checked_add(u64::try_from(len).ok()?)?;
        let at = self.places.partition_point(|(place, _)| place.end <= address);
        let (place, device) = self.places.get_mut(at)?;
        let offset = address.checked_sub(place.start)?;
        (end <= place.end).then_some((device, offset))
    }

    /// Reads from `address`.
    pub fn read(&mut self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => {
                self.note_hole(address);
                data.fill(0xff);
            }
        }
    }

    /// Writes `data` at `address`.
    pub fn write(&mut self, address: u64, data: &[u8]) -> D::Event {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => {
                self.note_hole(address);
                D::Event::default()
            }
        }
    }

    /// Accesses to addresses where no device is.
    #[must_use]
    pub fn holes(&self) -> u64 {
        self.holes
    }

    /// Logs the first: a guest that wants to fill the log can't.
    fn note_hole(&mut self, address: u64) {
        if self.holes == 0 {
            tracing::warn!(
                "the guest accessed {address:#x}, where no device is; further ones are only counted"
            );
        }
        self.holes = self.holes.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers its last write.
    #[derive(Debug, Default)]
    struct Latch(Option<(u64, Vec<u8>)>);

    impl MmioDevice for Latch {
        type Event = bool;

        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset & 0x7f).unwrap());
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> bool {
            self.0 = Some((offset, data.to_vec()));
            true
        }
    }

    fn bus(ranges: &[Range<u64>]) -> Bus<Latch> {
        let mut bus = Bus::default();
        for range in ranges {
            bus.insert(range.clone(), Latch::default()).unwrap();
        }
        bus
    }

    #[test]
    fn an_access_reaches_the_device_whose_range_holds_it() {
        let mut bus = bus(&[0x3000..0x4000, 0x1000..0x2000, 0x2000..0x3000]);
        let mut data = [0; 2];
        bus.read(0x2011, &mut data);
        assert_eq!(data, [0x11, 0x11]);
        assert!(bus.write(0x3ffe, &[1, 2]));
        assert_eq!(bus.find(0x3000, 1).unwrap().0.0, Some((0xffe, vec![1, 2])));
        assert_eq!(bus.holes(), 0);
    }

    #[test]
    fn holes_read_ones_and_swallow_writes() {
        let mut bus = bus(&[0x1000..0x2000, 0x2000..0x3000]);
        for address in [0xfff, 0x3000, 0x1fff, u64::MAX] {
            let mut data = [0; 2];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 2], "{address:#x}");
            assert!(!bus.write(address, &[0; 2]), "{address:#x}");
        }
        assert_eq!(bus.holes(), 8);
        assert!(bus.places.iter().all(|(_, latch)| latch.0.is_none()));
    }

    #[test]
    fn overlaps_and_empty_ranges_are_refused() {
        let mut bus = bus(&[0x1000..0x2000, 0x8000..0x9000]);
        for range in [0x1000..0x2000, 0..0x1001, 0x1fff..0x2001, 0..u64::MAX, 0x1100..0x1101] {
            let overlap = BusError::Overlap { wanted: range.clone(), taken: 0x1000..0x2000 };
            assert_eq!(bus.insert(range, Latch::default()), Err(overlap));
        }
        assert_eq!(bus.insert(0x5000..0x5000, Latch::default()), Err(BusError::Empty(0x5000..0x5000)));
        assert_eq!(bus.insert(0..0x1000, Latch::default()), Ok(()));
        assert_eq!(bus.insert(0x2000..0x2001, Latch::default()), Ok(()));
    }
}
