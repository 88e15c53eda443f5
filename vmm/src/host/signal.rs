//! The signal that makes a thread's system call end, and one that must end nothing.

use nix::errno::Errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// A thread of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thread(libc::pid_t);

impl Thread {
    /// The calling thread.
    #[must_use]
    pub fn current() -> Self {
        Self(nix::unistd::gettid().as_raw())
    }

    /// Makes a system call that the thread waits in end with EINTR. A thread that has ended is left alone.
    ///
    /// [`prepare`] must have been called: without it the signal ends the process.
    pub fn interrupt(self) {
        // SAFETY: the call takes three integers and touches no memory.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, signal()) };
    }
}

/// Makes the signal one that does nothing but interrupt.
///
/// # Errors
/// What sigaction says.
pub fn prepare() -> Result<(), Errno> {
    register_signal_handler(signal(), ignore).map_err(|error| Errno::from_raw(error.errno()))
}

/// Makes a file that would get longer than the limit (RLIMIT_FSIZE) an error, EFBIG, and not the end of the process.
///
/// # Errors
/// What sigaction says.
pub fn survive_long_files() -> Result<(), Errno> {
    register_signal_handler(libc::SIGXFSZ, ignore).map_err(|error| Errno::from_raw(error.errno()))
}

/// The first real-time signal: nobody else's.
fn signal() -> i32 {
    SIGRTMIN()
}

/// Runs in the interrupted thread. That its call ends is all that is wanted.
extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    #[test]
    fn a_waiting_thread_is_interrupted() {
        prepare().unwrap();
        let (mut reader, _writer) = std::io::pipe().unwrap();
        assert!(reader.as_fd().try_clone_to_owned().is_ok());
        let (tell, told) = mpsc::channel();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                tell.send(Thread::current()).unwrap();
                let error = reader.read(&mut [0]).unwrap_err();
                done.store(true, Ordering::Release);
                assert_eq!(error.kind(), ErrorKind::Interrupted);
            });
            let thread = told.recv().unwrap();
            // It may not be waiting yet: a signal that comes before is lost, as it is meant to be.
            while !done.load(Ordering::Acquire) {
                thread.interrupt();
                std::thread::yield_now();
            }
        });
    }
}
