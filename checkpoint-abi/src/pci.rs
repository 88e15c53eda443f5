//! How the device looks on PCI: identity, capabilities, the BAR, the device configuration.
//!
//! A function with these values is the device, see "Discovery" in the [crate's docs](crate). The places in
//! the BAR belong to the revision: a driver that can't read the capabilities may rely on them.

/// PCI vendor of virtio devices.
pub const VENDOR_ID: u16 = 0x1af4;
/// PCI device. In the experimental range 0x10f0-0x10ff, which the stock `virtio-pci` driver of Linux leaves
/// alone: it binds 0x1000-0x107f whatever the device type and then no program can map the BAR.
pub const DEVICE_ID: u16 = 0x10f0;
/// The virtio device type: the one for which 0x1040 + type (virtio 1.2, 4.1.2) is [`DEVICE_ID`]. Unassigned.
pub const DEVICE_TYPE: u16 = DEVICE_ID - 0x1040;
/// PCI subsystem vendor.
pub const SUBSYSTEM_VENDOR_ID: u16 = VENDOR_ID;
/// PCI subsystem: the virtio device type.
pub const SUBSYSTEM_ID: u16 = DEVICE_TYPE;
/// PCI class, subclass and programming interface: fits no defined class.
pub const CLASS_CODE: u32 = 0xff_00_00;
/// PCI revision: 1, a device without a legacy interface (virtio 1.2, 4.1.2.1).
pub const REVISION: u8 = 1;

/// The BAR that all structures are in: memory, 32 bits, not prefetchable.
pub const BAR: u8 = 0;
/// Bytes of the BAR.
pub const BAR_SIZE: u32 = 0x4000;
/// Where the device puts `virtio_pci_common_cfg` in the BAR.
pub const COMMON_CFG_OFFSET: u32 = 0x0000;
/// Bytes of `virtio_pci_common_cfg` (virtio 1.2, 4.1.4.3), up to and with `queue_device`.
pub const COMMON_CFG_SIZE: u32 = 56;
/// Where the device puts the ISR status byte in the BAR.
pub const ISR_OFFSET: u32 = 0x1000;
/// Bytes of the ISR status.
pub const ISR_SIZE: u32 = 1;
/// Where the device puts the device configuration in the BAR.
pub const DEVICE_CFG_OFFSET: u32 = 0x2000;
/// Bytes of the device configuration.
pub const DEVICE_CFG_SIZE: u32 = 16;
/// Where the device puts the notification area in the BAR: a page of its own.
pub const NOTIFY_OFFSET: u32 = 0x3000;
/// Bytes of the notification area.
pub const NOTIFY_SIZE: u32 = 4;
/// `notify_off_multiplier` of the notification capability.
pub const NOTIFY_OFF_MULTIPLIER: u32 = 4;

/// Virtqueues of the device.
pub const QUEUE_COUNT: u16 = 1;
/// The request queue.
pub const REQUEST_QUEUE: u16 = 0;
/// Descriptors that the request queue can have; a driver may lower it to any power of two.
pub const QUEUE_MAX_SIZE: u16 = 64;

/// Device configuration, u32: the newest protocol version that the device speaks. Read-only.
pub const CFG_PROTOCOL_VERSION: u32 = 0;
/// Device configuration, u32: the oldest protocol version that the device speaks. Read-only.
pub const CFG_OLDEST_VERSION: u32 = 4;
// Bytes 8 to 15 are reserved and read as zero.

const _: () = assert!(0x1040 + DEVICE_TYPE == DEVICE_ID && DEVICE_ID >= 0x10f0 && DEVICE_ID <= 0x10ff);
const _: () = assert!(NOTIFY_OFFSET + NOTIFY_SIZE <= BAR_SIZE && BAR_SIZE.is_power_of_two());
const _: () = assert!(QUEUE_MAX_SIZE.is_power_of_two());
