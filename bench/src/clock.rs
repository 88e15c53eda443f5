//! Time by the time-stamp counter.
//!
//! In a VM, `clock_gettime` can be a system call that exits to the VMM and costs more than a checkpoint. RDTSC costs
//! some 20 ns everywhere. The driver measures its rate on the host and tells the workers, so that all engines are
//! timed by one clock.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// How long [`Rate::measure`] looks at both clocks: reading them a microsecond apart is an error of 1 in 50,000.
const CALIBRATION: Duration = Duration::from_millis(50);
/// The slowest counter that is believed, in Hz; with [`MAX_RATE`] it bounds what a driver can tell a worker.
const MIN_RATE: u64 = 1_000_000;
/// The fastest counter that is believed, in Hz.
const MAX_RATE: u64 = 100_000_000_000;

/// The counter's value now. Loads and stores before this are done by then.
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: both instructions touch no memory and need SSE2, which every x86-64 CPU has. RDTSC faults only if
    // CR4.TSD is set; neither Linux nor the VMM's app guest sets it (prctl(PR_SET_TSC) asks for it and is not used).
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// Ticks of the counter per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(u64);

impl Rate {
    /// A rate in Hz, if a counter can have it.
    #[must_use]
    pub fn new(hz: u64) -> Option<Self> {
        (MIN_RATE..=MAX_RATE).contains(&hz).then_some(Self(hz))
    }

    /// Compares the counter with the system's monotonic clock, if it counts at all.
    #[must_use]
    pub fn measure() -> Option<Self> {
        let (start, first) = (Instant::now(), ticks());
        std::thread::sleep(CALIBRATION);
        let (elapsed, last) = (start.elapsed(), ticks());
        let hz = u128::from(last.saturating_sub(first)) * 1_000_000_000 / elapsed.as_nanos().max(1);
        u64::try_from(hz).ok().and_then(Self::new)
    }

    /// Hz.
    #[must_use]
    pub fn hz(self) -> u64 {
        self.0
    }

    /// Nanoseconds that `ticks` take. Saturates.
    #[must_use]
    pub fn ns(self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.0);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let rate = Rate::new(2_000_000_000).unwrap();
        assert_eq!(rate.ns(0), 0);
        assert_eq!(rate.ns(3), 1);
        assert_eq!(rate.ns(2_000_000_000), 1_000_000_000);
        assert_eq!(Rate::new(MIN_RATE).unwrap().ns(u64::MAX), u64::MAX);
    }

    #[test]
    fn rates_are_checked_at_their_limits() {
        assert!(Rate::new(MIN_RATE).is_some() && Rate::new(MAX_RATE).is_some());
        assert!(
            Rate::new(MIN_RATE - 1).is_none() && Rate::new(MAX_RATE + 1).is_none() && Rate::new(0).is_none()
        );
    }

    #[test]
    fn the_counter_counts() {
        let first = ticks();
        assert!(ticks() > first);
        assert!(Rate::measure().is_some());
    }
}
