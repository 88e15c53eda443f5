//! A child process that holds a copy of this one's memory and does nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// What children watch: readable when the process that they belong to ends.
#[derive(Debug)]
pub(crate) struct Lifeline(OwnedFd);

impl Lifeline {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(pidfd_open(getpid(), PidfdFlags::empty())?))
    }
}

/// The memory of this process as it was when the value was made. Dropping it ends the child.
#[derive(Debug)]
pub(crate) struct FrozenProcess {
    pid: libc::pid_t,
}

impl FrozenProcess {
    /// Makes a child. It shares descriptors and working directory with this process, so that what the
    /// program closes is closed, and it sends no SIGCHLD, so that the program's `wait` never sees it.
    pub(crate) fn new(lifeline: &Lifeline) -> io::Result<Self> {
        let signals = BlockedSignals::new()?;
        let flags = libc::CLONE_FILES | libc::CLONE_FS;
        // SAFETY: without CLONE_VM the child has a copy of this memory and goes on on its copy of this
        // stack; of this process's threads only the calling one is in it, which may hold locks that
        // nobody releases: the child calls nothing that takes one.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            stay(lifeline.0.as_raw_fd());
        }
        drop(signals);
        match libc::pid_t::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Self { pid }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Whether the child is there: anybody may have killed it.
    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: all zeros is a valid siginfo.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = libc::id_t::try_from(self.pid).unwrap_or_default();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: asks about a child of ours and leaves it as it is; the kernel fills in `info`.
        let result = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, flags) };
        // SAFETY: waitid filled in the fields of a child's state, or left them zeros.
        result == 0 && unsafe { info.si_pid() } == 0
    }

    /// The child's memory, to be read. Not by process_vm_readv: that pins pages, for which the kernel
    /// gives the child a copy of each page that it shares.
    pub(crate) fn memory(&self) -> io::Result<FrozenMemory> {
        File::open(format!("/proc/{}/mem", self.pid)).map(FrozenMemory)
    }

    /// Ends the child without waiting until its memory is given back; [`DyingProcess::is_gone`] does.
    pub(crate) fn end(self) -> DyingProcess {
        let dying = DyingProcess { pid: self.pid, gone: false };
        dying.kill();
        std::mem::forget(self);
        dying
    }
}

impl Drop for FrozenProcess {
    fn drop(&mut self) {
        let dying = DyingProcess { pid: self.pid, gone: false };
        dying.kill();
    }
}

/// The memory of a [`FrozenProcess`]. It stays readable until the child ends.
#[derive(Debug)]
pub(crate) struct FrozenMemory(File);

impl FrozenMemory {
    /// Fills `buffer` with the bytes from `address` on.
    pub(crate) fn read(&self, address: usize, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, address as u64)
    }
}

/// A child that was killed and not yet reaped. Dropping it waits.
#[derive(Debug)]
pub(crate) struct DyingProcess {
    pid: libc::pid_t,
    gone: bool,
}

impl DyingProcess {
    /// Reaps the child if it is over.
    pub(crate) fn is_gone(&mut self) -> bool {
        self.gone = self.gone || self.reap(libc::WNOHANG) != 0;
        self.gone
    }

    fn kill(&self) {
        // SAFETY: the pid is that of a child of ours that was not reaped, so it is nobody else's.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// 0 if the child is there yet.
    fn reap(&self, flags: libc::c_int) -> libc::pid_t {
        loop {
            // SAFETY: waits for a child of ours; a null status is allowed.
            let pid = unsafe { libc::waitpid(self.pid, ptr::null_mut(), flags | libc::__WALL) };
            if pid >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return pid;
            }
        }
    }
}

impl Drop for DyingProcess {
    fn drop(&mut self) {
        if !self.gone {
            self.reap(0);
        }
    }
}

/// What the child does until the process that it belongs to ends, or kills it.
fn stay(lifeline: libc::c_int) -> ! {
    // SAFETY: a name of less than 16 bytes, for whoever looks at the process list.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"cairn-snapshot".as_ptr(), 0, 0, 0) };
    let mut watched = libc::pollfd { fd: lifeline, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: poll reads and writes the one entry, a local.
        let ready = unsafe { libc::poll(&raw mut watched, 1, -1) };
        // Every signal is blocked, so an error means that there is no lifeline to wait for.
        if ready != 0 {
            // SAFETY: ends the child without running anything of the program's.
            unsafe { libc::_exit(0) };
        }
    }
}

/// All signals are blocked in this thread while it lives: a child that starts with them blocked never
/// runs a handler of the program.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> io::Result<Self> {
        // SAFETY: all zeros is a valid set.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to locals.
        let result = unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before)
        };
        if result == 0 { Ok(Self(before)) } else { Err(io::Error::from_raw_os_error(result)) }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: puts back the mask that `new` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
