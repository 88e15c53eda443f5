//! The host's copy of one region: a sparse private mapping.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::page_set::WORD_PAGES;
use crate::{EngineError, PAGE_SIZE, PageSet};

/// Pages in a row that are given back together: 64 KiB. Less isn't worth a system call and the faults that follow
/// should they be needed again.
const LEAST_GIVEN_BACK: usize = 16;

/// One page of a mirror.
pub(crate) type Page = [u8; PAGE_SIZE];

/// The copy of one region as of the root version.
///
/// A page that holds nothing but zeros is not resident: nothing reads its memory. One that became so has memory
/// nevertheless, until it is [given back](Self::give_back).
///
/// ```text
///   never written ── set_resident ──> resident ── set_zero ──> emptied ── give_back ──> as if never written
///                                        ^                        │
///                                        └────── set_resident ────┘
/// ```
#[derive(Debug)]
pub(crate) struct Mirror {
    base: NonNull<Page>,
    resident: PageSet,
    /// Pages that are zeros again and have memory yet.
    emptied: PageSet,
    /// Whether there may be some to give back that weren't there when it was last done.
    any_emptied: AtomicBool,
    /// Pages that have memory.
    held_pages: AtomicUsize,
}

// SAFETY: the mapping is owned by this value alone and is not bound to a thread.
unsafe impl Send for Mirror {}
// SAFETY: who shares the mirror only reads its pages; they are written by `&mut Mirror` or by a `MirrorPart`, which
// borrows it mutably.
unsafe impl Sync for Mirror {}

/// Pages of a mirror that one thread may change while others change other pages: whole words of its page set.
#[derive(Debug)]
pub(crate) struct MirrorPart<'a> {
    /// The whole mirror's.
    base: NonNull<Page>,
    pages: Range<usize>,
    resident: &'a mut [u64],
    emptied: &'a mut [u64],
    any_emptied: &'a AtomicBool,
    held_pages: &'a AtomicUsize,
    mirror: PhantomData<&'a mut Page>,
}

// SAFETY: a part is a mutable borrow of its own pages, which `split_at` gives to one part only, and they aren't
// bound to a thread.
unsafe impl Send for MirrorPart<'_> {}

impl Mirror {
    /// A mirror of `pages` zero pages, at least one.
    pub(crate) fn new(pages: usize) -> Result<Self, EngineError> {
        let (resident, emptied) = (PageSet::new(pages)?, PageSet::new(pages)?);
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
        Ok(Self {
            base,
            resident,
            emptied,
            any_emptied: AtomicBool::new(false),
            held_pages: AtomicUsize::new(0),
        })
    }

    /// A mirror of nothing, which takes a mirror's place while that is elsewhere.
    pub(crate) fn nothing() -> Self {
        Self {
            base: NonNull::dangling(),
            resident: PageSet::nothing(),
            emptied: PageSet::nothing(),
            any_emptied: AtomicBool::new(false),
            held_pages: AtomicUsize::new(0),
        }
    }

    /// Pages of the region.
    pub(crate) fn pages(&self) -> usize {
        self.resident.pages()
    }

