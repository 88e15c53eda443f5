//! The device status: how far a driver has brought a device up (virtio 1.2, 2.1 and 3.1.1).
//!
//! ```text
//!            ACKNOWLEDGE           DRIVER          FEATURES_OK         DRIVER_OK
//!   Reset ---------------> Found ---------> Driven ------------> Agreed ----------> Running
//!     ^                                       | refused features    |                  |
//!     |                                       +---> stays           | queues are       | rings unusable:
//!     |                                                             | set up here      | DEVICE_NEEDS_RESET
//!     +------------------------- the driver writes 0, from anywhere -------------------+
//! ```
//!
//! A driver may only add bits, and in this order; one write may add several. FAILED may be added at any time,
//! and then only a reset helps. What breaks these rules is ignored: reading the status shows the driver what
//! counts.

/// The driver has found the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive the device.
pub const DRIVER: u8 = 2;
/// The driver is ready.
pub const DRIVER_OK: u8 = 4;
/// The two sides agreed on features.
pub const FEATURES_OK: u8 = 8;
/// The device can't go on until it's reset.
pub const NEEDS_RESET: u8 = 64;
/// The driver gave up on the device.
pub const FAILED: u8 = 128;

/// How far the device is up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Phase {
    /// Nobody drives it.
    #[default]
    Reset,
    /// Somebody has seen it.
    Found,
    /// A driver is there and chooses features.
    Driven,
    /// Features are fixed; the driver sets up queues.
    Agreed,
    /// The device works.
    Running,
}

/// One bit that a driver adds to the status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// [`ACKNOWLEDGE`].
    Acknowledge,
    /// [`DRIVER`].
    Driver,
    /// [`FEATURES_OK`].
    FeaturesOk,
    /// [`DRIVER_OK`].
    DriverOk,
}

impl Step {
    /// The steps in the order of the specification.
    pub const ORDER: [Self; 4] = [Self::Acknowledge, Self::Driver, Self::FeaturesOk, Self::DriverOk];

    /// The step's bit in the status register.
    #[must_use]
    pub fn bit(self) -> u8 {
        match self {
            Self::Acknowledge => ACKNOWLEDGE,
            Self::Driver => DRIVER,
            Self::FeaturesOk => FEATURES_OK,
            Self::DriverOk => DRIVER_OK,
        }
    }
}

impl Phase {
    /// The phase that `step` leads to, or `None` if it isn't the next one.
    #[must_use]
    pub fn after(self, step: Step) -> Option<Self> {
        match (self, step) {
            (Self::Reset, Step::Acknowledge) => Some(Self::Found),
            (Self::Found, Step::Driver) => Some(Self::Driven),
            (Self::Driven, Step::FeaturesOk) => Some(Self::Agreed),
            (Self::Agreed, Step::DriverOk) => Some(Self::Running),
            _ => None,
        }
    }

    /// The phase that a status register shows, whatever else it shows.
    #[must_use]
    pub fn from_bits(status: u8) -> Option<Self> {
        let bits = status & !(FAILED | NEEDS_RESET);
        [Self::Reset, Self::Found, Self::Driven, Self::Agreed, Self::Running]
            .into_iter()
            .find(|phase| phase.bits() == bits)
    }

    /// The bits that stand in the status register in this phase.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Reset => 0,
            Self::Found => ACKNOWLEDGE,
            Self::Driven => ACKNOWLEDGE | DRIVER,
            Self::Agreed => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            Self::Running => ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_one_way_on_and_its_bits_grow() {
        let mut phase = Phase::Reset;
        for step in Step::ORDER {
            for other in Step::ORDER {
                assert_eq!(phase.after(other).is_some(), other == step, "{phase:?} {other:?}");
            }
            let next = phase.after(step).unwrap();
            assert_eq!(next.bits(), phase.bits() | step.bit());
            assert_eq!(Phase::from_bits(next.bits() | NEEDS_RESET), Some(next));
            phase = next;
        }
        assert!(Step::ORDER.iter().all(|&step| phase.after(step).is_none()));
    }
}
