//! CPU time of a process: its own from within, another's from its scheduler statistics.

use std::fs;
use std::io;
use std::path::Path;

/// CPU time of this process, all its threads, and its children that have ended, in ns.
///
/// # Errors
/// What the system said.
pub fn own_ns() -> io::Result<u64> {
    Ok(process_clock()?.saturating_add(ended_children()?))
}

/// Time that all present threads of the process ran, in ns, by the first field of their schedstat files
/// (Documentation/scheduler/sched-stats.rst).
///
/// # Errors
/// There is no such process, or its statistics can't be read.
pub fn of_process_ns(pid: u32) -> io::Result<u64> {
    let mut total = 0_u64;
    for task in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => total = total.saturating_add(running_ns(&text)?),
            // The thread ended between the listing and here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

fn running_ns(schedstat: &str) -> io::Result<u64> {
    let first = schedstat.split_ascii_whitespace().next().and_then(|field| field.parse().ok());
    first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a schedstat: {schedstat:?}")))
}

fn process_clock() -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours that nothing else refers to during the call, and the kernel writes
    // no more than that.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(nanoseconds(time.tv_sec, time.tv_nsec, 1))
}

fn ended_children() -> io::Result<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to room for one rusage, which is what the kernel writes.
    let status = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: rusage is integers only, for which zero bytes are a value, and the call filled it.
    let usage = unsafe { usage.assume_init() };
    let (user, system) = (usage.ru_utime, usage.ru_stime);
    Ok(nanoseconds(user.tv_sec, user.tv_usec, 1000).saturating_add(nanoseconds(
        system.tv_sec,
        system.tv_usec,
        1000,
    )))
}

/// `seconds` and `parts` of so many ns each; the kernel gives no negative ones.
fn nanoseconds(seconds: i64, parts: i64, part_ns: u64) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let parts = u64::try_from(parts).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(parts.saturating_mul(part_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works until this process has used more CPU time than `before`.
    fn work_beyond(before: u64, now: impl Fn() -> u64) {
        while now() <= before {
            std::hint::black_box((0..100_000_u64).sum::<u64>());
        }
    }

    #[test]
    fn work_takes_cpu_time() {
        let before = own_ns().unwrap();
        work_beyond(before, || own_ns().unwrap());
    }

    #[test]
    fn work_is_seen_from_outside() {
        let seen = || of_process_ns(std::process::id()).unwrap();
        work_beyond(seen(), seen);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        // Beyond the largest pid that Linux gives.
        assert!(of_process_ns(u32::MAX).is_err());
    }

    #[test]
    fn the_first_field_of_a_schedstat_is_the_running_time() {
        assert_eq!(running_ns("123 45 6\n").unwrap(), 123);
        assert!(running_ns("").is_err());
        assert!(running_ns("x 1 2").is_err());
    }
}
