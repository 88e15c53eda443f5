//! What a virtio device is to its transport.

use virtio_queue::Queue;

/// Bits of [`VirtioDevice::take_interrupts`] and of the ISR register (virtio 1.2, 4.1.4.5).
pub mod interrupt {
    /// A buffer was used.
    pub const QUEUE: u8 = 1;
    /// The device's configuration or status changed.
    pub const CONFIG: u8 = 2;
}

/// A device that a [`Transport`](super::Transport) can bring up.
///
/// The transport calls [`activate`](Self::activate) once when the driver sets DRIVER_OK, and
/// [`reset`](Self::reset) when it writes 0 to the status; [`status`](super::status) draws the whole way. A
/// device never sees a register access other than to its own configuration.
pub trait VirtioDevice {
    /// The feature bits that the device offers. VIRTIO_F_VERSION_1 is added by the transport, which also
    /// insists on it.
    fn features(&self) -> u64;

    /// The feature bits without which the device won't work.
    fn required_features(&self) -> u64 {
        0
    }

    /// The largest size of each queue: powers of two, at most 32768.
    fn queue_sizes(&self) -> &[u16];

    /// Takes the device into use. `queues` holds the queues that the driver enabled, `None` for the others.
    ///
    /// # Errors
    /// [`ActivateError`] if the device can't work with them; the driver sees DEVICE_NEEDS_RESET.
    fn activate(&mut self, features: u64, queues: Vec<Option<Queue>>) -> Result<(), ActivateError>;

    /// Takes the device out of use: it forgets its queues and its driver.
    fn reset(&mut self);

    /// Whether the device met something that only a reset can mend, such as rings outside of memory.
    fn needs_reset(&self) -> bool;

    /// The [`interrupt`] bits since the last call.
    fn take_interrupts(&mut self) -> u8;

    /// Bytes of the device's own configuration, at most [`DEVICE_LEN`](super::transport::DEVICE_LEN).
    fn config_len(&self) -> u32 {
        0
    }

    /// Reads the device's own configuration. Bytes beyond its end are left as they are.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let _ = (offset, data);
    }

    /// Writes to the device's own configuration. What can't be written is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Changes whenever a reader of the configuration may have seen two halves of different values.
    fn config_generation(&self) -> u8 {
        0
    }
}

/// Why a device can't be taken into use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue that the device needs.
    #[error("the driver set DRIVER_OK without enabling queue {0}")]
    QueueMissing(u16),
    /// The device failed before in a way that no reset mends.
    #[error("the device has failed for good")]
    Failed,
}
