//! The bytes in which one version differs from another.

use std::cmp::Ordering;
use std::collections::TryReserveError;

use cairn_abi::RegionId;

use crate::CHUNK_SIZE;
use crate::access::{Chunk, PAGE_CHUNKS};
use crate::mirror::{Mirror, Page};

/// Capacity beyond what is used that a delta may keep: a buffer that once held a large epoch gives memory back.
const MAX_SLACK_CHUNKS: usize = 16384;

/// The bytes that a version has where it differs from its neighbour in the version tree.
///
/// ```text
///   pages:   [ region 1, page 3, mask 0b0101 ][ region 1, page 9, mask 0b1000 ] ...   ascending
///   chunks:  [ chunk 0 ][ chunk 2 ]            [ chunk 3 ]                      ...   one for each bit, in order
/// ```
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pages: Vec<DeltaPage>,
    chunks: Vec<Chunk>,
    /// The most pages and chunks that the buffers held so far: what of them is resident.
    peak: (usize, usize),
}

/// Which chunks of one page differ.
#[derive(Clone, Copy, Debug)]
struct DeltaPage {
    region: RegionId,
    page: usize,
    mask: u64,
}

impl DeltaPage {
    fn key(&self) -> (RegionId, usize) {
        (self.region, self.page)
    }

    fn chunks(&self) -> usize {
        self.mask.count_ones() as usize
    }
}

impl Delta {
    /// Makes room for one page more.
    pub(crate) fn reserve_page(&mut self) -> Result<(), TryReserveError> {
        self.pages.try_reserve(1)
    }

    /// Where a page's chunks go before [`commit_page`](Self::commit_page) or [`drop_page`](Self::drop_page).
    pub(crate) fn chunks_mut(&mut self) -> &mut Vec<Chunk> {
        &mut self.chunks
    }

    /// Enters the page whose chunks, those of `mask`, were pushed last. Pages come in ascending order.
    pub(crate) fn commit_page(&mut self, region: RegionId, page: usize, mask: u64) {
        debug_assert!(self.pages.last().is_none_or(|last| last.key() < (region, page)), "pages ascend");
        self.pages.push(DeltaPage { region, page, mask });
    }

    /// Forgets the chunks of `mask`, which were pushed last.
    pub(crate) fn drop_page(&mut self, mask: u64) {
        self.chunks.truncate(self.chunks.len() - mask.count_ones() as usize);
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        (size_of_val(self.pages.as_slice()) + size_of_val(self.chunks.as_slice())) as u64
    }

