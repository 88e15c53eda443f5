//! The registers that the driver uses, and how they are reached.

use std::fmt::Debug;

/// Access to the BAR's registers. Offsets count from the start of the BAR, are inside of it and aligned to
/// the access: [`Layout`](crate::capabilities::Layout) has checked the structures that they are in.
pub(crate) trait Registers: Debug + Send {
    fn read_u8(&self, offset: usize) -> u8;
    fn read_u16(&self, offset: usize) -> u16;
    fn read_u32(&self, offset: usize) -> u32;
    fn write_u8(&self, offset: usize, value: u8);
    fn write_u16(&self, offset: usize, value: u16);
    fn write_u32(&self, offset: usize, value: u32);
}

/// `virtio_pci_common_cfg`: virtio 1.2, 4.1.4.3. Fields of 64 bits are written as two halves, low first.
pub(crate) mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(crate) const DEVICE_FEATURE: usize = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(crate) const DRIVER_FEATURE: usize = 12;
    pub(crate) const NUM_QUEUES: usize = 18;
    pub(crate) const DEVICE_STATUS: usize = 20;
    pub(crate) const QUEUE_SELECT: usize = 22;
    pub(crate) const QUEUE_SIZE: usize = 24;
    pub(crate) const QUEUE_ENABLE: usize = 28;
    pub(crate) const QUEUE_NOTIFY_OFF: usize = 30;
    pub(crate) const QUEUE_DESC: usize = 32;
    pub(crate) const QUEUE_DRIVER: usize = 40;
    pub(crate) const QUEUE_DEVICE: usize = 48;
}

/// Bits of the device status: virtio 1.2, 2.1.
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const DEVICE_NEEDS_RESET: u8 = 64;
    pub(crate) const FAILED: u8 = 128;
}

/// Bytes of the common configuration that the driver uses.
pub(crate) const COMMON_CFG_SIZE: u32 = 56;
/// Bytes of the device configuration that the driver uses.
pub(crate) const DEVICE_CFG_SIZE: u32 = 8;
