//! Guest program: its clocks, by the vDSO and by system calls, beside each other and beside the host's.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// How far a clock may be off the host's (vmm/src/guest/app/clock.rs), in nanoseconds.
const BOUND: i64 = 100_000;
const SECOND: i64 = 1_000_000_000;
/// The last two are allowed to be late.
const CLOCKS: [i32; 5] = [
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_REALTIME,
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_MONOTONIC_COARSE,
    libc::CLOCK_REALTIME_COARSE,
];
const FINE: usize = 3;

fn main() {
    vdso_is_where_linux_has_it();
    let start = Instant::now();
    let mut last = CLOCKS.map(by_library);
    let mut rounds = 0_u32;
    // Through several lines, of all lengths.
    while start.elapsed() < Duration::from_millis(500) {
        rounds += 1;
        for (clock, last) in CLOCKS.into_iter().zip(&mut last) {
            let now = if rounds.is_multiple_of(500) { by_call(clock) } else { by_library(clock) };
            assert!(*last <= now, "clock {clock} went back from {last} to {now}");
            *last = now;
        }
        if rounds.is_multiple_of(100) {
            is_the_hosts();
        }
    }
    for pause in [1, 30, 130, 250] {
        std::thread::sleep(Duration::from_millis(pause));
        for (clock, last) in CLOCKS.into_iter().zip(&mut last).take(FINE) {
            let now = by_library(clock);
            assert!(*last + i64::try_from(pause).unwrap() * SECOND / 1000 - BOUND <= now, "clock {clock}");
            *last = now;
        }
        is_the_hosts();
    }
    same_by_other_calls();
    println!("all held");
}

/// CLOCK_TAI is always the host's own, and a whole number of seconds ahead of CLOCK_REALTIME.
fn is_the_hosts() {
    let before = by_library(libc::CLOCK_REALTIME);
    let host = by_call(libc::CLOCK_TAI);
    let after = by_library(libc::CLOCK_REALTIME);
    let ahead = (host - before + SECOND / 2).div_euclid(SECOND) * SECOND;
    let (before, after) = (before + ahead - BOUND, after + ahead + BOUND);
    assert!(before <= host && host <= after, "{host} is not in {before}..{after}");
}

fn same_by_other_calls() {
    let before = by_library(libc::CLOCK_REALTIME);
    // SAFETY: a null pointer is allowed.
    let seconds = unsafe { libc::time(std::ptr::null_mut()) };
    let mut time = MaybeUninit::<libc::timeval>::uninit();
    // SAFETY: there is room for the time, and no zone is asked for.
    assert_eq!(unsafe { libc::gettimeofday(time.as_mut_ptr(), std::ptr::null_mut()) }, 0);
    // SAFETY: the call has succeeded.
    let time = unsafe { time.assume_init() };
    let after = by_library(libc::CLOCK_REALTIME);
    assert!(before / SECOND <= seconds && seconds <= after / SECOND);
    let microseconds = time.tv_sec * 1_000_000 + time.tv_usec;
    assert!(before / 1000 <= microseconds && microseconds <= after / 1000);
    let mut cpu = 9;
    // SAFETY: there is room for the CPU's number.
    assert_eq!(unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, 0, 0) }, 0);
    // SAFETY: the call has no arguments.
    assert_eq!(cpu, unsafe { libc::sched_getcpu() });
}

fn vdso_is_where_linux_has_it() {
    // SAFETY: the call reads the auxiliary vector.
    let header = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("a mapping named [vdso]");
    assert!(line.starts_with(&format!("{header:x}-")) && line.contains(" r-xp "), "{line} and {header:x}");
}

fn by_library(clock: i32) -> i64 {
    let mut time = MaybeUninit::uninit();
    // SAFETY: there is room for the time.
    let result = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: the call has succeeded.
    nanoseconds(unsafe { time.assume_init() })
}

fn by_call(clock: i32) -> i64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: there is room for the time.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: the call has succeeded.
    nanoseconds(unsafe { time.assume_init() })
}

fn nanoseconds(time: libc::timespec) -> i64 {
    time.tv_sec * SECOND + time.tv_nsec
}
