//! The clock page: offsets of its words, which the monitor writes and the vDSO reads. Both include this file.

/// The guest-virtual address of the page.
pub(super) const ADDRESS: u64 = (512 << 30) + 0x1_6000;
/// A count that is odd while the other words are being changed.
pub(super) const SEQUENCE: u64 = 0;
/// The time stamp counter's value from which on the other words hold.
pub(super) const FROM: u64 = 8;
/// For how many ticks they hold; 0 when the counter is no clock.
pub(super) const TICKS: u64 = 16;
/// Nanoseconds for each tick, times 2^SHIFT.
pub(super) const RATE: u64 = 24;
/// CLOCK_MONOTONIC at FROM, in nanoseconds.
pub(super) const MONOTONIC: u64 = 32;
/// CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds, modulo 2^64.
pub(super) const TO_REALTIME: u64 = 40;
/// CLOCK_BOOTTIME minus CLOCK_MONOTONIC, likewise.
pub(super) const TO_BOOTTIME: u64 = 48;
/// See RATE.
pub(super) const SHIFT: u32 = 32;
