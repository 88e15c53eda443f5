//! A virtio device as a PCI function: its capabilities, its structures in one BAR (virtio 1.2, 4.1.4).

use std::ops::Range;

use super::common::COMMON_LEN;
use super::config_space::{BarError, ConfigSpace, Identity};
use super::device::VirtioDevice;
use super::transport::{
    BAR_LEN, COMMON_OFFSET, DEVICE_OFFSET, Event, ISR_LEN, ISR_OFFSET, NOTIFY_MULTIPLIER, NOTIFY_OFFSET,
    Transport,
};

/// The `cfg_type` of a virtio capability.
#[derive(Clone, Copy)]
enum Structure {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    PciConfig = 5,
}

/// Bytes of `struct virtio_pci_cap`.
const CAPABILITY_LEN: u8 = 16;
/// Where a capability has the BAR's number, the offset in it, the length, and what follows.
const CAPABILITY_BAR: usize = 4;
const CAPABILITY_OFFSET: usize = 8;
const CAPABILITY_LENGTH: usize = 12;
const CAPABILITY_REST: usize = 16;

/// The BAR that all structures are in.
const BAR: u8 = 0;
const BAR_SIZE: u32 = 0x4000;
const _: () = assert!(BAR_SIZE as u64 == BAR_LEN);

/// The function.
#[derive(Debug)]
pub struct PciFunction<D> {
    config: ConfigSpace,
    /// Where the capability is by which the BAR can be reached through the configuration space.
    window: usize,
    transport: Transport<D>,
}

/// Why a device can't be a PCI function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FunctionError {
    /// The BAR can't be where it should.
    #[error("the function's memory can't be placed")]
    Bar(#[from] BarError),
    /// The configuration space is full.
    #[error("the function's capabilities don't fit its configuration space")]
    Capabilities,
}

impl<D: VirtioDevice> PciFunction<D> {
    /// The function of `device`, answering in memory at `bar_address` from the start.
    ///
    /// # Errors
    /// [`FunctionError::Bar`] if `bar_address` isn't a multiple of [`BAR_LEN`].
    pub fn new(device: D, identity: Identity, bar_address: u32) -> Result<Self, FunctionError> {
        let mut config = ConfigSpace::new(identity, bar_address, BAR_SIZE)?;
        let queues = u64::try_from(device.queue_sizes().len()).unwrap_or(u64::MAX);
        let notify_len = queues.saturating_mul(u64::from(NOTIFY_MULTIPLIER));
        let mut add = |structure, offset, length, rest: Option<[u8; 4]>| {
            let body = capability(structure, offset, length, rest).ok_or(FunctionError::Capabilities)?;
            config.add_capability(&body).ok_or(FunctionError::Capabilities)
        };
        add(Structure::Common, COMMON_OFFSET, COMMON_LEN as u64, None)?;
        add(Structure::Notify, NOTIFY_OFFSET, notify_len, Some(NOTIFY_MULTIPLIER.to_le_bytes()))?;
        add(Structure::Isr, ISR_OFFSET, ISR_LEN, None)?;
        if device.config_len() > 0 {
            add(Structure::Device, DEVICE_OFFSET, u64::from(device.config_len()), None)?;
        }
        let window = usize::from(add(Structure::PciConfig, 0, 0, Some([0; 4]))?);
        config.allow(window + CAPABILITY_BAR, &[0xff]);
        config.allow(window + CAPABILITY_OFFSET, &[0xff; 12]);
        Ok(Self { config, window, transport: Transport::new(device) })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &D {
        self.transport.device()
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut D {
        self.transport.device_mut()
    }

    /// The guest-physical addresses at which the BAR answers now; `None` while memory decode is off. Only
    /// [`config_write`](Self::config_write) changes it.
    #[must_use]
    pub fn memory(&self) -> Option<Range<u64>> {
        self.config.memory()
    }

    /// Reads configuration space.
    pub fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window_target()
        {
            let mut bytes = [0; 4];
            self.transport.read(at, &mut bytes[..len]);
            self.config.put(self.window + CAPABILITY_REST, &bytes);
        }
        self.config.read(offset, data);
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) -> Event {
        self.config.write(offset, data);
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window_target()
        {
            let bytes = self.config.u32_at(self.window + CAPABILITY_REST).to_le_bytes();
            return self.transport.write(at, &bytes[..len]);
        }
        Event::None
    }

    /// Reads the BAR.
    pub fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.transport.read(offset, data);
    }

    /// Writes the BAR.
    pub fn bar_write(&mut self, offset: u64, data: &[u8]) -> Event {
        self.transport.write(offset, data)
    }

    /// Whether an access reaches `pci_cfg_data`.
    fn touches_window(&self, offset: u16, len: usize) -> bool {
        let window = self.window + CAPABILITY_REST;
        let offset = usize::from(offset);
        offset < window + 4 && offset + len > window
    }

    /// Where in the BAR `pci_cfg_data` leads, and how many bytes (4.1.4.9.1); `None` if the driver set up
    /// nonsense.
    fn window_target(&self) -> Option<(u64, usize)> {
        let [bar, ..] = self.config.u32_at(self.window + CAPABILITY_BAR).to_le_bytes();
        let offset = self.config.u32_at(self.window + CAPABILITY_OFFSET);
        let len = self.config.u32_at(self.window + CAPABILITY_LENGTH);
        let fits = bar == BAR && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len) && offset < BAR_SIZE;
        fits.then_some((u64::from(offset), usize::try_from(len).ok()?))
    }
}

/// `struct virtio_pci_cap` from its third byte on; `None` if a number doesn't fit its field.
fn capability(structure: Structure, offset: u64, length: u64, rest: Option<[u8; 4]>) -> Option<Vec<u8>> {
    let len = if rest.is_some() { CAPABILITY_LEN + 4 } else { CAPABILITY_LEN };
    let mut body = vec![len, structure as u8, BAR, 0, 0, 0];
    body.extend(u32::try_from(offset).ok()?.to_le_bytes());
    body.extend(u32::try_from(length).ok()?.to_le_bytes());
    body.extend(rest.into_iter().flatten());
    Some(body)
}
