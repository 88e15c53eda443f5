//! The host's copy of one region: a sparse private mapping.

use std::ptr::{self, NonNull};

use crate::{EngineError, PAGE_SIZE, PageSet};

/// One page of a mirror.
pub(crate) type Page = [u8; PAGE_SIZE];

/// The copy of one region as of the root version.
///
/// A page that never held anything but zeros is not resident: nothing reads or writes its memory.
#[derive(Debug)]
pub(crate) struct Mirror {
    base: NonNull<Page>,
    resident: PageSet,
    resident_pages: usize,
}

// SAFETY: the mapping is owned by this value alone and is not bound to a thread.
unsafe impl Send for Mirror {}

impl Mirror {
    /// A mirror of `pages` zero pages, at least one.
    pub(crate) fn new(pages: usize) -> Result<Self, EngineError> {
        let resident = PageSet::new(pages)?;
        let len = pages.checked_mul(PAGE_SIZE).ok_or(EngineError::NoMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address that the kernel chooses touches no memory in use.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(EngineError::NoMemory);
        }
        // With huge pages one changed byte would make 2 MiB resident, where the sparse mirror promises 4 KiB.
        // SAFETY: the range is the mapping made above; the advice changes no content. Failure is harmless.
        unsafe { libc::madvise(base, len, libc::MADV_NOHUGEPAGE) };
        let base = NonNull::new(base.cast()).ok_or(EngineError::NoMemory)?;
        Ok(Self { base, resident, resident_pages: 0 })
    }

    /// A mirror of nothing, which takes a mirror's place while that is elsewhere.
    pub(crate) fn nothing() -> Self {
        Self { base: NonNull::dangling(), resident: PageSet::nothing(), resident_pages: 0 }
    }

    /// Pages of the region.
    pub(crate) fn pages(&self) -> usize {
        self.resident.pages()
    }

    /// Bytes that hold something.
    pub(crate) fn resident_bytes(&self) -> u64 {
        (self.resident_pages * PAGE_SIZE) as u64
    }

    /// Bytes of the tables beside the copy.
    pub(crate) fn table_bytes(&self) -> usize {
        self.resident.bytes()
    }

    /// Whether `page` has memory; if not, it is all zeros.
    pub(crate) fn is_resident(&self, page: usize) -> bool {
        self.resident.contains(page)
    }

    /// Notes that `page` was written.
    pub(crate) fn set_resident(&mut self, page: usize) {
        if !self.resident.contains(page) {
            self.resident.insert(page);
            self.resident_pages += 1;
        }
    }

    /// The address of `page`.
    ///
    /// # Panics
    /// `page` is beyond the region: pages come from sets of the same region, so that would be a bug here.
    pub(crate) fn page_ptr(&self, page: usize) -> NonNull<Page> {
        assert!(page < self.pages(), "page {page} of a mirror of {} pages", self.pages());
        // SAFETY: the mapping has `pages()` pages and `page` is less.
        unsafe { self.base.add(page) }
    }

    /// The bytes of `page`.
    pub(crate) fn page_mut(&mut self, page: usize) -> &mut Page {
        // SAFETY: the page is inside the mapping, which this value owns and lends by `&mut self`; any bytes are
        // a valid `Page`, which has no alignment.
        unsafe { self.page_ptr(page).as_mut() }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if self.pages() == 0 {
            return;
        }
        // SAFETY: the mapping was made by `new` with this length, and pointers into it don't outlive borrows of
        // this value. Unmapping a mapping of one's own doesn't fail.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.pages() * PAGE_SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_and_counted_once() {
        let mut mirror = Mirror::new(3).unwrap();
        assert_eq!(mirror.resident_bytes(), 0);
        assert_eq!(mirror.page_mut(2), &[0; PAGE_SIZE]);
        mirror.page_mut(2)[4095] = 7;
        mirror.set_resident(2);
        mirror.set_resident(2);
        assert_eq!(mirror.resident_bytes(), 4096);
        assert!(mirror.is_resident(2) && !mirror.is_resident(1));
        assert_eq!(mirror.page_mut(2)[4095], 7);
    }

    #[test]
    #[should_panic(expected = "page 3 of a mirror of 3 pages")]
    fn no_page_beyond_the_end() {
        let _ = Mirror::new(3).unwrap().page_ptr(3);
    }

    #[test]
    fn too_large_is_no_memory() {
        assert!(matches!(Mirror::new(1 << 52), Err(EngineError::NoMemory)));
    }
}
