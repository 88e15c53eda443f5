//! Regions whose program says itself what it writes, and the check that it says all of it.

use std::ops::{Bound, Range, RangeBounds};

use crate::error::Error;
use crate::memory::{Block, PAGE};

/// Who says what is written in a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RegionMode {
    /// The engine finds out. [`Session::hint`](crate::Session::hint) isn't needed; a page that is hinted nevertheless
    /// may be left unwatched for an epoch, which pays for one that is written at most epochs.
    #[default]
    Tracked,
    /// The program, by [`Session::hint`](crate::Session::hint): no other page is looked at, so no write is
    /// caught and nothing is protected. What is written without a hint, by the program or by a system call, is
    /// in no checkpoint, or is, and is undone by a rollback, or isn't.
    Hinted,
    /// As [`Hinted`](Self::Hinted), and every checkpoint and rollback checks that nothing else was written: if
    /// something was, it fails with [`Error::NotHinted`] and does nothing. For tests: it reads all of the region
    /// each time, and keeps a copy of it in the program.
    Checked,
}

impl RegionMode {
    /// What the engine is told.
    pub(crate) fn engine(self) -> cairn_abi::RegionMode {
        match self {
            Self::Tracked => cairn_abi::RegionMode::Tracked,
            Self::Hinted | Self::Checked => cairn_abi::RegionMode::Hinted,
        }
    }
}

/// What a region held when the program last told all that it had written.
#[derive(Debug)]
pub(crate) struct Check {
    known: Block,
    /// Pages that were hinted since, a bit for each.
    hinted: Vec<u64>,
}

impl Check {
    /// Of a region that holds what it may hold.
    pub(crate) fn new(block: &Block) -> Result<Self, Error> {
        let mut known = Block::map(block.len()).map_err(Error::system("getting memory for a copy"))?;
        if !block.is_owned() {
            known.bytes_mut().copy_from_slice(block.bytes());
        }
        let words = (block.len() / PAGE).div_ceil(64);
        Ok(Self { known, hinted: vec![0; words] })
    }

    /// Takes note of a hint.
    pub(crate) fn hint(&mut self, pages: Range<u64>) {
        for (word, bits) in cairn_abi::hint::words(pages) {
            if let Some(known) = self.hinted.get_mut(word as usize) {
                *known |= bits;
            }
        }
    }

    /// The first page that was written without a hint, by its first byte.
    pub(crate) fn missed(&self, block: &Block) -> Option<usize> {
        let pages = block.bytes().chunks(PAGE).zip(self.known.bytes().chunks(PAGE)).enumerate();
        let mut missed = pages.filter(|(page, (now, known))| !self.is_hinted(*page) && now != known);
        missed.next().map(|(page, _)| page * PAGE)
    }

    /// The region is as it should be again: by a checkpoint or a rollback.
    pub(crate) fn renew(&mut self, block: &Block) {
        for (known, now) in self.known.bytes_mut().chunks_mut(PAGE).zip(block.bytes().chunks(PAGE)) {
            // Pages that never held anything are left without memory.
            if known != now {
                known.copy_from_slice(now);
            }
        }
        self.hinted.fill(0);
    }

    fn is_hinted(&self, page: usize) -> bool {
        self.hinted[page / 64] >> (page % 64) & 1 == 1
    }
}

/// The pages that elements of so many bytes are on. What is beyond `len` elements is left out; a range that ends
/// before it starts has none.
pub(crate) fn pages(range: &impl RangeBounds<usize>, len: usize, element_bytes: usize) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    let end = end.min(len);
    if end <= start {
        return 0..0;
    }
    // Both are at most the region's length, which is memory.
    let first = start * element_bytes / PAGE;
    let beyond = (end * element_bytes).div_ceil(PAGE);
    first as u64..beyond as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_on_pages() {
        assert_eq!(pages(&(0..1), 4096, 8), 0..1);
        assert_eq!(pages(&(511..513), 4096, 8), 0..2);
        assert_eq!(pages(&(512..=512), 4096, 8), 1..2);
        assert_eq!(pages(&(..), 4096, 8), 0..8);
        assert_eq!(pages(&(4090..usize::MAX), 4096, 8), 7..8);
        assert_eq!(pages(&(..=usize::MAX), 1, 1), 0..1);
        for nothing in [5..5, 4096..5000, usize::MAX..usize::MAX] {
            assert_eq!(pages(&nothing, 4096, 8), 0..0, "{nothing:?}");
        }
        assert_eq!(pages(&(Bound::Excluded(511), Bound::Unbounded), 600, 8), 1..2);
        let (first, last) = (7, 2);
        assert_eq!(pages(&(first..last), 4096, 8), 0..0);
    }
}