    /// Bytes of the buffers that were ever in use. What they have in reserve beyond was never touched, so it has no memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let (pages, chunks) = self.peak();
        (pages * size_of::<DeltaPage>() + chunks * CHUNK_SIZE) as u64
    }

    fn peak(&self) -> (usize, usize) {
        (self.peak.0.max(self.pages.len()), self.peak.1.max(self.chunks.len()))
    }

    /// Empties it and keeps the buffers.
    pub(crate) fn clear(&mut self) {
        self.peak = self.peak();
        self.pages.clear();
        self.chunks.clear();
    }

    /// Gives back buffers that are far larger than what they hold.
    pub(crate) fn trim(&mut self) {
        if self.chunks.capacity() - self.chunks.len() > self.chunks.len() + MAX_SLACK_CHUNKS {
            self.chunks.shrink_to(self.chunks.len() + PAGE_CHUNKS);
            self.pages.shrink_to(self.pages.len() + 1);
            self.peak = (self.pages.len(), self.chunks.len());
        }
    }

    /// The pages that it touches.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (RegionId, usize)> + '_ {
        self.pages.iter().map(DeltaPage::key)
    }

    /// Swaps its bytes with those of the mirrors: applies it, and turns it into the delta that leads back.
    ///
    /// `mirrors` are in ascending order of region, and every region of the delta is among them.
    pub(crate) fn swap<'a>(&mut self, mirrors: impl Iterator<Item = (RegionId, &'a mut Mirror)>) {
        let mut chunks = self.chunks.as_mut_slice();
        let mut pages = self.pages.iter().peekable();
        for (region, mirror) in mirrors {
            while let Some(entry) = pages.next_if(|entry| entry.region == region) {
                let (own, rest) = std::mem::take(&mut chunks).split_at_mut(entry.chunks());
                chunks = rest;
                swap_page(mirror.page_mut(entry.page), entry.mask, own);
            }
        }
        debug_assert!(pages.next().is_none(), "a delta of a region without a mirror");
    }

    /// Removes all that it holds of `region`.
    pub(crate) fn purge(&mut self, region: RegionId) {
        self.peak = self.peak();
        let (mut from, mut to) = (0, 0);
        let chunks = &mut self.chunks;
        self.pages.retain(|entry| {
            let own = from..from + entry.chunks();
            from = own.end;
            if entry.region == region {
                return false;
            }
            let len = own.len();
            chunks.copy_within(own, to);
            to += len;
            true
        });
        self.chunks.truncate(to);
        self.trim();
    }

    /// The delta from `self`'s version to the neighbour of its neighbour, where `beyond` leads to that from its
    /// neighbour: the bytes of both, its own where both have some.
    ///
    /// # Errors
    /// No memory; both are as they were.
    pub(crate) fn merge(&self, beyond: &Self) -> Result<Self, TryReserveError> {
        let (mut pages, mut chunks) = (0, 0);
        for (mask, _) in Merge::new(self, beyond) {
            pages += 1;
            chunks += mask.mask.count_ones() as usize;
        }
        let mut merged = Self::default();
        merged.pages.try_reserve_exact(pages)?;
        merged.chunks.try_reserve_exact(chunks)?;
        for (entry, [own, other]) in Merge::new(self, beyond) {
            let (mut own_chunks, mut other_chunks) = (own.chunks.iter(), other.chunks.iter());
            for bit in bits(entry.mask) {
                // Both advance where both have the chunk, so that each stays in step with its mask.
                let from_other = if other.mask >> bit & 1 == 1 { other_chunks.next() } else { None };
                let from_own = if own.mask >> bit & 1 == 1 { own_chunks.next() } else { None };
                merged.chunks.extend(from_own.or(from_other));
            }
            merged.pages.push(entry);
        }
        Ok(merged)
    }
}

/// Swaps the chunks of `mask` with `chunks`, in order.
fn swap_page(page: &mut Page, mask: u64, chunks: &mut [Chunk]) {
    for (bit, chunk) in bits(mask).zip(chunks) {
        page[bit * CHUNK_SIZE..][..CHUNK_SIZE].swap_with_slice(&mut chunk.0);
    }
}

/// The indices of the bits that are set, ascending.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < PAGE_CHUNKS).then_some(bit)
    })
}

/// One side's part of a merged page: which chunks, and their bytes.
#[derive(Clone, Copy, Default)]
struct Part<'a> {
    mask: u64,
    chunks: &'a [Chunk],
}

/// Walks two deltas in step: each page of either, with both parts.
struct Merge<'a> {
    sides: [Cursor<'a>; 2],
}

#[derive(Clone, Copy)]
struct Cursor<'a> {
    pages: &'a [DeltaPage],
    chunks: &'a [Chunk],
}

impl<'a> Merge<'a> {
    fn new(own: &'a Delta, other: &'a Delta) -> Self {
        Self { sides: [own, other].map(|delta| Cursor { pages: &delta.pages, chunks: &delta.chunks }) }
    }
}

impl<'a> Cursor<'a> {
    /// Takes the first page, if it is `key`.
    fn take(&mut self, key: (RegionId, usize)) -> Part<'a> {
        let Some((first, rest)) = self.pages.split_first() else { return Part::default() };
        if first.key().cmp(&key) != Ordering::Equal {
            return Part::default();
        }
        let (chunks, later) = self.chunks.split_at(first.chunks());
        self.pages = rest;
        self.chunks = later;
        Part { mask: first.mask, chunks }
    }
}

