//! The time stamp counter of the CPU, and whether the host trusts it.

use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};
use std::fs;

/// CPUID leaf and bit of EDX: the counter runs at one rate in all power states (AMD64 APM volume 3, E.4.7; Intel
/// SDM volume 2, CPUID).
const POWER_LEAF: u32 = 0x8000_0007;
const INVARIANT: u32 = 1 << 8;
const HIGHEST_EXTENDED: u32 = 0x8000_0000;

/// The counter, read neither before what stands before it nor after what stands behind it.
#[must_use]
pub fn read() -> u64 {
    // SAFETY: every x86-64 CPU has both instructions; they touch no memory. Linux lets processes read the
    // counter unless they gave that up by prctl(PR_SET_TSC), which the VMM doesn't.
    unsafe {
        _mm_lfence();
        let counter = _rdtsc();
        _mm_lfence();
        counter
    }
}

/// Whether the counter can be a clock: the CPU says that its rate is constant, and the host's kernel, which compares
/// the counters of all CPUs with each other and with other clocks, offers it as one.
#[must_use]
pub fn is_clock() -> bool {
    let invariant = POWER_LEAF <= __cpuid(HIGHEST_EXTENDED).eax && __cpuid(POWER_LEAF).edx & INVARIANT != 0;
    let offered = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    invariant && offered.is_ok_and(|offered| offered.split_whitespace().any(|name| name == "tsc"))
}
