//! A region's live bytes: where they are, never a borrow of them.

use std::ptr::NonNull;

use crate::PAGE_SIZE;

/// Where a region's live bytes are in this process.
///
/// Other threads (a vCPU) may write them at any time, so no reference to them ever exists: they are read and
/// written by raw pointers, and only in `access.rs`.
#[derive(Debug)]
pub struct LiveMemory {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: a `LiveMemory` is an address and a length. What it points to isn't borrowed and, by the promise of
// `new`, is memory that any thread of the process may access.
unsafe impl Send for LiveMemory {}

impl LiveMemory {
    /// The `pages` pages from `base`.
    ///
    /// # Safety
    /// `base` is aligned to [`PAGE_SIZE`], and the pages are mapped readable for as long as the value lives,
    /// for any thread, and writable while [`crate::Engine::rollback`] runs (a tracker may see to that in
    /// [`crate::Tracker::before_restore`]). While the engine writes them (in `rollback`), no Rust reference to them is in use.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, pages: usize) -> Self {
        Self { base, pages }
    }

    /// The first byte's address.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Pages of [`PAGE_SIZE`] bytes.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// Whether the two share a byte.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.base.addr().get(), other.base.addr().get());
        a < b + other.bytes() && b < a + self.bytes()
    }
}
