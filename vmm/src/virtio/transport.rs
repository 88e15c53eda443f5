//! The virtio structures in one memory BAR, and what an access to them means (virtio 1.2, 4.1.4).
//!
//! ```text
//!   0x0000  common configuration
//!   0x1000  ISR status, 1 byte, reading clears it
//!   0x2000  the device's own configuration
//!   0x3000  notify: queue n at 4 * n
//!   0x4000  end
//! ```
//! Each structure has a page of its own, so that an address space may hold some and not others.

use std::sync::Arc;

use super::common::{COMMON_LEN, Change, CommonConfig};
use super::device::VirtioDevice;
use super::interrupts::Interrupts;
use super::state::{CommonState, StateError};

/// Bytes of the BAR.
pub const BAR_LEN: u64 = 0x4000;
/// Where the common configuration is.
pub const COMMON_OFFSET: u64 = 0;
/// Where the ISR status is.
pub const ISR_OFFSET: u64 = 0x1000;
/// Bytes of the ISR status.
pub const ISR_LEN: u64 = 1;
/// Where the device's own configuration is.
pub const DEVICE_OFFSET: u64 = 0x2000;
/// Bytes that a device's own configuration may have.
pub const DEVICE_LEN: u64 = 0x1000;
/// Where queues are notified.
pub const NOTIFY_OFFSET: u64 = 0x3000;
/// Bytes between the notify registers of two queues.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// Bytes of all notify registers.
pub const NOTIFY_LEN: u64 = 0x1000;
/// Queues that a device may have: as many as have a notify register.
pub const MAX_QUEUES: usize = 1024;

const STRUCTURE_LEN: u64 = 0x1000;

const _: () = {
    assert!(BAR_LEN.is_power_of_two(), "a BAR's size is a power of two");
    assert!(COMMON_LEN as u64 <= STRUCTURE_LEN && ISR_LEN <= STRUCTURE_LEN && DEVICE_LEN <= STRUCTURE_LEN);
    assert!(ISR_OFFSET == COMMON_OFFSET + STRUCTURE_LEN, "structures follow each other");
    assert!(DEVICE_OFFSET == ISR_OFFSET + STRUCTURE_LEN, "structures follow each other");
    assert!(NOTIFY_OFFSET == DEVICE_OFFSET + STRUCTURE_LEN, "structures follow each other");
    assert!(NOTIFY_OFFSET + NOTIFY_LEN == BAR_LEN, "the BAR ends with the notify registers");
    assert!(MAX_QUEUES as u64 * NOTIFY_MULTIPLIER as u64 == NOTIFY_LEN);
};

/// What a write to a register was, beyond the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub enum Event {
    /// Nothing more.
    #[default]
    None,
    /// The driver says that there is something in the queue.
    Notified {
        /// Which.
        queue: u16,
    },
    /// The device works from now on.
    Activated,
    /// The device was reset: what it did for its driver must end.
    Reset,
}

/// The registers of `device`, and the device.
#[derive(Debug)]
pub struct Transport<D> {
    common: CommonConfig,
    /// The device refused to be taken into use.
    refused: bool,
    device: D,
}

impl<D: VirtioDevice> Transport<D> {
    /// Puts registers before `device`. Queues beyond [`MAX_QUEUES`] don't get any.
    #[must_use]
    pub fn new(device: D) -> Self {
        let sizes = device.queue_sizes();
        let common = CommonConfig::new(
            device.features(),
            device.required_features(),
            &sizes[..sizes.len().min(MAX_QUEUES)],
        );
        Self { common, refused: false, device }
    }

    /// Puts registers before `device`, those among them by which a driver directs `interrupts`.
    #[must_use]
    pub fn with_interrupts(device: D, interrupts: Arc<Interrupts>) -> Self {
        let Self { common, refused, device } = Self::new(device);
        Self { common: common.with_interrupts(interrupts), refused, device }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Reads from `offset` in the BAR. Where there is no register, bytes read as zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match structure(offset, data.len()) {
            Some((COMMON_OFFSET, at)) => {
                let generation = self.device.config_generation();
                self.common.read(at, data, self.needs_reset(), generation);
            }
            Some((ISR_OFFSET, 0)) => {
                if let Some(first) = data.first_mut() {
                    *first = self.device.take_interrupts();
                }
            }
            Some((DEVICE_OFFSET, at)) => self.device.read_config(at, data),
            _ => {}
        }
    }

    /// Writes `data` at `offset` in the BAR.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Event {
        match structure(offset, data.len()) {
            Some((COMMON_OFFSET, at)) => match self.common.write(at, data) {
                Change::None => Event::None,
                Change::Reset => self.reset(),
                Change::Activate => self.activate(),
            },
            Some((DEVICE_OFFSET, at)) => {
                self.device.write_config(at, data);
                Event::None
            }
            Some((NOTIFY_OFFSET, at)) => self.notify(at),
            _ => Event::None,
        }
    }

    /// The registers as values, and whether the device refused to be taken into use.
    #[must_use]
    pub fn state(&self) -> (CommonState, bool) {
        (self.common.state(), self.refused)
    }

    /// Gives registers that nobody has used yet these values, and takes the device into use if it was.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn bring_back(&mut self, common: &CommonState, refused: bool) -> Result<(), StateError> {
        self.refused = refused;
        if self.common.bring_back(common)? && !refused {
            let queues = self.common.build_queues();
            let activated = self.device.activate(self.common.agreed_features(), queues);
            activated.map_err(|_| StateError("set of queues"))?;
        }
        Ok(())
    }

    fn needs_reset(&self) -> bool {
        self.refused || self.device.needs_reset()
    }

    fn reset(&mut self) -> Event {
        self.common.reset();
        self.refused = false;
        self.device.reset();
        Event::Reset
    }

    fn activate(&mut self) -> Event {
        match self.device.activate(self.common.agreed_features(), self.common.build_queues()) {
            Ok(()) => Event::Activated,
            Err(error) => {
                // Not louder: a guest can repeat it as often as it likes, and its driver sees the status.
                tracing::debug!(%error, "a virtio device can't be taken into use");
                self.refused = true;
                Event::None
            }
        }
    }

    fn notify(&self, at: u64) -> Event {
        let multiplier = u64::from(NOTIFY_MULTIPLIER);
        if !self.common.running() || self.needs_reset() || !at.is_multiple_of(multiplier) {
            return Event::None;
        }
        match u16::try_from(at / multiplier) {
            Ok(queue) if usize::from(queue) < self.device.queue_sizes().len() => Event::Notified { queue },
            _ => Event::None,
        }
    }
}

/// The structure that an access lies in, and where in it; `None` if it lies in no single one.
fn structure(offset: u64, len: usize) -> Option<(u64, u64)> {
    let at = offset % STRUCTURE_LEN;
    let end = at.checked_add(u64::try_from(len).ok()?)?;
    (offset < BAR_LEN && len > 0 && end <= STRUCTURE_LEN).then_some((offset - at, at))
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
