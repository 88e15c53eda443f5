//! The bytes in which one version differs from another.

mod merge;

use std::collections::TryReserveError;

use cairn_abi::RegionId;

use crate::CHUNK_SIZE;
use crate::access::{Chunk, PAGE_CHUNKS, Taken};
use crate::mirror::{Mirror, Page};

use merge::Merge;

/// Capacity beyond what is used that a delta may keep: a buffer that once held a large epoch gives memory back.
const MAX_SLACK_CHUNKS: usize = 16384;

/// The bytes that a version has where it differs from its neighbour in the version tree.
///
/// ```text
///   pages:   [ region 1, page 3, mask 0b0101 ][ region 1, page 9, mask 0b1000 ] ...   ascending
///   chunks:  [ chunk 0 ][ chunk 2 ]            [ chunk 3 ]                      ...   one for each bit, in order
/// ```
/// The chunks of a page that was all zeros are left out, so that filling fresh memory costs no history.
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
    /// The version has zeros in all of `mask`, and `chunks` has nothing for the page.
    zero: bool,
}

/// What a page with [`DeltaPage::zero`] has in each chunk.
const ZERO: Chunk = Chunk([0; CHUNK_SIZE]);

impl DeltaPage {
    fn key(&self) -> (RegionId, usize) {
        (self.region, self.page)
    }

    /// How many chunks are kept.
    fn chunks(&self) -> usize {
        if self.zero { 0 } else { self.mask.count_ones() as usize }
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

    /// Enters a page; its chunks, unless it was all zeros, were pushed last. Pages come in ascending order.
    pub(crate) fn commit_page(&mut self, region: RegionId, page: usize, taken: Taken) {
        debug_assert!(self.ends_before(region, page), "pages ascend");
        self.pages.push(DeltaPage { region, page, mask: taken.mask, zero: taken.was_zero });
    }

    /// Whether `page` comes after all that it has.
    pub(crate) fn ends_before(&self, region: RegionId, page: usize) -> bool {
        self.pages.last().is_none_or(|last| last.key() < (region, page))
    }

    /// Forgets what was pushed for a page.
    pub(crate) fn drop_page(&mut self, taken: Taken) {
        if !taken.was_zero {
            self.chunks.truncate(self.chunks.len() - taken.mask.count_ones() as usize);
        }
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

    /// Writes out the zeros that are left out, which [`swap`](Self::swap) needs room for.
    ///
    /// # Errors
    /// No memory; it is as it was.
    pub(crate) fn unpack(&mut self) -> Result<(), TryReserveError> {
        if !self.pages.iter().any(|entry| entry.zero) {
            return Ok(());
        }
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(self.pages.iter().map(|entry| entry.mask.count_ones() as usize).sum())?;
        let mut packed = self.chunks.as_slice();
        for entry in &mut self.pages {
            let (own, rest) = packed.split_at(entry.chunks());
            packed = rest;
            chunks.extend_from_slice(own);
            if entry.zero {
                chunks.resize(chunks.len() + entry.mask.count_ones() as usize, ZERO);
                entry.zero = false;
            }
        }
        self.chunks = chunks;
        self.peak = (self.pages.len(), self.chunks.len());
        Ok(())
    }

    /// Swaps its bytes with those of the mirrors: applies it, and turns it into the delta that leads back. It
    /// was [unpacked](Self::unpack).
    ///
    /// `mirrors` are in ascending order of region, and every region of the delta is among them.
    pub(crate) fn swap<'a>(&mut self, mirrors: impl Iterator<Item = (RegionId, &'a mut Mirror)>) {
        debug_assert!(self.pages.iter().all(|entry| !entry.zero), "zeros are unpacked");
        self.walk(mirrors, |page, entry, own| {
            for (bit, chunk) in bits(entry.mask).zip(own) {
                chunk_of(page, bit).swap_with_slice(&mut chunk.0);
            }
        });
    }

