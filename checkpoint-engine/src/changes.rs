//! What of a region differs from the version of it that somebody else keeps.

use std::collections::TryReserveError;
use std::ops::Range;

use cairn_abi::RegionId;

use crate::access::PAGE_CHUNKS;
use crate::mirror::Mirror;
use crate::{CHUNK_SIZE, PAGE_SIZE, PageSet};

/// Takes what [`Engine::gather`](crate::Engine::gather) finds. An error ends the gathering.
pub trait ChangeSink {
    /// Why it can't take more.
    type Error;

    /// What follows is about this region of so many pages, also what other calls of one gathering tell. Every region is
    /// named once, in ascending order.
    ///
    /// # Errors
    /// The sink's.
    fn region(&mut self, region: RegionId, pages: usize) -> Result<(), Self::Error>;

    /// These pages are zeros now.
    ///
    /// # Errors
    /// The sink's.
    fn zero(&mut self, pages: Range<usize>) -> Result<(), Self::Error>;

    /// A page as it is now.
    ///
    /// # Errors
    /// The sink's.
    fn page(&mut self, page: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Self::Error>;

    /// Parts of a page as they are now: `bytes` are the chunks of [`CHUNK_SIZE`] that bits of `mask` stand for, in
    /// order. The rest of the page is as it was.
    ///
    /// # Errors
    /// The sink's.
    fn chunks(&mut self, page: usize, mask: u64, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Which chunks of one region may have changed since some version. Knows places and no bytes: those are in the
/// mirror, and the version itself needn't be retained.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Pages with a mask that isn't 0.
    pages: PageSet,
    masks: Vec<u64>,
    /// Everything may have changed; `pages` and `masks` say nothing then.
    all: bool,
}

impl Changes {
    /// No change of so many pages.
    pub(crate) fn none(pages: usize) -> Result<Self, TryReserveError> {
        let mut masks = Vec::new();
        masks.try_reserve_exact(pages)?;
        masks.resize(pages, 0);
        Ok(Self { pages: PageSet::new(pages)?, masks, all: false })
    }

    /// Adds chunks of a page.
    pub(crate) fn add(&mut self, page: usize, mask: u64) {
        if !self.all && mask != 0 {
            self.pages.insert(page);
            self.masks[page] |= mask;
        }
    }

    /// Adds everything.
    pub(crate) fn add_all(&mut self) {
        self.clear();
        self.all = true;
    }

    /// Adds what `other` has, and empties that.
    pub(crate) fn take_from(&mut self, other: &mut Self) {
        if other.all {
            self.add_all();
        }
        for page in &other.pages {
            self.add(page, other.masks[page]);
        }
        other.clear();
    }

    pub(crate) fn clear(&mut self) {
        for page in &self.pages {
            self.masks[page] = 0;
        }
        self.pages.clear();
        self.all = false;
    }

    /// Bytes of the tables.
    pub(crate) fn table_bytes(&self) -> usize {
        self.pages.bytes() + size_of_val(self.masks.as_slice())
    }

    /// Tells `sink` what `mirror` has where there are changes, from page `from` on, until it has told of `budget` pages
    /// with content, which become fewer by those. Where to go on, if there is more.
    ///
    /// # Errors
    /// The sink's.
    pub(crate) fn tell<S: ChangeSink>(
        &self,
        mirror: &Mirror,
        from: usize,
        budget: &mut u64,
        sink: &mut S,
    ) -> Result<Option<usize>, S::Error> {
        let next = |at: usize| {
            if self.all { (at < mirror.pages()).then_some(at) } else { self.pages.next_page(at) }
        };
        let mut told = Telling { sink, zeros: 0..0 };
        let mut rest = next(from);
        while let Some(page) = rest.filter(|_| 0 < *budget) {
            let (bytes, mask) = (mirror.bytes(page), if self.all { u64::MAX } else { self.masks[page] });
            told.page(page, bytes, mask)?;
            *budget -= u64::from(bytes.is_some());
            rest = next(page + 1);
        }
        told.end_zeros()?;
        Ok(rest)
    }
}

/// As [`Changes::tell`], all that `mirror` has but zeros.
pub(crate) fn tell_all<S: ChangeSink>(
    mirror: &Mirror,
    from: usize,
    budget: &mut u64,
    sink: &mut S,
) -> Result<Option<usize>, S::Error> {
    for page in from..mirror.pages() {
        if let Some(bytes) = mirror.bytes(page) {
            if *budget == 0 {
                return Ok(Some(page));
            }
            sink.page(page, bytes)?;
            *budget -= 1;
        }
    }
    Ok(None)
}

/// Joins pages of zeros.
struct Telling<'a, S> {
    sink: &'a mut S,
    zeros: Range<usize>,
}

impl<S: ChangeSink> Telling<'_, S> {
    fn page(&mut self, page: usize, bytes: Option<&[u8; PAGE_SIZE]>, mask: u64) -> Result<(), S::Error> {
        let Some(bytes) = bytes else {
            if self.zeros.end != page {
                self.end_zeros()?;
                self.zeros.start = page;
            }
            self.zeros.end = page + 1;
            return Ok(());
        };
        if mask == u64::MAX {
            return self.sink.page(page, bytes);
        }
        let mut chunks = [0; PAGE_SIZE];
        let mut len = 0;
        for chunk in (0..PAGE_CHUNKS).filter(|chunk| mask >> chunk & 1 == 1) {
            chunks[len..len + CHUNK_SIZE].copy_from_slice(&bytes[chunk * CHUNK_SIZE..][..CHUNK_SIZE]);
            len += CHUNK_SIZE;
        }
        self.sink.chunks(page, mask, &chunks[..len])
    }

    fn end_zeros(&mut self) -> Result<(), S::Error> {
        let zeros = std::mem::replace(&mut self.zeros, 0..0);
        if zeros.is_empty() { Ok(()) } else { self.sink.zero(zeros) }
    }
}