impl<'a> Iterator for Merge<'a> {
    type Item = (DeltaPage, [Part<'a>; 2]);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.sides.iter().filter_map(|side| side.pages.first()).map(DeltaPage::key).min()?;
        let [own, other] = self.sides.each_mut().map(|side| side.take(key));
        let entry = DeltaPage { region: key.0, page: key.1, mask: own.mask | other.mask };
        Some((entry, [own, other]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: RegionId = RegionId(1);

    /// A delta of (region, page, chunk index, byte), ascending.
    fn delta(entries: &[(u32, usize, usize, u8)]) -> Delta {
        let mut delta = Delta::default();
        for group in entries.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let mask = group.iter().fold(0, |mask, entry| mask | 1 << entry.2);
            delta.chunks_mut().extend(group.iter().map(|entry| Chunk([entry.3; CHUNK_SIZE])));
            delta.commit_page(RegionId(group[0].0), group[0].1, mask);
        }
        delta
    }

    fn entries(delta: &Delta) -> Vec<(u32, usize, usize, u8)> {
        let mut chunks = delta.chunks.iter();
        let mut entries = Vec::new();
        for page in &delta.pages {
            for bit in bits(page.mask) {
                entries.push((page.region.0, page.page, bit, chunks.next().unwrap().0[63]));
            }
        }
        assert!(chunks.next().is_none());
        entries
    }

    #[test]
    fn swapping_twice_changes_nothing() {
        let mut mirror = Mirror::new(2).unwrap();
        let mut change = delta(&[(1, 0, 63, 5), (1, 1, 0, 6)]);
        change.swap([(REGION, &mut mirror)].into_iter());
        assert_eq!(mirror.page_mut(0)[4032..], [5; 64]);
        assert_eq!(mirror.page_mut(1)[..65], [[6; 64].as_slice(), &[0]].concat());
        assert_eq!(entries(&change), [(1, 0, 63, 0), (1, 1, 0, 0)]);
        change.swap([(REGION, &mut mirror)].into_iter());
        assert_eq!(mirror.page_mut(0), &[0; 4096]);
        assert_eq!(entries(&change), [(1, 0, 63, 5), (1, 1, 0, 6)]);
    }

    #[test]
    fn own_bytes_win_a_merge() {
        let own = delta(&[(1, 0, 3, 1), (1, 0, 5, 1), (2, 7, 0, 1)]);
        let beyond = delta(&[(1, 0, 2, 9), (1, 0, 3, 9), (1, 4, 0, 9), (3, 0, 0, 9)]);
        let merged = own.merge(&beyond).unwrap();
        let expected = [(1, 0, 2, 9), (1, 0, 3, 1), (1, 0, 5, 1), (1, 4, 0, 9), (2, 7, 0, 1), (3, 0, 0, 9)];
        assert_eq!(entries(&merged), expected);
        assert_eq!(entries(&own.merge(&Delta::default()).unwrap()), entries(&own));
        assert_eq!(entries(&Delta::default().merge(&own).unwrap()), entries(&own));
    }

    #[test]
    fn purging_a_region_keeps_the_others_in_step() {
        let mut change = delta(&[(1, 0, 3, 1), (2, 0, 1, 2), (2, 0, 2, 3), (2, 5, 2, 4), (3, 0, 9, 5)]);
        change.purge(RegionId(2));
        assert_eq!(entries(&change), [(1, 0, 3, 1), (3, 0, 9, 5)]);
        change.purge(RegionId(4));
        assert_eq!(entries(&change).len(), 2);
    }

    #[test]
    fn buffers_of_a_large_epoch_are_given_back() {
        let mut change = delta(&[(1, 0, 0, 1)]);
        change.chunks.resize(4 * MAX_SLACK_CHUNKS, Chunk([0; CHUNK_SIZE]));
        change.clear();
        assert_eq!((change.bytes(), change.resident_bytes() / 64), (0, 4 * MAX_SLACK_CHUNKS as u64));
        change.trim();
        assert_eq!(change.resident_bytes(), 0);
        assert!(change.chunks.capacity() <= MAX_SLACK_CHUNKS);
    }
}
