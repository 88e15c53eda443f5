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
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use cairn_engine::{Copying, FrozenPages, PAGE_SIZE, PageSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::host::userfault::Userfault;
use crate::kvm::slots::SlotMap;
use crate::memory::layout::to_usize;
use crate::memory::written::WrittenPages;

/// Pages of a word of a set.
const WORD_PAGES: usize = u64::BITS as usize;

/// Words of the log that are cleared with one call: those of a large page, wherever it begins.
const CLEARED_WORDS: usize = 9;

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
    /// Where KVM's log of the region is.
    slots: Arc<Mutex<SlotMap>>,
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
        slots: &Arc<Mutex<SlotMap>>,
    ) -> io::Result<Box<dyn FrozenPages>> {
        let (written, slots) = (Arc::clone(written), Arc::clone(slots));
        let frozen = Frozen { freezer: Arc::clone(self), base, written, slots };
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
                    let known = self.let_writer_go(copying, address);
                    // It may wait for work that isn't known here yet.
                    if !known && self.begun.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "userfaultfd can't be read");
                    return;
                }
            }
        }
    }

    /// Has the page at `address` taken, which somebody waits to write, or waited. Returns whether it's a part of the
    /// work.
    fn let_writer_go(&self, copying: Option<&Copying>, address: u64) -> bool {
        if copying.is_some_and(|copying| copying.copy_at(address)) {
            return true;
        }
        // It was let go since, or it came when its page had just been: the kernel takes a page that is thawed and not
        // writable yet for one to wait for. But the page may also have been frozen anew, for work that is about to
        // begin. So the page stays as it is, and who is right to wait for it waits again.
        let page = to_usize(address) / PAGE_SIZE;
        if let Err(error) = self.userfault.wake(&span(0, &(page..page + 1))) {
            tracing::error!(%error, "who waits for a page can't be woken");
        }
        false
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

impl Frozen {
    /// Starts KVM's log of the `pages` in `range` anew, before anybody can write them. KVM has no entries for them, so
    /// that this costs little.
    ///
    /// Who changes memslots waits for vCPUs, and one of these may wait for us: then the pages stay in the log, and
    /// are compared once more.
    fn clear_log(&self, range: Range<usize>, pages: &PageSet) {
        let slots = match self.slots.try_lock() {
            Ok(slots) => slots,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let words = range.start / WORD_PAGES..range.end.div_ceil(WORD_PAGES);
        for first in words.step_by(CLEARED_WORDS) {
            let mut cleared = [0; CLEARED_WORDS];
            for ((word, cleared), index) in pages.words().iter().skip(first).zip(&mut cleared).zip(first..) {
                *cleared = word & word_of(&range, index);
            }
            let cleared = &cleared[..CLEARED_WORDS.min(pages.words().len() - first)];
            if let Err(error) = slots.clear_dirty_log(self.written.range(), first as u64, cleared) {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "pages that were taken stay in KVM's log"
                );
            }
        }
    }
}

impl FrozenPages for Frozen {
    fn taken(&self, range: Range<usize>, pages: &PageSet) {
        self.clear_log(range.clone(), pages);
        self.thaw(range);
    }

    fn thaw(&self, pages: Range<usize>) {
        self.freezer.thaw(&span(self.base, &pages));
    }

    fn reopen(&self, pages: &PageSet) {
        for (index, word) in pages.words().iter().enumerate().filter(|(_, word)| **word != 0) {
            self.written.mark_word(index, *word);
        }
    }
}

/// The bits of word `index` of a set that are pages in `range`.
fn word_of(range: &Range<usize>, index: usize) -> u64 {
    let below = |end: usize| match end.saturating_sub(index * WORD_PAGES) {
        bits @ 0..WORD_PAGES => (1 << bits) - 1,
        _ => u64::MAX,
    };
    below(range.end) & !below(range.start)
}

/// Where `pages` are, of memory from `base` on.
fn span(base: usize, pages: &Range<usize>) -> Range<usize> {
    base + pages.start * PAGE_SIZE..base + pages.end * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_its_bits_in_each_word() {
        for range in [0..0, 0..64, 5..6, 63..65, 64..128, 70..70, 3..200] {
            for index in 0..5 {
                let expected = (0..64).filter(|bit| range.contains(&(index * 64 + bit)));
                let expected = expected.fold(0, |word, bit| word | 1_u64 << bit);
                assert_eq!(word_of(&range, index), expected, "{range:?} {index}");
            }
        }
    }
}

#[cfg(test)]
#[path = "freeze_tests.rs"]
mod writers;
