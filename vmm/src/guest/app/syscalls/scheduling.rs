//! Priorities and CPUs: the program is alone on one CPU, so they are remembered or refused, and change nothing.

use nix::errno::Errno;

use crate::guest::app::process::{PID, Process};
use crate::guest::app::syscalls::time::Time;
use crate::guest::app::syscalls::{Answer, Arguments, int};

/// The range of nice values (setpriority(2)).
const NICE: std::ops::RangeInclusive<i32> = -20..=19;
/// The highest priority of SCHED_FIFO and SCHED_RR; the lowest is 1.
const MOST_REAL_TIME: u64 = 99;

/// The kernel answers 20 minus the nice value, which is never negative.
pub(super) fn getpriority(process: &mut Process, &[which, who, ..]: &Arguments) -> Answer {
    check_target(which, who)?;
    u64::try_from(20 - process.nice).map_err(|_| Errno::EINVAL)
}

/// Only root may be less nice than before, and the program has no rights of the host's root.
pub(super) fn setpriority(process: &mut Process, &[which, who, nice, ..]: &Arguments) -> Answer {
    check_target(which, who)?;
    let nice = int(nice).clamp(*NICE.start(), *NICE.end());
    if nice < process.nice {
        return Err(Errno::EACCES);
    }
    process.nice = nice;
    Ok(0)
}

/// The program itself, its process group, or all processes of its user: each is the program.
fn check_target(which: u64, who: u64) -> Result<(), Errno> {
    match u32::try_from(int(which)).map_err(|_| Errno::EINVAL)? {
        libc::PRIO_PROCESS | libc::PRIO_PGRP if who != 0 && who != PID => Err(Errno::ESRCH),
        libc::PRIO_PROCESS | libc::PRIO_PGRP | libc::PRIO_USER => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn getscheduler(&[of, ..]: &Arguments) -> Answer {
    check_self(of).map(|()| libc::SCHED_OTHER.cast_unsigned().into())
}

/// The ordinary policy can be asked for; real-time ones would need rights.
pub(super) fn setscheduler(process: &mut Process, &[of, policy, parameters, ..]: &Arguments) -> Answer {
    check_self(of)?;
    let priority: i32 = process.memory().read(parameters)?;
    match int(policy) {
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE if priority == 0 => Ok(0),
        libc::SCHED_FIFO | libc::SCHED_RR => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn getparam(process: &mut Process, &[of, to, ..]: &Arguments) -> Answer {
    check_self(of)?;
    process.memory().write(to, &0_i32).map(|()| 0)
}

pub(super) fn most_priority(&[policy, ..]: &Arguments) -> Answer {
    bound(policy, MOST_REAL_TIME)
}

pub(super) fn least_priority(&[policy, ..]: &Arguments) -> Answer {
    bound(policy, 1)
}

fn bound(policy: u64, real_time: u64) -> Answer {
    match int(policy) {
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE => Ok(0),
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(real_time),
        _ => Err(Errno::EINVAL),
    }
}

/// Outside of SCHED_RR there is no time slice to tell.
pub(super) fn round_robin_interval(process: &mut Process, &[of, to, ..]: &Arguments) -> Answer {
    check_self(of)?;
    process.memory().write(to, &Time { seconds: 0, fraction: 0 }).map(|()| 0)
}

/// The one CPU must be in the set.
pub(super) fn setaffinity(process: &mut Process, &[of, size, from, ..]: &Arguments) -> Answer {
    check_self(of)?;
    if size == 0 {
        return Err(Errno::EINVAL);
    }
    let first: u8 = process.memory().read(from)?;
    if first & 1 == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

fn check_self(of: u64) -> Result<(), Errno> {
    if of == 0 || of == PID { Ok(()) } else { Err(Errno::ESRCH) }
}
