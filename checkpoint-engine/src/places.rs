//! Where the pages of scattered memory are: a table that the tracker keeps true and the engine reads.

use std::collections::TryReserveError;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::PAGE_SIZE;

/// Set in the address of a page that may only be read. A page is aligned, so its low bits are free.
const READ_ONLY: usize = 1;

/// Where a page is now, and what may be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It isn't in memory. The program has to touch it first.
    Absent,
    /// It can be read. To be written it first needs a place of its own: it may be shared, as a page of zeros is.
    ReadOnly(NonNull<u8>),
    /// It can be read and written.
    Writable(NonNull<u8>),
}

impl Place {
    /// Where it can be read.
    #[must_use]
    pub fn readable(self) -> Option<NonNull<u8>> {
        match self {
            Self::Absent => None,
            Self::ReadOnly(page) | Self::Writable(page) => Some(page),
        }
    }

    /// Where it can be written.
    #[must_use]
    pub fn writable(self) -> Option<NonNull<u8>> {
        match self {
            Self::Absent | Self::ReadOnly(_) => None,
            Self::Writable(page) => Some(page),
        }
    }
}

/// Where each page of a region is.
///
/// It is shared by the engine, which reads it, and the [`Tracker`](crate::Tracker), which keeps it true in
/// [`attach`](crate::Tracker::attach), [`collect`](crate::Tracker::collect) and
/// [`before_restore`](crate::Tracker::before_restore). It orders nothing: whoever sets a place in another thread
/// than the engine's synchronizes with it by other means.
#[derive(Debug)]
pub struct PagePlaces {
    /// Null if absent, else the page's address and perhaps [`READ_ONLY`].
    places: Box<[AtomicPtr<u8>]>,
}

impl PagePlaces {
    /// A table of `pages` pages, all of them absent.
    ///
    /// # Errors
    /// There's no memory for the table.
    pub fn new(pages: usize) -> Result<Arc<Self>, TryReserveError> {
        let mut places = Vec::new();
        places.try_reserve_exact(pages)?;
        places.resize_with(pages, || AtomicPtr::new(ptr::null_mut()));
        Ok(Arc::new(Self { places: places.into_boxed_slice() }))
    }

    /// Pages of the region.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.places.len()
    }

    /// Bytes of the table.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        size_of_val(&*self.places)
    }

    /// Where `page` is. A page beyond the region is absent.
    #[inline]
    #[must_use]
    pub fn get(&self, page: usize) -> Place {
        let tagged = self.places.get(page).map_or(ptr::null_mut(), |place| place.load(Ordering::Relaxed));
        match NonNull::new(tagged.map_addr(|address| address & !READ_ONLY)) {
            None => Place::Absent,
            Some(page) if tagged.addr() & READ_ONLY == 0 => Place::Writable(page),
            Some(page) => Place::ReadOnly(page),
        }
    }

    /// Says where `page` is. A page beyond the region is ignored.
    ///
    /// # Safety
    /// A pointer is aligned to [`PAGE_SIZE`], and as long as it is in the table, a page of memory is mapped there,
    /// which any thread of the process may read, and write if it is [`Place::Writable`]. While the engine writes
    /// it (in [`rollback`](crate::Engine::rollback)), no Rust reference to that page is in use.
    pub unsafe fn set(&self, page: usize, place: Place) {
        let tagged = match place {
            Place::Absent => ptr::null_mut(),
            Place::ReadOnly(page) => page.as_ptr().map_addr(|address| address | READ_ONLY),
            Place::Writable(page) => page.as_ptr(),
        };
        debug_assert!(tagged.addr() & !READ_ONLY & (PAGE_SIZE - 1) == 0, "{place:?} isn't aligned");
        if let Some(entry) = self.places.get(page) {
            entry.store(tagged, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LiveMemory;
    use crate::tests::memory::Memory;

    #[test]
    fn a_place_comes_back_as_it_was_set() {
        let memory = Memory::new(2);
        let base = memory.live().base().unwrap();
        let places = PagePlaces::new(3).unwrap();
        assert_eq!((places.pages(), places.table_bytes(), places.get(1)), (3, 24, Place::Absent));
        for (page, place) in [(0, Place::ReadOnly(base)), (1, Place::Writable(base)), (2, Place::Absent)] {
            // SAFETY: a page of `memory`, which outlives the table; no engine has it.
            unsafe { places.set(page, place) };
            assert_eq!(places.get(page), place);
            assert_eq!(place.readable().is_some(), page != 2);
            assert_eq!(place.writable().is_some(), page == 1);
        }
    }

    #[test]
    fn beyond_the_region_nothing_is_kept() {
        let memory = Memory::new(1);
        let places = PagePlaces::new(1).unwrap();
        // SAFETY: a page of `memory`, which outlives the table; no engine has it.
        unsafe { places.set(1, Place::Writable(memory.live().base().unwrap())) };
        assert_eq!((places.get(0), places.get(1)), (Place::Absent, Place::Absent));
    }

    #[test]
    fn scattered_memory_overlaps_by_the_program_s_addresses() {
        let at = |address, pages| LiveMemory::scattered(address, PagePlaces::new(pages).unwrap());
        assert!(at(0x1000, 2).overlaps(&at(0x2000, 1)));
        assert!(!at(0x1000, 1).overlaps(&at(0x2000, 1)));
        assert!(at(u64::MAX - 0xfff, 1).overlaps(&at(u64::MAX - 0xfff, 1)));
        let memory = Memory::new(1).live();
        assert!(memory.overlaps(&memory) && !memory.overlaps(&at(memory.address(), 1)));
        assert!(at(0x1000, 1).base().is_none() && at(0x1000, 1).places().is_some());
        assert_eq!((at(0x1000, 3).bytes(), at(0x1000, 3).address()), (3 * PAGE_SIZE, 0x1000));
    }
}
