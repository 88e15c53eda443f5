//! PCI bus 0 of a Linux guest: configuration by the ports 0xcf8 and 0xcfc, and who answers in memory.
//!
//! ```text
//!   0xcf8  address, 32 bits: enable (31), bus (23-16), device (15-11), function (10-8), register (7-2)
//!   0xcfc  data, 4 bytes: the register that the address names
//! ```
//! (PCI 3.0, 3.2.2.3.2.) Device 0 is a host bridge, by which Linux knows that the ports are real.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::calling_cpu::CallingCpu;
use crate::virtio::config_space::{ConfigSpace, Identity};

/// The address port, and the four data ports.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// The first of the four data ports.
pub const DATA_PORT: u16 = 0xcfc;
/// All ports of the bus.
pub const PORTS: Range<u16> = ADDRESS_PORT..DATA_PORT + 4;
/// Devices that the bus has room for, besides the host bridge.
pub const MAX_DEVICES: usize = 31;

const ENABLE: u32 = 1 << 31;

/// The host bridge: vendor and device are QEMU's generic one, for which Linux has no quirks.
const HOST_BRIDGE: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    subsystem_vendor: 0,
    subsystem: 0,
    class_code: 0x06_00_00,
    revision: 0,
};

/// A function on the bus. Any vCPU's thread may call it at any time.
pub trait PciDevice: Send + Sync + Debug {
    /// Reads configuration space.
    fn config_read(&self, offset: u16, data: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&self, offset: u16, data: &[u8]);
    /// The memory BARs that answer now, by number, with their guest-physical addresses. Only
    /// [`config_write`](Self::config_write) changes them.
    fn bars(&self) -> Vec<(u8, Range<u64>)>;
    /// Reads from `offset` in a BAR into all of `data`.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset` in a BAR, for the vCPU `cpu`.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8], cpu: &dyn CallingCpu);
}

/// Why a device can't be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PciBusError {
    /// The bus is full.
    #[error("the PCI bus has no room: it holds {MAX_DEVICES} devices besides the host bridge")]
    Full,
}

/// The bus. Where nobody answers, reads give all ones and writes are dropped, as on a PC.
#[derive(Debug)]
pub struct PciBus {
    address: AtomicU32,
    bridge: ConfigSpace,
    /// The device in slot i + 1.
    devices: Vec<Arc<dyn PciDevice>>,
    /// Who answers in memory, by ascending slot. Kept apart from the devices, so that an access to one
    /// needn't wait for another.
    places: RwLock<Vec<Place>>,
    hole_noted: AtomicBool,
}

/// A BAR that answers.
#[derive(Clone, Debug)]
struct Place {
    range: Range<u64>,
    slot: usize,
    bar: u8,
}

impl Default for PciBus {
    fn default() -> Self {
        Self {
            address: AtomicU32::new(0),
            bridge: ConfigSpace::new(HOST_BRIDGE),
            devices: Vec::new(),
            places: RwLock::default(),
            hole_noted: AtomicBool::new(false),
        }
    }
}

impl PciBus {
    /// Puts `device` into the next free slot and returns its number, from 1 on.
    ///
    /// # Errors
    /// [`PciBusError::Full`].
    pub fn add(&mut self, device: Arc<dyn PciDevice>) -> Result<u8, PciBusError> {
        if self.devices.len() >= MAX_DEVICES {
            return Err(PciBusError::Full);
        }
        self.devices.push(device);
        let slot = self.devices.len();
        self.follow(slot);
        u8::try_from(slot).map_err(|_| PciBusError::Full)
    }

    /// Reads from one of [`PORTS`].
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        if port == ADDRESS_PORT && data.len() == 4 {
            data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
            return;
        }
        data.fill(0xff);
        match self.target(port, data.len()) {
            Some((0, offset)) => self.bridge.read(offset, data),
            Some((slot, offset)) => {
                if let Some(device) = self.device(slot) {
                    device.config_read(offset, data);
                }
            }
            None => {}
        }
    }

    /// Writes to one of [`PORTS`].
    pub fn port_write(&self, port: u16, data: &[u8]) {
        if port == ADDRESS_PORT
            && let Ok(bytes) = data.try_into()
        {
            // The address and the data are two accesses, so the guest's kernel has a lock around them anyway.
            self.address.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            return;
        }
        if let Some((slot, offset)) = self.target(port, data.len())
            && let Some(device) = self.device(slot)
        {
            device.config_write(offset, data);
            self.follow(slot);
        }
    }

    /// Reads guest-physical memory; `false`, and all ones, if no BAR answers at all of it.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((device, bar, offset)) = self.find(address, data.len()) else {
            data.fill(0xff);
            return false;
        };
        device.bar_read(bar, offset, data);
        true
    }

    /// Writes guest-physical memory for the vCPU `cpu`; `false` if no BAR answers at all of it.
    pub fn mmio_write(&self, address: u64, data: &[u8], cpu: &dyn CallingCpu) -> bool {
        let Some((device, bar, offset)) = self.find(address, data.len()) else { return false };
        device.bar_write(bar, offset, data, cpu);
        true
    }

    /// The slot and register that an access to a data port means; `None` if it means none.
    fn target(&self, port: u16, len: usize) -> Option<(usize, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let byte = port.checked_sub(DATA_PORT).filter(|byte| usize::from(*byte) + len <= 4)?;
        let [register, device_function, bus, _] = address.to_le_bytes();
        let (device, function) = (device_function >> 3, device_function & 7);
        let here = address & ENABLE != 0 && bus == 0 && function == 0;
        here.then_some((usize::from(device), u16::from(register & !3) + byte))
    }

    fn device(&self, slot: usize) -> Option<&Arc<dyn PciDevice>> {
        self.devices.get(slot.checked_sub(1)?)
    }

    /// Takes note of where the BARs of a device are now.
    fn follow(&self, slot: usize) {
        let Some(device) = self.device(slot) else { return };
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: of two vCPUs that change the same function, the last one here sees both.
        let now = device.bars().into_iter().map(|(bar, range)| Place { range, slot, bar });
        places.retain(|place| place.slot != slot);
        places.extend(now);
        places.sort_by_key(|place| (place.slot, place.bar));
    }

    /// Who answers at all of `address..address + len`, with the BAR and the offset in it. A guest can move
    /// BARs over each other: the lowest slot's lowest BAR answers then.
    fn find(&self, address: u64, len: usize) -> Option<(&Arc<dyn PciDevice>, u8, u64)> {
        let end = address.checked_add(u64::try_from(len).ok()?);
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let place = places
            .iter()
            .find(|place| place.range.contains(&address) && end.is_some_and(|end| end <= place.range.end));
        let Some(place) = place else {
            self.note_hole(address);
            return None;
        };
        Some((self.device(place.slot)?, place.bar, address - place.range.start))
    }

    /// Logs the first: a guest that wants to fill the log can't.
    fn note_hole(&self, address: u64) {
        if !self.hole_noted.swap(true, Ordering::Relaxed) {
            tracing::warn!("the guest accessed {address:#x}, where no device is; logged once");
        }
    }
}

#[cfg(test)]
#[path = "pci_bus_tests.rs"]
mod tests;