    /// Bytes that have memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        (self.held_pages.load(Ordering::Relaxed) * PAGE_SIZE) as u64
    }

    /// Bytes of the tables beside the copy.
    pub(crate) fn table_bytes(&self) -> usize {
        self.resident.bytes() + self.emptied.bytes()
    }

    /// The bytes of `page`, if it has memory; if not, it is all zeros.
    #[inline]
    pub(crate) fn resident(&self, page: usize) -> Option<NonNull<Page>> {
        let page_ptr = self.page_ptr(page);
        self.resident.contains(page).then_some(page_ptr)
    }

    /// The bytes of `page`, to be read, if it has memory; if not, it is all zeros.
    pub(crate) fn bytes(&self, page: usize) -> Option<&Page> {
        // SAFETY: the page is inside the mapping, which this value owns and lends by `&self`: who writes pages
        // has borrowed it mutably. Any bytes are a valid `Page`.
        self.resident(page).map(|page| unsafe { page.as_ref() })
    }

    /// All pages.
    pub(crate) fn whole(&mut self) -> MirrorPart<'_> {
        let Self { base, resident, emptied, any_emptied, held_pages } = self;
        let (base, pages) = (*base, 0..resident.pages());
        let (resident, emptied) = (resident.words_mut(), emptied.words_mut());
        MirrorPart { base, pages, resident, emptied, any_emptied, held_pages, mirror: PhantomData }
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

    /// Gives back the memory of pages that became zeros, in runs that are worth a system call and have none that
    /// `stays`: those that may well change again soon.
    pub(crate) fn give_back(&mut self, stays: impl Fn(usize) -> bool) {
        if !std::mem::take(self.any_emptied.get_mut()) {
            return;
        }
        let mut from = 0;
        while let Some(run) = self.emptied.next_run(from) {
            from = run.end;
            if run.len() < LEAST_GIVEN_BACK {
                continue;
            }
            if run.clone().any(&stays) {
                // Another time.
                *self.any_emptied.get_mut() = true;
                continue;
            }
            let start = self.page_ptr(run.start).as_ptr().cast();
            // SAFETY: the pages are inside the mapping, which this value owns and has borrowed mutably. They are zeros,
            // and an anonymous private mapping reads as zeros where its memory was given back.
            let done = unsafe { libc::madvise(start, run.len() * PAGE_SIZE, libc::MADV_DONTNEED) };
            if done == 0 {
                *self.held_pages.get_mut() -= run.len();
                run.for_each(|page| self.emptied.remove(page));
            }
        }
    }

    /// The bytes of `page`, which is resident from now on.
    pub(crate) fn page_mut(&mut self, page: usize) -> &mut Page {
        self.whole().set_resident(page);
        // SAFETY: the page is inside the mapping, which this value owns and lends by `&mut self`; any bytes are
        // a valid `Page`, which has no alignment.
        unsafe { self.page_ptr(page).as_mut() }
    }
}

impl<'a> MirrorPart<'a> {
    /// Cuts it before word `word` of the region's page set.
    pub(crate) fn split_at(self, word: usize) -> (Self, Self) {
        let Self { base, pages, resident, emptied, any_emptied, held_pages, mirror } = self;
        let cut = (word * WORD_PAGES).clamp(pages.start, pages.end);
        let at = word - pages.start / WORD_PAGES;
        let (resident, emptied) = (resident.split_at_mut(at), emptied.split_at_mut(at));
        let part = |pages, resident, emptied| Self {
            base,
            pages,
            resident,
            emptied,
            any_emptied,
            held_pages,
            mirror,
        };
        (part(pages.start..cut, resident.0, emptied.0), part(cut..pages.end, resident.1, emptied.1))
    }

    /// The bytes of `page`, if it has memory; if not, it is all zeros.
    #[inline]
    pub(crate) fn resident(&self, page: usize) -> Option<NonNull<Page>> {
        let page_ptr = self.page_ptr(page);
        (self.resident[self.word(page)] & bit(page) != 0).then_some(page_ptr)
    }

    /// Notes that `page` was written.
    #[inline]
    pub(crate) fn set_resident(&mut self, page: usize) {
        let word = self.word(page);
        if (self.resident[word] | self.emptied[word]) & bit(page) == 0 {
            self.held_pages.fetch_add(1, Ordering::Relaxed);
        }
        self.resident[word] |= bit(page);
        self.emptied[word] &= !bit(page);
    }

    /// Notes that `page`, which was resident, became zeros.
    pub(crate) fn set_zero(&mut self, page: usize) {
        let word = self.word(page);
        self.resident[word] &= !bit(page);
        self.emptied[word] |= bit(page);
        self.any_emptied.store(true, Ordering::Relaxed);
    }

