//! Clocks, sleeping, and the futex of a single thread.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_getres as host_getres};
use syscalls::Sysno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::guest::app::process::{Process, Waiting};
use crate::guest::app::syscalls::{Answer, Arguments, unknown};

/// `struct timespec` on x86-64; also `struct timeval`, whose second word counts microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Time {
    /// Seconds.
    pub(super) seconds: i64,
    /// Nanoseconds, or microseconds of a timeval.
    pub(super) fraction: i64,
}

/// Clock ticks a second, as times counts them (USER_HZ).
const TICKS: u128 = 100;
/// How long a wait for a time of day may miss that the clock was set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const NANOSECONDS: i64 = 1_000_000_000;

impl Time {
    /// As a duration; EINVAL as Linux has it for what is none.
    pub(super) fn duration(self) -> Result<Duration, Errno> {
        let seconds = u64::try_from(self.seconds).map_err(|_| Errno::EINVAL)?;
        match u32::try_from(self.fraction) {
            Ok(fraction) if i64::from(fraction) < NANOSECONDS => Ok(Duration::new(seconds, fraction)),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl From<TimeSpec> for Time {
    fn from(time: TimeSpec) -> Self {
        Self { seconds: time.tv_sec(), fraction: time.tv_nsec() }
    }
}

/// Whether a clock counts a thread's CPU time, by its number in a register.
pub(super) fn is_of_a_thread(id: u64) -> bool {
    [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID].map(i64::from).contains(&id.cast_signed())
}

/// The host's clock for the program's. CPU time is that of the thread that runs the vCPU.
fn clock(id: u64) -> Result<ClockId, Errno> {
    let id = i32::try_from(id).map_err(|_| Errno::EINVAL)?;
    match id {
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID => {
            Ok(ClockId::CLOCK_THREAD_CPUTIME_ID)
        }
        libc::CLOCK_REALTIME
        | libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_REALTIME_COARSE
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME
        | libc::CLOCK_TAI => Ok(ClockId::from_raw(id)),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn clock_gettime(process: &mut Process, &[id, to, ..]: &Arguments) -> Answer {
    let now = process.clock.now(clock(id)?)?;
    process.memory().write(to, &Time::from(now))?;
    Ok(0)
}

pub(super) fn clock_getres(process: &mut Process, &[id, to, ..]: &Arguments) -> Answer {
    let resolution = Time::from(host_getres(clock(id)?)?);
    if to != 0 {
        process.memory().write(to, &resolution)?;
    }
    Ok(0)
}

pub(super) fn gettimeofday(process: &mut Process, &[to, zone, ..]: &Arguments) -> Answer {
    let now = Time::from(process.clock.now(ClockId::CLOCK_REALTIME)?);
    if to != 0 {
        process.memory().write(to, &Time { fraction: now.fraction / 1000, ..now })?;
    }
    if zone != 0 {
        process.memory().write(zone, &[0_u32; 2])?;
    }
    Ok(0)
}

pub(super) fn time(process: &mut Process, &[to, ..]: &Arguments) -> Answer {
    let now = process.clock.now(ClockId::CLOCK_REALTIME)?.tv_sec();
    if to != 0 {
        process.memory().write(to, &now)?;
    }
    Ok(now.cast_unsigned())
}

pub(super) fn nanosleep(process: &mut Process, &[span, ..]: &Arguments) -> Answer {
    let span: Time = process.memory().read(span)?;
    sleep(process, span.duration()?).map(|()| 0)
}

/// Lets the present call's time pass.
///
/// # Errors
/// EINTR when the monitor interrupts it: the call is made again then, and waits for the rest.
pub(super) fn sleep(process: &mut Process, span: Duration) -> Result<(), Errno> {
    let rest = TimeSpec::from(process.remaining(span)?);
    nix::time::clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &rest).map(drop)
}

pub(super) fn clock_nanosleep(process: &mut Process, &[id, flags, span, ..]: &Arguments) -> Answer {
    let span: Time = process.memory().read(span)?;
    let span = span.duration()?;
    let flags = ClockNanosleepFlags::from_bits_truncate(i32::try_from(flags).map_err(|_| Errno::EINVAL)?);
    let clock = clock(id)?;
    if clock == ClockId::CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL);
    }
    if !flags.contains(ClockNanosleepFlags::TIMER_ABSTIME) {
        return sleep(process, span).map(|()| 0);
    }
    // Some of the program's clocks aren't the host's: what is left is what both agree on, and a clock that somebody
    // sets meanwhile is looked at again.
    loop {
        let now = Duration::from(process.clock.now(clock)?);
        if span <= now {
            return Ok(0);
        }
        let rest = TimeSpec::from((span - now).min(LOOK_AGAIN));
        nix::time::clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &rest)?;
    }
}

pub(super) fn times(process: &mut Process, &[to, ..]: &Arguments) -> Answer {
    let ticks =
        |time: TimeSpec| u64::try_from(Duration::from(time).as_millis() * TICKS / 1000).unwrap_or(u64::MAX);
    if to != 0 {
        let used = ticks(process.clock.now(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        process.memory().write(to, &[used, 0, 0, 0])?;
    }
    Ok(ticks(process.clock.now(ClockId::CLOCK_MONOTONIC)?))
}

/// The CPU time of the thread that runs the vCPU; the rest is zero, and children there are none.
pub(super) fn getrusage(process: &mut Process, &[who, to, ..]: &Arguments) -> Answer {
    let who = (who & 0xffff_ffff) as u32 as i32;
    let used = match who {
        libc::RUSAGE_SELF | libc::RUSAGE_THREAD => {
            Time::from(process.clock.now(ClockId::CLOCK_THREAD_CPUTIME_ID)?)
        }
        libc::RUSAGE_CHILDREN => Time { seconds: 0, fraction: 0 },
        _ => return Err(Errno::EINVAL),
    };
    let mut usage = [0_i64; size_of::<libc::rusage>() / 8];
    usage[..2].copy_from_slice(&[used.seconds, used.fraction / 1000]);
    if who != libc::RUSAGE_CHILDREN {
        // Most resident memory so far, in KiB: what is charged now is as near as is known.
        usage[4] = i64::try_from(process.space.charged() >> 10).unwrap_or(i64::MAX);
    }
    process.memory().write(to, &usage)?;
    Ok(0)
}

/// No timer can be set, so none runs.
pub(super) fn getitimer(process: &mut Process, &[_, to, ..]: &Arguments) -> Answer {
    process.memory().write(to, &[0_u64; 4]).map(|()| 0)
}

/// Without delivery of signals, a timer can only be switched off.
pub(super) fn setitimer(process: &mut Process, &[which, new, old, ..]: &Arguments) -> Answer {
    let [_, value]: [[i64; 2]; 2] = if new == 0 { [[0; 2]; 2] } else { process.memory().read(new)? };
    if value != [0; 2] {
        return unknown(process, Sysno::setitimer);
    }
    if old == 0 { Ok(0) } else { getitimer(process, &[which, old, 0, 0, 0, 0]) }
}

/// With one thread, nobody else can change the word: a wait ends by its time, if at all.
pub(super) fn futex(process: &mut Process, &[address, operation, value, timeout, ..]: &Arguments) -> Answer {
    let operation = i32::try_from(operation & 0xffff_ffff).map_err(|_| Errno::ENOSYS)?;
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => Ok(0),
        kind @ (libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET) => {
            let word: u32 = process.memory().read(address)?;
            if u64::from(word) != value & 0xffff_ffff {
                return Err(Errno::EAGAIN);
            }
            let clock = if operation & libc::FUTEX_CLOCK_REALTIME == 0 {
                ClockId::CLOCK_MONOTONIC
            } else {
                ClockId::CLOCK_REALTIME
            };
            wait(process, timeout, kind == libc::FUTEX_WAIT_BITSET, clock)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn wait(process: &mut Process, timeout: u64, absolute: bool, clock: ClockId) -> Answer {
    if timeout == 0 {
        return wait_for_ever(process, "a futex that nobody can wake: it's its only thread");
    }
    let until: Time = process.memory().read(timeout)?;
    let until = until.duration()?;
    let span = if absolute { until.saturating_sub(Duration::from(process.clock.now(clock)?)) } else { until };
    sleep(process, span)?;
    Err(Errno::ETIMEDOUT)
}

/// Nobody is there who could end the wait but the monitor, which has the call made again.
pub(super) fn wait_for_ever(process: &mut Process, what: &'static str) -> Answer {
    let call = process.call;
    if process.waiting.is_none_or(|waiting| waiting.call != call) {
        tracing::warn!("the program waits for {what}");
        process.waiting = Some(Waiting { call, until: Duration::MAX });
    }
    nix::unistd::pause();
    Err(Errno::EINTR)
}
