//! The vCPU on whose exit a device is called.

use crate::memory::walk::Paging;

/// What a device may ask of the vCPU that stores to one of its registers. Most devices ask nothing.
pub trait CallingCpu {
    /// How the vCPU translates addresses now; `None` unless it runs in 64-bit paging, or if it can't be told.
    fn paging(&self) -> Option<Paging>;

    /// The pauses of the guest so far, this one not included.
    fn pauses(&self) -> PauseFigures;

    /// Holds all other vCPUs outside of the guest until the value is dropped.
    fn pause_others(&self) -> Box<dyn Paused + '_>;
}

/// Other vCPUs are outside of the guest as long as this lives.
pub trait Paused {}

/// The pauses so far. A pause lasts from closing the gate to opening it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PauseFigures {
    /// How many.
    pub count: u64,
    /// Length of the last one, in nanoseconds.
    pub last_ns: u64,
    /// Length of the longest one.
    pub longest_ns: u64,
    /// All lengths.
    pub total_ns: u64,
}

impl PauseFigures {
    /// Takes note of one more.
    pub fn add(&mut self, length_ns: u64) {
        self.count += 1;
        self.last_ns = length_ns;
        self.longest_ns = self.longest_ns.max(length_ns);
        self.total_ns = self.total_ns.saturating_add(length_ns);
    }
}