    /// The address of `page`.
    ///
    /// # Panics
    /// `page` isn't one of the part: pages come from the same words of other sets, so that would be a bug here.
    #[inline]
    pub(crate) fn page_ptr(&self, page: usize) -> NonNull<Page> {
        assert!(self.pages.contains(&page), "page {page} of pages {:?} of a mirror", self.pages);
        // SAFETY: the mapping has all pages of the part.
        unsafe { self.base.add(page) }
    }

    fn word(&self, page: usize) -> usize {
        page / WORD_PAGES - self.pages.start / WORD_PAGES
    }
}

/// A page's bit in its word.
fn bit(page: usize) -> u64 {
    1 << (page % WORD_PAGES)
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
        mirror.whole().set_resident(2);
        mirror.whole().set_resident(2);
        assert_eq!(mirror.resident_bytes(), 4096);
        assert!(mirror.resident(2).is_some() && mirror.resident(1).is_none());
        assert_eq!(mirror.page_mut(2)[4095], 7);
    }

    #[test]
    #[should_panic(expected = "page 3 of a mirror of 3 pages")]
    fn no_page_beyond_the_end() {
        let _ = Mirror::new(3).unwrap().page_ptr(3);
    }

    #[test]
    fn what_became_zeros_is_given_back_when_it_is_worth_it() {
        let mut mirror = Mirror::new(100).unwrap();
        let mut written = PageSet::new(100).unwrap();
        written.insert(39);
        (0..90).for_each(|page| mirror.page_mut(page)[7] = 7);
        for page in (0..20).chain(30..40).chain(50..82) {
            mirror.page_mut(page).fill(0);
            mirror.whole().set_zero(page);
        }
        mirror.page_mut(60)[8] = 8;
        assert!(mirror.resident(5).is_none() && mirror.resident(60).is_some());
        assert_eq!(mirror.resident_bytes(), 90 * 4096, "it has memory yet");
        written.insert(3);
        mirror.give_back(|page| written.contains(page));
        assert_eq!(mirror.resident_bytes(), (90 - 21) * 4096, "61 to 81");
        mirror.give_back(|_| false);
        assert_eq!(mirror.resident_bytes(), (90 - 21 - 20) * 4096, "0 to 19 too, but none of a short run");
        assert_eq!(mirror.page_mut(5), &[0; PAGE_SIZE]);
        assert_eq!(mirror.page_mut(70), &[0; PAGE_SIZE]);
        assert_eq!((mirror.page_mut(60)[8], mirror.page_mut(89)[7]), (8, 7));
        assert_eq!(mirror.resident_bytes(), (90 - 21 - 20 + 2) * 4096);
    }

    #[test]
    fn parts_have_their_own_pages_and_no_others() {
        let mut mirror = Mirror::new(130).unwrap();
        let (first, rest) = mirror.whole().split_at(1);
        let (mut second, mut third) = rest.split_at(2);
        assert_eq!([&first, &second, &third].map(|part| part.pages.clone()), [0..64, 64..128, 128..130]);
        second.set_resident(65);
        third.set_resident(129);
        assert!(second.resident(64).is_none() && second.resident(65) == Some(second.page_ptr(65)));
        for (part, page) in [(&first, 64), (&second, 63), (&second, 128), (&third, 127), (&third, 130)] {
            let look = std::panic::AssertUnwindSafe(|| part.page_ptr(page));
            assert!(std::panic::catch_unwind(look).is_err(), "{page}");
        }
        let (none, all) = mirror.whole().split_at(0);
        assert_eq!((none.pages, all.pages.len()), (0..0, 130));
        let (all, none) = mirror.whole().split_at(3);
        assert_eq!((all.pages.len(), none.pages), (130, 130..130));
        assert_eq!(mirror.resident_bytes(), 2 * 4096);
    }

    #[test]
    fn too_large_is_no_memory() {
        assert!(matches!(Mirror::new(1 << 52), Err(EngineError::NoMemory)));
    }
}
