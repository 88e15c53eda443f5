//! Processes and how they end.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

/// This program's own file.
pub(crate) const ITSELF: &str = "/proc/self/exe";

/// The kernel ends this process when its parent ends: no scenario leaves anybody behind.
pub(crate) fn die_with_parent() {
    // SAFETY: sets an attribute of this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// This process and its children stay on the first CPU: what one of them frees there, the next is given.
pub(crate) fn stay_on_one_cpu() -> Result<()> {
    // SAFETY: all zeros is an empty set.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a local, and the kernel reads it.
    let result = unsafe {
        libc::CPU_SET(0, &mut cpus);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("staying on one CPU") }
}

/// A descriptor of a process.
pub(crate) fn descriptor(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor and touches no memory.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(descriptor) {
        // SAFETY: new, and nobody else's.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until a child ends, but not longer than `limit`. Says whether it ended; it stays to be reaped.
pub(crate) fn wait_until_ended(pid: u32, limit: Duration) -> Result<bool> {
    let child = descriptor(pid).context("watching a process")?;
    let mut watched = libc::pollfd { fd: child.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: reads and writes the one entry, a local.
    match unsafe { libc::poll(&raw mut watched, 1, limit) } {
        -1 => Err(io::Error::last_os_error()).context("watching a process"),
        ready => Ok(ready > 0),
    }
}

/// Ends all of a process group, as nobody can refuse.
pub(crate) fn kill_group(leader: u32) {
    if let Ok(leader) = libc::pid_t::try_from(leader) {
        // SAFETY: a signal to a group of this program's own making, whose leader wasn't reaped yet.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Ends a child, as it can't refuse.
pub(crate) fn kill(pid: libc::pid_t) {
    // SAFETY: a signal to a child that wasn't reaped yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Waits for a child; its status as `wait` gives it.
pub(crate) fn wait(pid: libc::pid_t) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: waits for a child and writes a local.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("waiting for a process");
        }
    }
}
