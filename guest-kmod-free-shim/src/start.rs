//! Bringing the device up: virtio 1.2, 3.1.1.

use cairn_abi::{PROTOCOL_VERSION, pci};
use thiserror::Error;

use crate::capabilities::Layout;
use crate::registers::{Registers, common, status};
use crate::ring::{QUEUE_SIZE, Ring};

/// virtio 1.2, 6: the device follows the standard, not its drafts.
const VERSION_1: u64 = 1 << 32;
/// virtio 1.2, 6: addresses are not physical ones. Ours never are, so it's accepted where it's offered.
const ACCESS_PLATFORM: u64 = 1 << 33;
/// Reads of the status that a reset may take. A device of this kind is reset when the store returns.
const RESET_READS: u32 = 1000;

/// Why a device doesn't come up.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no memory for the queue.
    #[error("there is no memory for the request queue")]
    Memory(#[source] rustix::io::Errno),
    /// The status doesn't become 0.
    #[error("the checkpoint device can't be reset: its status stays {status:#x}")]
    Reset {
        /// What it reads.
        status: u8,
    },
    /// It isn't a virtio 1 device.
    #[error("the checkpoint device doesn't offer VIRTIO_F_VERSION_1, only the features {offered:#x}")]
    NotVersion1 {
        /// What it offers.
        offered: u64,
    },
    /// It doesn't take the features that it offered.
    #[error("the checkpoint device refuses the features {accepted:#x}, of which all were offered")]
    Features {
        /// What the driver accepted.
        accepted: u64,
    },
    /// It speaks other versions of the protocol.
    #[error(
        "the checkpoint device speaks protocol versions {oldest} to {newest}, this program {PROTOCOL_VERSION}: \
             use a library and a hypervisor of the same release"
    )]
    Version {
        /// The oldest that it speaks.
        oldest: u32,
        /// The newest that it speaks.
        newest: u32,
    },
    /// The request queue isn't there, is too small, or is in use.
    #[error(
        "the checkpoint device has no request queue to set up ({queues} queues, {size} descriptors in the first)"
    )]
    Queue {
        /// Queues that it has.
        queues: u16,
        /// Descriptors that its first queue can have.
        size: u16,
    },
    /// The notification address isn't where it can be stored to.
    #[error("the checkpoint device's notification address {offset:#x} is outside of its notification area")]
    Doorbell {
        /// Where it claims to be in the area.
        offset: u64,
    },
    /// It fails at the end.
    #[error("the checkpoint device fails to start: its status is {status:#x}")]
    Failed {
        /// What it reads.
        status: u8,
    },
}

/// A device that is being driven.
pub(crate) struct Starting<'a> {
    registers: &'a dyn Registers,
    layout: &'a Layout,
}

impl<'a> Starting<'a> {
    pub(crate) fn new(registers: &'a dyn Registers, layout: &'a Layout) -> Self {
        Self { registers, layout }
    }

    /// Resets the device and brings it up with `ring`. Returns the doorbell's offset in the BAR. A device
    /// that can't be brought up is told so.
    pub(crate) fn bring_up(&self, ring: &Ring) -> Result<usize, StartError> {
        self.reset()?;
        self.steps(ring).inspect_err(|_| self.add_status(status::FAILED))
    }

    fn steps(&self, ring: &Ring) -> Result<usize, StartError> {
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        self.agree_on_features()?;
        self.check_version()?;
        let doorbell = self.set_up_queue(ring)?;
        self.add_status(status::DRIVER_OK);
        let now = self.status();
        let up = now & status::DRIVER_OK != 0 && now & (status::DEVICE_NEEDS_RESET | status::FAILED) == 0;
        if up { Ok(doorbell) } else { Err(StartError::Failed { status: now }) }
    }

    fn reset(&self) -> Result<(), StartError> {
        self.registers.write_u8(self.common(common::DEVICE_STATUS), 0);
        for _ in 0..RESET_READS {
            if self.status() == 0 {
                return Ok(());
            }
            std::thread::yield_now();
        }
        Err(StartError::Reset { status: self.status() })
    }

    fn agree_on_features(&self) -> Result<(), StartError> {
        let half = |select| {
            self.registers.write_u32(self.common(common::DEVICE_FEATURE_SELECT), select);
            u64::from(self.registers.read_u32(self.common(common::DEVICE_FEATURE)))
        };
        let offered = half(0) | half(1) << 32;
        if offered & VERSION_1 == 0 {
            return Err(StartError::NotVersion1 { offered });
        }
        let accepted = offered & (VERSION_1 | ACCESS_PLATFORM);
        for (select, half) in [(0, low(accepted)), (1, high(accepted))] {
            self.registers.write_u32(self.common(common::DRIVER_FEATURE_SELECT), select);
            self.registers.write_u32(self.common(common::DRIVER_FEATURE), half);
        }
        self.add_status(status::FEATURES_OK);
        if self.status() & status::FEATURES_OK == 0 {
            return Err(StartError::Features { accepted });
        }
        Ok(())
    }

    fn check_version(&self) -> Result<(), StartError> {
        let field = |at: u32| self.registers.read_u32(self.layout.device.offset as usize + at as usize);
        let (newest, oldest) = (field(pci::CFG_PROTOCOL_VERSION), field(pci::CFG_OLDEST_VERSION));
        if (oldest..=newest).contains(&PROTOCOL_VERSION) {
            return Ok(());
        }
        Err(StartError::Version { oldest, newest })
    }

    fn set_up_queue(&self, ring: &Ring) -> Result<usize, StartError> {
        let queues = self.registers.read_u16(self.common(common::NUM_QUEUES));
        self.registers.write_u16(self.common(common::QUEUE_SELECT), pci::REQUEST_QUEUE);
        let size = self.registers.read_u16(self.common(common::QUEUE_SIZE));
        let in_use = self.registers.read_u16(self.common(common::QUEUE_ENABLE)) != 0;
        if queues < pci::QUEUE_COUNT || size < QUEUE_SIZE || in_use {
            return Err(StartError::Queue { queues, size });
        }
        let doorbell = self.doorbell()?;
        self.registers.write_u16(self.common(common::QUEUE_SIZE), QUEUE_SIZE);
        let places = [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE];
        for (field, address) in places.into_iter().zip(ring.addresses()) {
            self.registers.write_u32(self.common(field), low(address));
            self.registers.write_u32(self.common(field) + 4, high(address));
        }
        self.registers.write_u16(self.common(common::QUEUE_ENABLE), 1);
        Ok(doorbell)
    }

    /// virtio 1.2, 4.1.4.4.
    fn doorbell(&self) -> Result<usize, StartError> {
        let notify = self.layout.notify;
        let queue_offset = self.registers.read_u16(self.common(common::QUEUE_NOTIFY_OFF));
        let offset = u64::from(queue_offset) * u64::from(self.layout.notify_multiplier);
        if offset + 2 > u64::from(notify.len) || !offset.is_multiple_of(2) {
            return Err(StartError::Doorbell { offset });
        }
        usize::try_from(u64::from(notify.offset) + offset).map_err(|_| StartError::Doorbell { offset })
    }

    fn add_status(&self, bit: u8) {
        let now = self.status();
        self.registers.write_u8(self.common(common::DEVICE_STATUS), now | bit);
    }

    fn status(&self) -> u8 {
        self.registers.read_u8(self.common(common::DEVICE_STATUS))
    }

    fn common(&self, field: usize) -> usize {
        self.layout.common.offset as usize + field
    }
}

#[expect(clippy::cast_possible_truncation, reason = "half of it is what is asked for")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}
