//! Holding writers off while a checkpoint is copied beside the running program.
//!
//! Frozen pages are write-protected by userfaultfd in the monitor's own mapping. KVM drops its entries for them, so
//! a guest's write ends up in the host's page fault and waits there, as does a write that the monitor or a system
//! call makes for the program, and whatever locks the writer has. What takes a page and lets its writer go is one
//! thread, which needs none of those.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_engine::{Copying, FrozenPages, PAGE_SIZE, PageSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::host::userfault::Userfault;
use crate::memory::layout::to_usize;
use crate::memory::written::WrittenPages;

/// What trackers freeze pages with, and what the copying thread waits at.
#[derive(Debug)]
pub struct Freezer {
    userfault: Userfault,
    /// Work for the copying thread that it hasn't seen yet.
    begun: Mutex<Option<Arc<Copying>>>,
    wake: EventFd,
    stop: AtomicBool,
}

/// Frozen pages of one region.
#[derive(Debug)]
struct Frozen {
    freezer: Arc<Freezer>,
    /// The region's first byte in this process.
    base: usize,
    written: Arc<WrittenPages>,
}

impl Freezer {
    /// Without a thread yet that [copies](Self::copy).
    ///
    /// # Errors
    /// The host has no userfaultfd that stops the kernel's own writes, or the monitor may not use it.
    pub fn open() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (begun, stop) = (Mutex::new(None), AtomicBool::new(false));
        Ok(Self { userfault: Userfault::open()?, begun, wake, stop })
    }

    /// Has the copying thread do that work.
    pub fn begin(&self, copying: &Arc<Copying>) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(copying));
        self.wake();
    }

    /// Copies what is begun, and first what somebody waits to write, until [`stop`](Self::stop). Nobody may be
    /// frozen without a thread that does so.
    pub fn copy(&self) {
        let mut copying: Option<Arc<Copying>> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
            copying = begun.or(copying);
            self.let_writers_go(copying.as_deref());
            if !copying.as_ref().is_some_and(|copying| copying.copy_some()) {
                self.wait();
            }
        }
    }

    /// Ends the copying thread. Everybody who could write frozen pages has ended.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Makes the memory `span` of this process freezable.
    pub(super) fn register(&self, span: &Range<usize>) -> io::Result<()> {
        self.userfault.register(span)
    }

    /// Ends [`register`](Self::register).
    pub(super) fn unregister(&self, span: &Range<usize>) {
        if let Err(error) = self.userfault.unregister(span) {
            tracing::debug!(%error, "a region's memory stays registered with userfaultfd");
        }
    }

    /// Freezes the pages `held` of the region whose first byte is at `base`.
    pub(super) fn freeze(
        self: &Arc<Self>,
        base: usize,
        held: &PageSet,
        written: &Arc<WrittenPages>,
    ) -> io::Result<Box<dyn FrozenPages>> {
        let frozen = Frozen { freezer: Arc::clone(self), base, written: Arc::clone(written) };
        for run in held.runs() {
            if let Err(error) = self.userfault.protect(&span(base, &run)) {
                frozen.thaw(0..run.end);
                return Err(error);
            }
        }
        Ok(Box::new(frozen))
    }

    fn let_writers_go(&self, copying: Option<&Copying>) {
        loop {
            match self.userfault.next_waiting() {
                Ok(None) => return,
                Ok(Some(address)) => {
                    if !copying.is_some_and(|copying| copying.copy_at(address)) {
                        // Nobody's page any more: its region ended while the writer was on its way.
                        let page = to_usize(address) / PAGE_SIZE;
                        self.thaw(&span(0, &(page..page + 1)));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "userfaultfd can't be read");
                    return;
                }
            }
        }
    }

    fn thaw(&self, span: &Range<usize>) {
        match self.userfault.unprotect(span) {
            Ok(()) => {}
            // The region's memory isn't registered any more, which has let everybody go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(%error, "frozen pages can't be thawed one by one");
                self.unregister(span);
            }
        }
    }

    fn wait(&self) {
        let fds = [self.userfault.as_fd(), self.wake.as_fd()];
        let waited = poll(&mut fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)), PollTimeout::NONE);
        match waited.and_then(|_| self.wake.read()) {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => tracing::error!(%error, "the copying thread can't wait"),
        }
    }

    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            tracing::error!(%error, "the copying thread can't be woken");
        }
    }
}

impl FrozenPages for Frozen {
    fn thaw(&self, pages: Range<usize>) {
        self.freezer.thaw(&span(self.base, &pages));
    }

    fn reopen(&self, pages: &PageSet) {
        for (index, word) in pages.words().iter().enumerate().filter(|(_, word)| **word != 0) {
            self.written.mark_word(index, *word);
        }
    }
}

/// Where `pages` are, of memory from `base` on.
fn span(base: usize, pages: &Range<usize>) -> Range<usize> {
    base + pages.start * PAGE_SIZE..base + pages.end * PAGE_SIZE
}
