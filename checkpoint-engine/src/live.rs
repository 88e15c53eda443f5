//! A region's live bytes: where they are, never a borrow of them.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::{PAGE_SIZE, PagePlaces, Place};

/// Where a region's live bytes are in this process: in one piece, or page by page.
///
/// Other threads (a vCPU) may write them at any time, so no reference to them ever exists: they are read and
/// written by raw pointers, and only in `access.rs`.
#[derive(Debug)]
pub struct LiveMemory {
    form: Form,
    pages: usize,
}

#[derive(Debug)]
enum Form {
    /// All pages from an address of this process.
    Contiguous(NonNull<u8>),
    /// Pages that are each somewhere, or nowhere.
    Scattered { address: u64, places: Arc<PagePlaces> },
}

// SAFETY: a `LiveMemory` is an address and a length, or shares a table of addresses that is `Send` and `Sync`.
// What they point to isn't borrowed and, by the promise of `new` or of `PagePlaces::set`, is memory that any
// thread of the process may access.
unsafe impl Send for LiveMemory {}
// SAFETY: as above; the value itself is never changed.
unsafe impl Sync for LiveMemory {}

impl LiveMemory {
    /// The `pages` pages from `base`.
    ///
    /// # Safety
    /// `base` is aligned to [`PAGE_SIZE`], and the pages are mapped readable for as long as the value lives,
    /// for any thread, and writable while [`crate::Engine::rollback`] runs (a tracker may see to that in
    /// [`crate::Tracker::before_restore`]). While the engine writes them (in `rollback`), no Rust reference to them is in use.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, pages: usize) -> Self {
        Self { form: Form::Contiguous(base), pages }
    }

    /// Pages that are where `places` says, now here and now there.
    ///
    /// `address` is where the program has the first of them: it tells one region from another, and is never used
    /// as an address of this process.
    #[must_use]
    pub fn scattered(address: u64, places: Arc<PagePlaces>) -> Self {
        let pages = places.pages();
        Self { form: Form::Scattered { address, places }, pages }
    }

    /// The same memory once more, for as long as the region lives.
    pub(crate) fn alias(&self) -> Self {
        let form = match &self.form {
            Form::Contiguous(base) => Form::Contiguous(*base),
            Form::Scattered { address, places } => {
                Form::Scattered { address: *address, places: Arc::clone(places) }
            }
        };
        Self { form, pages: self.pages }
    }

    /// The first byte's address in this process, if the memory is in one piece.
    #[must_use]
    pub fn base(&self) -> Option<NonNull<u8>> {
        match self.form {
            Form::Contiguous(base) => Some(base),
            Form::Scattered { .. } => None,
        }
    }

    /// Where the pages are, if they are scattered.
    #[must_use]
    pub fn places(&self) -> Option<&Arc<PagePlaces>> {
        match &self.form {
            Form::Contiguous(_) => None,
            Form::Scattered { places, .. } => Some(places),
        }
    }

    /// The first byte's address: in this process if the memory is in one piece, in the program if it is scattered.
    #[must_use]
    pub fn address(&self) -> u64 {
        match &self.form {
            Form::Contiguous(base) => base.addr().get() as u64,
            Form::Scattered { address, .. } => *address,
        }
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

    /// Where `page` is.
    ///
    /// # Panics
    /// `page` is beyond the region: pages come from sets of the same region, so that would be a bug here.
    #[inline]
    pub(crate) fn place(&self, page: usize) -> Place {
        assert!(page < self.pages, "page {page} of a region of {} pages", self.pages);
        match &self.form {
            // SAFETY: the page is inside the memory that `new` was promised.
            Form::Contiguous(base) => Place::Writable(unsafe { base.add(page * PAGE_SIZE) }),
            Form::Scattered { places, .. } => places.get(page),
        }
    }

    /// Whether the two share a byte. Addresses of this process and of a program say nothing about each other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let end = |memory: &Self| memory.address().saturating_add(memory.bytes() as u64);
        self.places().is_some() == other.places().is_some()
            && self.address() < end(other)
            && other.address() < end(self)
    }
}
