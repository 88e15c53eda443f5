//! The vDSO of an app guest: a shared object that the monitor maps into each program, with the functions that C
//! libraries look for there. They tell the time from the time stamp counter and the clock page, without a system call.
//! Where the page's words don't hold, they make the system call.
//!
//! Compiled by `build.rs`; freestanding, without relocations, and without anything that can panic.
#![no_std]

use core::arch::asm;
use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering, fence};

#[path = "page.rs"]
mod page;

const SYS_GETTIMEOFDAY: u64 = 96;
const SYS_TIME: u64 = 201;
const SYS_CLOCK_GETTIME: u64 = 228;
const SYS_CLOCK_GETRES: u64 = 229;

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_REALTIME_COARSE: i32 = 5;
const CLOCK_MONOTONIC_COARSE: i32 = 6;
const CLOCK_BOOTTIME: i32 = 7;

const NANOSECONDS: u64 = 1_000_000_000;
/// Looks at a page that is being changed. The monitor changes it while the program waits for it, so that only one
/// thread of many could ever need a second look.
const LOOKS: u32 = 16;

/// `struct timespec`; also `struct timeval`, whose second word counts microseconds.
#[repr(C)]
pub struct Time {
    seconds: u64,
    fraction: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_gettime(clock: i32, to: *mut Time) -> i32 {
    let offset = match clock {
        CLOCK_MONOTONIC | CLOCK_MONOTONIC_COARSE => None,
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE => Some(page::TO_REALTIME),
        CLOCK_BOOTTIME => Some(page::TO_BOOTTIME),
        // SAFETY: the kernel's own call, with the caller's arguments.
        _ => return unsafe { call(SYS_CLOCK_GETTIME, clock as u64, to as u64) as i32 },
    };
    match now(offset) {
        Some(now) => {
            // SAFETY: the caller gives a place for the time, as for clock_gettime.
            unsafe { to.write(Time { seconds: now / NANOSECONDS, fraction: now % NANOSECONDS }) };
            0
        }
        // SAFETY: as above.
        None => unsafe { call(SYS_CLOCK_GETTIME, clock as u64, to as u64) as i32 },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_gettimeofday(to: *mut Time, zone: *mut [u32; 2]) -> i32 {
    let Some(now) = now(Some(page::TO_REALTIME)) else {
        // SAFETY: the kernel's own call, with the caller's arguments.
        return unsafe { call(SYS_GETTIMEOFDAY, to as u64, zone as u64) as i32 };
    };
    if !to.is_null() {
        // SAFETY: the caller gives a place for the time, or none.
        unsafe { to.write(Time { seconds: now / NANOSECONDS, fraction: now % NANOSECONDS / 1000 }) };
    }
    if !zone.is_null() {
        // SAFETY: likewise.
        unsafe { zone.write([0; 2]) };
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_time(to: *mut u64) -> u64 {
    let Some(now) = now(Some(page::TO_REALTIME)) else {
        // SAFETY: the kernel's own call, with the caller's arguments.
        return unsafe { call(SYS_TIME, to as u64, 0) };
    };
    if !to.is_null() {
        // SAFETY: the caller gives a place for the seconds, or none.
        unsafe { to.write(now / NANOSECONDS) };
    }
    now / NANOSECONDS
}

/// The resolution is nobody's hot path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_getres(clock: i32, to: *mut Time) -> i32 {
    // SAFETY: the kernel's own call, with the caller's arguments.
    unsafe { call(SYS_CLOCK_GETRES, clock as u64, to as u64) as i32 }
}

/// There is one CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getcpu(cpu: *mut u32, node: *mut u32, _unused: u64) -> i32 {
    for to in [cpu, node] {
        if !to.is_null() {
            // SAFETY: the caller gives places for the numbers, or none.
            unsafe { to.write(0) };
        }
    }
    0
}

/// CLOCK_MONOTONIC, or the clock that differs from it by the word at `offset`. None where the page doesn't say.
#[inline(always)]
fn now(offset: Option<u64>) -> Option<u64> {
    for _ in 0..LOOKS {
        let before = word(page::SEQUENCE).load(Ordering::Acquire);
        let read = |offset| word(offset).load(Ordering::Relaxed);
        let (from, ticks, rate) = (read(page::FROM), read(page::TICKS), read(page::RATE));
        let monotonic = read(page::MONOTONIC).wrapping_add(offset.map_or(0, read));
        let counter = counter();
        fence(Ordering::Acquire);
        if before & 1 == 0 && read(page::SEQUENCE) == before {
            let passed = counter.wrapping_sub(from);
            return if passed < ticks {
                Some(monotonic.wrapping_add(passed.wrapping_mul(rate) >> page::SHIFT))
            } else {
                None
            };
        }
    }
    None
}

/// The time stamp counter: after every load before, and before every load behind.
#[inline(always)]
fn counter() -> u64 {
    // SAFETY: every x86-64 CPU has both, and the monitor lets programs read the counter.
    unsafe {
        _mm_lfence();
        let counter = _rdtsc();
        _mm_lfence();
        counter
    }
}

#[inline(always)]
fn word(offset: u64) -> &'static AtomicU64 {
    let address = core::ptr::with_exposed_provenance::<AtomicU64>((page::ADDRESS + offset) as usize);
    // SAFETY: the monitor has mapped the page there, readable, for as long as the program runs; it changes the words
    // as atomics.
    unsafe { &*address }
}

/// A system call with two arguments.
///
/// # Safety
/// The arguments are what that call takes.
unsafe fn call(number: u64, first: u64, second: u64) -> u64 {
    let answer;
    // SAFETY: the caller's promise; registers that SYSCALL changes are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") first,
            in("rsi") second,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}
