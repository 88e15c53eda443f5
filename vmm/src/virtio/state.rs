//! What a driver made of a function, as plain values: to be kept, and to be brought back in another function of the
//! same device.
//!
//! Interrupts by MSI-X are not part of it. Values that come back are checked as a driver's writes would be.

use serde::{Deserialize, Serialize};

/// The function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FunctionState {
    /// The configuration space; what a guest can't write of it is of no interest.
    pub config: Vec<u8>,
    /// The registers in its BAR.
    pub common: CommonState,
    /// The device refused to be taken into use.
    pub refused: bool,
}

/// The common configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommonState {
    /// Which device features are shown, and which of the driver's.
    pub feature_select: [u32; 2],
    /// The features that the driver accepted.
    pub accepted: u64,
    /// It accepted some that are never offered.
    pub accepted_beyond: bool,
    /// The status register.
    pub status: u8,
    /// The queue that is shown.
    pub queue_select: u16,
    /// The queues.
    pub queues: Vec<QueueRegistersState>,
}

/// A queue as the driver set it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueRegistersState {
    /// Descriptors.
    pub size: u16,
    /// Whether the driver enabled it.
    pub enabled: bool,
    /// Where the descriptors, the available ring and the used ring are.
    pub rings: [u64; 3],
}

/// Values that no device of this kind can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the {0} is none that the device can have")]
pub struct StateError(pub &'static str);