    /// Applies it: writes its bytes to the mirrors, as [`swap`](Self::swap) does. What they held is lost.
    pub(crate) fn apply<'a>(&mut self, mirrors: impl Iterator<Item = (RegionId, &'a mut Mirror)>) {
        self.walk(mirrors, |page, entry, own| {
            let mut own = own.iter();
            for bit in bits(entry.mask) {
                chunk_of(page, bit).copy_from_slice(&own.next().unwrap_or(&ZERO).0);
            }
        });
    }

    /// Visits each page with its mirror's bytes and its own chunks.
    fn walk<'a>(
        &mut self,
        mirrors: impl Iterator<Item = (RegionId, &'a mut Mirror)>,
        mut visit: impl FnMut(&mut Page, &DeltaPage, &mut [Chunk]),
    ) {
        let mut chunks = self.chunks.as_mut_slice();
        let mut pages = self.pages.iter().peekable();
        for (region, mirror) in mirrors {
            while let Some(entry) = pages.next_if(|entry| entry.region == region) {
                let (own, rest) = std::mem::take(&mut chunks).split_at_mut(entry.chunks());
                chunks = rest;
                visit(mirror.page_mut(entry.page), entry, own);
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
        for (entry, _) in Merge::new(self, beyond) {
            pages += 1;
            chunks += entry.chunks();
        }
        let mut merged = Self::default();
        merged.pages.try_reserve_exact(pages)?;
        merged.chunks.try_reserve_exact(chunks)?;
        for (entry, [mut own, mut other]) in Merge::new(self, beyond) {
            merged.pages.push(entry);
            for bit in bits(entry.mask).take(entry.chunks()) {
                // Both advance where both have the chunk, so that each stays in step with its mask.
                let from_other = other.next(bit);
                merged.chunks.extend(own.next(bit).or(from_other));
            }
        }
        Ok(merged)
    }
}

/// The bytes of chunk `at`.
fn chunk_of(page: &mut Page, at: usize) -> &mut [u8] {
    &mut page[at * CHUNK_SIZE..][..CHUNK_SIZE]
}

/// The indices of the bits that are set, ascending.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < PAGE_CHUNKS).then_some(bit)
    })
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
            let was_zero = group.iter().all(|entry| entry.3 == 0);
            if !was_zero {
                delta.chunks_mut().extend(group.iter().map(|entry| Chunk([entry.3; CHUNK_SIZE])));
            }
            delta.commit_page(RegionId(group[0].0), group[0].1, Taken { mask, was_zero });
        }
        delta
    }

    fn entries(delta: &Delta) -> Vec<(u32, usize, usize, u8)> {
        let mut chunks = delta.chunks.iter();
        let mut entries = Vec::new();
        for page in &delta.pages {
            for bit in bits(page.mask) {
                let chunk = if page.zero { &ZERO } else { chunks.next().unwrap() };
                entries.push((page.region.0, page.page, bit, chunk.0[63]));
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
    fn zeros_take_no_room_until_they_are_swapped() {
        let list = [(1, 0, 3, 1), (1, 1, 0, 0), (1, 1, 63, 0), (2, 7, 0, 4)];
        let mut change = delta(&list);
        assert_eq!(change.chunks.len(), 2);
        let filled = delta(&[(1, 1, 0, 5), (1, 1, 1, 5)]);
        let merged = [(1, 0, 3, 1), (1, 1, 0, 0), (1, 1, 1, 5), (1, 1, 63, 0), (2, 7, 0, 4)];
        assert_eq!(entries(&change.merge(&filled).unwrap()), merged);
        assert_eq!(change.merge(&delta(&[(1, 1, 5, 0)])).unwrap().chunks.len(), 2);

        let (mut one, mut two) = (Mirror::new(2).unwrap(), Mirror::new(8).unwrap());
        one.page_mut(1).fill(7);
        change.apply([(REGION, &mut one), (RegionId(2), &mut two)].into_iter());
        assert_eq!((one.page_mut(1)[0], one.page_mut(1)[64], one.page_mut(1)[4095]), (0, 7, 0));
        assert_eq!(entries(&change), list);

        one.page_mut(1).fill(8);
        change.unpack().unwrap();
        assert_eq!((entries(&change), change.chunks.len()), (list.to_vec(), 4));
        change.swap([(REGION, &mut one), (RegionId(2), &mut two)].into_iter());
        assert_eq!(entries(&change), [(1, 0, 3, 1), (1, 1, 0, 8), (1, 1, 63, 8), (2, 7, 0, 4)]);
        assert_eq!((one.page_mut(1)[0], one.page_mut(1)[64], one.page_mut(1)[4095]), (0, 8, 0));
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
