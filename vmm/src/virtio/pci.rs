//! A virtio device as a PCI function: its capabilities, its structures in one BAR (virtio 1.2, 4.1.4).

use std::ops::Range;
use std::sync::Arc;

use super::common::COMMON_LEN;
use super::config_space::{Bar, BarError, ConfigSpace, Identity, MSI_X, VENDOR_SPECIFIC};
use super::device::VirtioDevice;
use super::interrupts::Interrupts;
use super::msix::{PENDING_OFFSET, REGISTERS_LEN};
use super::state::{FunctionState, StateError};
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

/// The BAR that all structures of virtio are in.
pub const BAR: u8 = 0;
/// Bytes of [`BAR`].
pub const BAR_SIZE: u32 = 0x4000;
const _: () = assert!(BAR_SIZE as u64 == BAR_LEN);
/// The BAR that the registers of MSI-X are in, if the function has them.
pub const MSIX_BAR: u8 = 1;
/// Bytes of [`MSIX_BAR`].
pub const MSIX_BAR_SIZE: u32 = 0x1000;
const _: () = assert!(MSIX_BAR_SIZE as u64 == REGISTERS_LEN);

/// Where the MSI-X capability has message control, and the bits of it that a guest can write.
const MSIX_CONTROL: usize = 2;
const MSIX_CONTROL_WRITABLE: u16 = 0xc000;

/// The function.
#[derive(Debug)]
pub struct PciFunction<D> {
    config: ConfigSpace,
    /// Where the capability is by which the BAR can be reached through the configuration space.
    window: usize,
    msix: Option<Msix>,
    transport: Transport<D>,
}

/// The MSI-X capability.
#[derive(Debug)]
struct Msix {
    /// Where it is.
    at: usize,
    interrupts: Arc<Interrupts>,
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
    /// The function of `device`, answering in memory at `bar_address` from the start. It sends no interrupt.
    ///
    /// # Errors
    /// [`FunctionError::Bar`] if `bar_address` isn't a multiple of [`BAR_LEN`].
    pub fn new(device: D, identity: Identity, bar_address: u32) -> Result<Self, FunctionError> {
        let mut config = ConfigSpace::new(identity);
        config.add_bar(Bar { address: bar_address, len: BAR_SIZE })?;
        let window = add_structures(&mut config, &device)?;
        Ok(Self { config, window, msix: None, transport: Transport::new(device) })
    }

    /// The function of `device`, which has `interrupts` too and sends them by MSI-X. The registers of MSI-X,
    /// which `interrupts` answers for, are in a BAR of their own at `msix_address`.
    ///
    /// # Errors
    /// [`FunctionError::Bar`] if an address isn't a multiple of its BAR's length.
    pub fn with_interrupts(
        device: D,
        identity: Identity,
        bar_address: u32,
        msix_address: u32,
        interrupts: Arc<Interrupts>,
    ) -> Result<Self, FunctionError> {
        let mut config = ConfigSpace::new(identity);
        config.add_bar(Bar { address: bar_address, len: BAR_SIZE })?;
        config.add_bar(Bar { address: msix_address, len: MSIX_BAR_SIZE })?;
        let window = add_structures(&mut config, &device)?;
        let at = add_msix(&mut config, interrupts.vectors())?;
        let transport = Transport::with_interrupts(device, Arc::clone(&interrupts));
        Ok(Self { config, window, msix: Some(Msix { at, interrupts }), transport })
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

    /// The guest-physical addresses at which [`BAR`] answers now; `None` while memory decode is off. Only
    /// [`config_write`](Self::config_write) changes it.
    #[must_use]
    pub fn memory(&self) -> Option<Range<u64>> {
        self.config.memory(BAR)
    }

    /// All BARs that answer now, by number.
    #[must_use]
    pub fn bars(&self) -> Vec<(u8, Range<u64>)> {
        self.config.bars().collect()
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
        if let Some(msix) = &self.msix {
            let [_, _, low, high] = self.config.u32_at(msix.at).to_le_bytes();
            msix.interrupts.set_control(u16::from_le_bytes([low, high]));
        }
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window_target()
        {
            let bytes = self.config.u32_at(self.window + CAPABILITY_REST).to_le_bytes();
            return self.transport.write(at, &bytes[..len]);
        }
        Event::None
    }

    /// Reads [`BAR`].
    pub fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.transport.read(offset, data);
    }

    /// Writes [`BAR`].
    pub fn bar_write(&mut self, offset: u64, data: &[u8]) -> Event {
        self.transport.write(offset, data)
    }

    /// What the driver made of a function without interrupts, as values.
    #[must_use]
    pub fn state(&self) -> FunctionState {
        let (common, refused) = self.transport.state();
        FunctionState { config: self.config.bytes().to_vec(), common, refused }
    }

    /// Makes that of a function that nobody has used yet.
    ///
    /// # Errors
    /// [`StateError`]; the function is of no use then.
    pub fn bring_back(&mut self, state: &FunctionState) -> Result<(), StateError> {
        if state.config.len() != self.config.bytes().len() {
            return Err(StateError("configuration space"));
        }
        self.config.write(0, &state.config);
        self.transport.bring_back(&state.common, state.refused)
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

/// Adds the capabilities that lead to the structures in [`BAR`], and returns where the last one is: the one
/// for access through the configuration space.
fn add_structures<D: VirtioDevice>(config: &mut ConfigSpace, device: &D) -> Result<usize, FunctionError> {
    let queues = u64::try_from(device.queue_sizes().len()).unwrap_or(u64::MAX);
    let notify_len = queues.saturating_mul(u64::from(NOTIFY_MULTIPLIER));
    let mut add = |structure, offset, length, rest: Option<[u8; 4]>| {
        let body = capability(structure, offset, length, rest).ok_or(FunctionError::Capabilities)?;
        config.add_capability(VENDOR_SPECIFIC, &body).ok_or(FunctionError::Capabilities)
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
    Ok(window)
}

/// Adds the MSI-X capability (PCI 3.0, 6.8.2) and returns where it is.
fn add_msix(config: &mut ConfigSpace, vectors: u16) -> Result<usize, FunctionError> {
    let last = vectors.checked_sub(1).ok_or(FunctionError::Capabilities)?;
    let mut body = last.to_le_bytes().to_vec();
    // The low bits of the two places are the BAR's number.
    body.extend(u32::from(MSIX_BAR).to_le_bytes());
    body.extend((PENDING_OFFSET | u32::from(MSIX_BAR)).to_le_bytes());
    let at = usize::from(config.add_capability(MSI_X, &body).ok_or(FunctionError::Capabilities)?);
    config.allow(at + MSIX_CONTROL, &MSIX_CONTROL_WRITABLE.to_le_bytes());
    Ok(at)
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
