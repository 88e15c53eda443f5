//! What the program's clocks showed.

use serde::{Deserialize, Serialize};

/// The clocks that must go on from where they were. CLOCK_REALTIME isn't one: it's the host's at all times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FrozenClock {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic: u64,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boottime: u64,
    /// CPU time, nanoseconds.
    pub used: u64,
}
