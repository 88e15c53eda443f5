//! The other way to give each input a prepared state: a child process for each, which parses on its own copy of all
//! memory and ends.

use std::io;

use crate::fuzz::{Verdict, judge};

/// A child that parses an input.
#[derive(Debug)]
#[must_use = "a child that nobody waits for stays a zombie"]
pub struct Child {
    pid: libc::pid_t,
}

impl Child {
    /// Makes a child, which parses `input` on its copy of `state`. That of this process is not touched.
    ///
    /// # Errors
    /// There can't be a child: too many processes, no memory for tables; or the machine has no fork.
    pub fn judging(state: &mut [u64], input: &[u8]) -> io::Result<Self> {
        // SAFETY: the child has a copy of this process's memory, and of its threads only this one. It parses and ends
        // without returning from here. Parsing takes locks only if it panics: the allocator's, which glibc makes
        // usable in a child, and that of the panic hook for reading, which is held for writing only while `judge` is
        // called for the first time.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let code = judge(state, input).code();
                // SAFETY: ends the process at once. What this process's buffers hold is written by this process.
                unsafe { libc::_exit(code.into()) }
            }
            pid => Ok(Self { pid }),
        }
    }

    /// Waits for the child's end.
    ///
    /// # Errors
    /// A signal ended it, or there is no such child any more.
    pub fn verdict(self) -> io::Result<Verdict> {
        let mut status = 0;
        loop {
            // SAFETY: waits for a child of ours and writes its status to an integer of ours.
            let pid = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
            if pid == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        match u8::try_from(libc::WEXITSTATUS(status)) {
            Ok(code) if libc::WIFEXITED(status) => Ok(Verdict::of_code(code)),
            _ => Err(io::Error::other(format!("a child was ended by signal {}", libc::WTERMSIG(status)))),
        }
    }
}
