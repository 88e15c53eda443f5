//! The only code that reads and writes live memory: compare a page with its mirror and copy what differs.
//!
//! The program may write its memory while it is read here. So each chunk is loaded once, by volatile vector
//! loads, into registers; what is compared is what is copied, and no reference to live bytes exists. As for any
//! memory that something outside the program writes, a volatile access is the contract: the compiler neither
//! repeats nor drops it. The same holds where several threads of the engine are at work: each has pages of its own,
//! but a guest may have one frame of memory at two places of a region, and then gets what it asked for.

mod kernels;

use std::collections::TryReserveError;
use std::ptr::NonNull;

use crate::mirror::{Mirror, MirrorPart, Page};
use crate::{CHUNK_SIZE, LiveMemory, PAGE_SIZE};

use kernels::{Ahead, Kernels, Took};

/// Chunks in a page.
pub(crate) const PAGE_CHUNKS: usize = PAGE_SIZE / CHUNK_SIZE;

/// 64 bytes, aligned for vector stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u8; CHUNK_SIZE]);

/// What [`Access::take`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    /// The chunks that differed: bit `i` is chunk `i`.
    pub(crate) mask: u64,
    /// Whether the mirror's page was all zeros. If so, its chunks weren't kept.
    pub(crate) was_zero: bool,
}

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

    /// Makes `page` of the mirror equal to live memory. The mirror's former chunks, those that differed, are
    /// appended to `old`, unless the page was all zeros. Meanwhile the CPU fetches page `next`, which will be
    /// asked for soon. `None` if the page is absent; nothing was done.
    ///
    /// # Errors
    /// No memory for a page of chunks in `old`; nothing was done.
    pub(crate) fn take(
        self,
        live: &LiveMemory,
        mirror: &mut MirrorPart<'_>,
        page: usize,
        next: Option<usize>,
        old: &mut Vec<Chunk>,
    ) -> Result<Option<Taken>, TryReserveError> {
        let Some(source) = live.place(page).readable() else { return Ok(None) };
        let source = source.as_ptr().cast_const();
        let ahead = ahead(live, source, next, next.and_then(|next| mirror.resident(next)));
        let Some(target) = mirror.resident(page) else {
            let target = mirror.page_ptr(page).as_ptr().cast::<u8>();
            // SAFETY: `source` is a page of live memory by `LiveMemory::new` or `PagePlaces::set`; `target` is a
            // page of the mirror, which is borrowed mutably, and all zeros as it isn't resident. Both are aligned
            // to 64 bytes, and the CPU has what the kernels need by `Kernels::detect`.
            let mask = unsafe { (self.kernels.take_zero)(source, target, ahead) };
            if mask != 0 {
                mirror.set_resident(page);
            }
            return Ok(Some(Taken { mask, was_zero: true }));
        };
        let target = target.as_ptr().cast::<u8>();
        reserve_page(old)?;
        let end = old.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: as above; and `end` has room for a page of chunks by `reserve_page`, aligned as `Chunk` is.
        let Took { mask, zero } = unsafe { (self.kernels.take)(source, target, end, ahead) };
        // SAFETY: the kernel wrote one chunk from `end` for each bit of `mask`, inside the reserved capacity.
        unsafe { old.set_len(old.len() + mask.count_ones() as usize) };
        if zero {
            mirror.set_zero(page);
        }
        Ok(Some(Taken { mask, was_zero: false }))
    }

    /// Makes `page` of live memory equal to the mirror; stores only chunks that differ. Returns whether any did,
    /// or `None` if the page can't be written, and nothing was done. `next` is as in [`take`](Self::take).
    pub(crate) fn restore(
        self,
        live: &LiveMemory,
        mirror: &Mirror,
        page: usize,
        next: Option<usize>,
    ) -> Option<bool> {
        let target = live.place(page).writable()?.as_ptr();
        let ahead = ahead(live, target, next, next.and_then(|next| mirror.resident(next)));
        Some(if let Some(source) = mirror.resident(page) {
            let source = source.as_ptr().cast_const().cast();
            // SAFETY: `target` is a page of live memory, writable during a rollback by `LiveMemory::new` or
            // `PagePlaces::set`; `source` is a page of the mirror, which is borrowed. Both are aligned, and the
            // CPU has what the kernels need by `Kernels::detect`.
            unsafe { (self.kernels.restore)(target, source, ahead) }
        } else {
            // SAFETY: as above for `target`.
            unsafe { (self.kernels.restore_zero)(target, ahead) }
        })
    }

    /// Whether `page` of live memory differs from the mirror, or `None` if it is absent. `next` is as in
    /// [`take`](Self::take).
    pub(crate) fn differs(
        self,
        live: &LiveMemory,
        mirror: &Mirror,
        page: usize,
        next: Option<usize>,
    ) -> Option<bool> {
        let source = live.place(page).readable()?.as_ptr().cast_const();
        let ahead = ahead(live, source, next, next.and_then(|next| mirror.resident(next)));
        Some(if let Some(known) = mirror.resident(page) {
            let known = known.as_ptr().cast_const().cast();
            // SAFETY: `source` is a page of live memory by `LiveMemory::new` or `PagePlaces::set`; `known` is a
            // page of the mirror, which is borrowed. Both are aligned, and the CPU has what the kernels need by
            // `Kernels::detect`.
            unsafe { (self.kernels.differs)(source, known, ahead) }
        } else {
            // SAFETY: as above for `source`.
            unsafe { (self.kernels.differs_zero)(source, ahead) }
        })
    }
}

/// Where page `next` is, and its page of the mirror if that is resident. Without one, or if it is absent,
/// `current`, which is harmless to ask for.
#[inline]
fn ahead(live: &LiveMemory, current: *const u8, next: Option<usize>, mirror: Option<NonNull<Page>>) -> Ahead {
    let Some(next) = next else { return Ahead { live: current, mirror: current } };
    let live = live.place(next).readable().map_or(current, |page| page.as_ptr().cast_const());
    // A page that isn't resident isn't read.
    Ahead { live, mirror: mirror.map_or(live, |page| page.as_ptr().cast_const().cast()) }
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
