//! Which process made something. Unsafe: owns a page that a fork wipes.
//!
//! A forked child has a copy of its parent's session object. The session isn't its own, and the memory that
//! is shared with the device isn't even mapped in it. So everything that reaches for that memory asks first,
//! and asking must cost nothing: a look at a page of which a child finds zeros.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::PAGE;

/// What a child finds in the page.
const WIPED: u32 = 0;

/// A process, told from its forked children and from its ancestors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin(u32);

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        /// Not in the wiped page: a child goes on counting where its parent was, so that no number of an
        /// ancestor comes again.
        static NEXT: AtomicU32 = AtomicU32::new(WIPED + 1);
        let Some(mark) = mark() else { return Self(WIPED) };
        match mark.load(Ordering::Acquire) {
            WIPED => {
                let new = NEXT.fetch_add(1, Ordering::Relaxed);
                match mark.compare_exchange(WIPED, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => Self(new),
                    Err(of_another_thread) => Self(of_another_thread),
                }
            }
            number => Self(number),
        }
    }

    /// Whether that is this process. Always, where the kernel can't wipe pages: there the device refuses a
    /// child by its address space.
    pub(crate) fn is_here(self) -> bool {
        mark().is_none_or(|mark| mark.load(Ordering::Relaxed) == self.0)
    }

    /// Has no child inherit the mapping of `len` bytes at `start`. A child's copy would be another page than
    /// the device's, and the copying would write-protect the parent's in the middle of a request.
    ///
    /// Not where a child wouldn't know that it's one: it would die of the first access.
    ///
    /// # Safety
    /// It's a mapping of the caller's, of whole pages, and the caller accesses and unmaps it only where
    /// [`is_here`](Self::is_here) of this origin holds.
    pub(crate) unsafe fn keep(self, start: NonNull<c_void>, len: usize) -> Result<(), Errno> {
        if self.0 == WIPED {
            return Ok(());
        }
        // SAFETY: by this function's contract. In this process the advice changes nothing.
        unsafe { madvise(start.as_ptr(), len, Advice::LinuxDontFork) }
    }
}

/// The number of this process, in a page that a fork wipes; `None` where the kernel can't do that.
fn mark() -> Option<&'static AtomicU32> {
    static MARK: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();
    *MARK.get_or_init(|| {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a null address lets the kernel choose free address space, so no memory is replaced.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, prot, flags) }.ok()?;
        // SAFETY: this is the mapping just made, whose content nobody relies on.
        unsafe { madvise(page, PAGE, Advice::LinuxWipeOnFork) }.ok()?;
        // SAFETY: the mapping is aligned to a page, larger than the number, zeros, which are an `AtomicU32`,
        // and never unmapped; it's only ever accessed by this reference.
        Some(unsafe { AtomicU32::from_ptr(page.cast()) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `child` in a forked child and says whether it returned true.
    fn holds_in_a_child(child: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child uses atomics and system calls only, and ends without unwinding.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = i32::from(!child());
            // SAFETY: ends the child at once, running no destructors of the parent's.
            unsafe { libc::_exit(code) };
        }
        assert!(pid > 0, "fork failed");
        let mut status = -1;
        // SAFETY: waits for the child just made; `status` is a valid place for the result.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }

    #[test]
    fn a_child_is_another_and_so_is_its_child() {
        let parent = Origin::here();
        assert_eq!(parent, Origin::here());
        assert!(parent.is_here());
        assert!(holds_in_a_child(|| {
            let strange = !parent.is_here();
            let child = Origin::here();
            strange
                && child.is_here()
                && child != parent
                && !parent.is_here()
                && holds_in_a_child(|| {
                    let neither = !child.is_here() && !parent.is_here();
                    let grandchild = Origin::here();
                    neither && grandchild.is_here() && !child.is_here() && !parent.is_here()
                })
        }));
        assert!(parent.is_here());
    }
}
