//! The only code that reads and writes live memory: compare a page with its mirror and copy what differs.
//!
//! The program may write its memory while it is read here. So each chunk is loaded once, by volatile vector
//! loads, into registers; what is compared is what is copied, and no reference to live bytes exists. As for any
//! memory that something outside the program writes, a volatile access is the contract: the compiler neither
//! repeats nor drops it.

mod kernels;

use std::collections::TryReserveError;

use crate::mirror::Mirror;
use crate::{CHUNK_SIZE, LiveMemory, PAGE_SIZE};

use kernels::Kernels;

/// Chunks in a page.
pub(crate) const PAGE_CHUNKS: usize = PAGE_SIZE / CHUNK_SIZE;

/// 64 bytes, aligned for vector stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u8; CHUNK_SIZE]);

/// The compare and copy routines that suit this CPU best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    kernels: &'static Kernels,
}

impl Access {
    /// Chooses by what the CPU can do.
    pub(crate) fn detect() -> Self {
        Self { kernels: Kernels::detect() }
    }

    /// The target feature that was chosen.
    pub(crate) fn instruction_set(self) -> &'static str {
        self.kernels.name
    }

    /// Makes `page` of the mirror equal to live memory and appends the mirror's former chunks, those that
    /// differed, to `old`. Returns which (bit `i` is chunk `i`).
    ///
    /// # Errors
    /// No memory for a page of chunks in `old`; nothing was done.
    pub(crate) fn take(
        self,
        live: &LiveMemory,
        mirror: &mut Mirror,
        page: usize,
        old: &mut Vec<Chunk>,
    ) -> Result<u64, TryReserveError> {
        reserve_page(old)?;
        let source = live_page(live, page);
        let target = mirror.page_ptr(page).as_ptr().cast::<u8>();
        let end = old.as_mut_ptr().wrapping_add(old.len()).cast::<u8>();
        let mask = if mirror.is_resident(page) {
            // SAFETY: `source` is a page of live memory by `LiveMemory::new`; `target` is a page of the mirror,
            // which is borrowed mutably; `end` has room for a page of chunks by `reserve_page`. All three are
            // aligned to 64 bytes, and the CPU has what the kernels need by `Kernels::detect`.
            unsafe { (self.kernels.take)(source, target, end) }
        } else {
            // SAFETY: as above, and a page that isn't resident is all zeros.
            let mask = unsafe { (self.kernels.take_zero)(source, target, end) };
            if mask != 0 {
                mirror.set_resident(page);
            }
            mask
        };
        // SAFETY: the kernels wrote one chunk from `end` for each bit of `mask`, inside the reserved capacity.
        unsafe { old.set_len(old.len() + mask.count_ones() as usize) };
        Ok(mask)
    }

    /// Makes `page` of live memory equal to the mirror; stores only chunks that differ. Returns whether any did.
    pub(crate) fn restore(self, live: &LiveMemory, mirror: &Mirror, page: usize) -> bool {
        let target = live_page(live, page);
        let source = mirror.page_ptr(page).as_ptr().cast::<u8>();
        if mirror.is_resident(page) {
            // SAFETY: `target` is a page of live memory, writable during a rollback by `LiveMemory::new`;
            // `source` is a page of the mirror, which is borrowed. Both are aligned, and the CPU has what the
            // kernels need by `Kernels::detect`.
            unsafe { (self.kernels.restore)(target, source) }
        } else {
            // SAFETY: as above for `target`.
            unsafe { (self.kernels.restore_zero)(target) }
        }
    }

    /// Asks the CPU to fetch `page`, which `take` or `restore` will be called for soon.
    #[inline]
    pub(crate) fn prefetch(live: &LiveMemory, mirror: &Mirror, page: usize) {
        kernels::prefetch_page(live_page(live, page));
        if mirror.is_resident(page) {
            kernels::prefetch_page(mirror.page_ptr(page).as_ptr().cast());
        }
    }
}

/// The address of `page` of live memory.
///
/// # Panics
/// `page` is beyond the region: pages come from sets of the same region, so that would be a bug here.
#[inline]
fn live_page(live: &LiveMemory, page: usize) -> *mut u8 {
    assert!(page < live.pages(), "page {page} of a region of {} pages", live.pages());
    live.base().as_ptr().wrapping_add(page * PAGE_SIZE)
}

/// Makes room for a page of chunks. Doubles if it can, so that a large delta is not copied often; else takes what it needs.
#[inline]
fn reserve_page(chunks: &mut Vec<Chunk>) -> Result<(), TryReserveError> {
    if chunks.capacity() - chunks.len() >= PAGE_CHUNKS {
        return Ok(());
    }
    chunks.try_reserve(PAGE_CHUNKS).or_else(|_| chunks.try_reserve_exact(PAGE_CHUNKS))
}

#[cfg(test)]
mod tests;
