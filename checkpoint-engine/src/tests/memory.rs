//! Live memory for tests.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::{LiveMemory, PAGE_SIZE, PagePlaces, Place};

/// One page.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE_SIZE]);

/// Page-aligned memory that the engine writes behind our back, hence cells.
#[derive(Clone)]
pub(crate) struct Memory(Rc<[UnsafeCell<Page>]>);

impl Memory {
    pub(crate) fn new(pages: usize) -> Self {
        Self((0..pages).map(|_| UnsafeCell::new(Page([0; PAGE_SIZE]))).collect())
    }

    pub(crate) fn live(&self) -> LiveMemory {
        let base = NonNull::from(&*self.0).cast();
        // SAFETY: the cells are aligned pages, contiguous, and each test keeps its `Memory` longer than its
        // engine. `read` and `write` borrow nothing beyond their own calls, during which no engine runs.
        unsafe { LiveMemory::new(base, self.0.len()) }
    }

    /// Says that `page` is in frame `frame` of this memory. Each test keeps its `Memory` longer than its engine.
    pub(crate) fn put(&self, places: &PagePlaces, page: usize, frame: usize, writable: bool) {
        let frame = NonNull::new(self.0[frame].get()).unwrap().cast();
        let place = if writable { Place::Writable(frame) } else { Place::ReadOnly(frame) };
        // SAFETY: an aligned page that outlives the engine, borrowed only while no engine runs, as for `live`.
        unsafe { places.set(page, place) };
    }

    /// Says that `page` is nowhere.
    pub(crate) fn take_away(places: &PagePlaces, page: usize) {
        // SAFETY: there is no pointer to promise anything of.
        unsafe { places.set(page, Place::Absent) };
    }

    pub(crate) fn read_page(&self, page: usize) -> Vec<u8> {
        // SAFETY: single-threaded, and no reference to the page exists beyond this expression.
        unsafe { (*self.0[page].get()).0.to_vec() }
    }

    pub(crate) fn write_page(&self, page: usize, bytes: &[u8]) {
        // SAFETY: single-threaded, and no reference to the page exists beyond this statement.
        unsafe { (&mut *self.0[page].get()).0.copy_from_slice(bytes) };
    }

    pub(crate) fn pages(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|page| {
                // SAFETY: single-threaded, and no reference to the page exists beyond this expression.
                unsafe { (*page.get()).0 }
            })
            .collect()
    }

    pub(crate) fn write(&self, at: usize, byte: u8) {
        // SAFETY: single-threaded, and no reference to the page exists beyond this statement.
        unsafe { (&mut *self.0[at / PAGE_SIZE].get()).0[at % PAGE_SIZE] = byte };
    }
}
