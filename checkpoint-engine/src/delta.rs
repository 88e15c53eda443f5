//! The bytes in which one version differs from another.

mod image;
mod merge;
mod segment;

use std::collections::TryReserveError;

use cairn_abi::RegionId;

use crate::CHUNK_SIZE;
use crate::access::{Chunk, PAGE_CHUNKS};
use crate::mirror::{Mirror, Page};

use merge::Merge;
pub(crate) use segment::Segment;

/// The bytes that a version has where it differs from its neighbour in the version tree: those of its segments,
/// one after the other, whose pages ascend from the first to the last.
///
/// A checkpoint that several threads take has a segment for each part of the work, so that nothing needs to be
/// copied together. How it is divided changes no byte of what the delta says.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Those in use come first. The others are empty and keep their buffers.
    segments: Vec<Segment>,
    used: usize,
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
    /// Whether `page` comes after all that it has.
    pub(crate) fn ends_before(&self, region: RegionId, page: usize) -> bool {
        let last = self.segments().iter().rev().find_map(|segment| segment.pages.last());
        last.is_none_or(|last| last.key() < (region, page))
    }

    /// `count` segments for what is taken next, beyond all that it holds. One alone may be the last, further on.
    ///
    /// # Errors
    /// No memory; it is as it was.
    pub(crate) fn open(&mut self, count: usize) -> Result<&mut [Segment], TryReserveError> {
        if count != 1 || self.used == 0 {
            let more = (self.used + count).saturating_sub(self.segments.len());
            self.segments.try_reserve(more)?;
            self.segments.extend((0..more).map(|_| Segment::default()));
            self.used += count;
        }
        Ok(&mut self.segments[self.used - count..self.used])
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments().iter().map(Segment::bytes).sum()
    }

    /// Bytes of the buffers that were ever in use. What they have in reserve beyond was never touched, so it has no memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::resident_bytes).sum()
    }

    /// Empties it and keeps the buffers.
    pub(crate) fn clear(&mut self) {
        self.segments.iter_mut().for_each(Segment::clear);
        self.used = 0;
    }

    /// Gives back buffers that are far larger than what they hold.
    pub(crate) fn trim(&mut self) {
        self.segments.iter_mut().for_each(Segment::trim);
    }

    /// The pages that it touches, and which chunks of them.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (RegionId, usize, u64)> + '_ {
        let pages = self.segments().iter().flat_map(|segment| &segment.pages);
        pages.map(|entry| (entry.region, entry.page, entry.mask))
    }

    /// Writes out the zeros that are left out, which [`swap`](Self::swap) needs room for. Returns whether there were
    /// any.
    ///
    /// # Errors
    /// No memory; it says what it said, but some zeros may be written out.
    pub(crate) fn unpack(&mut self) -> Result<bool, TryReserveError> {
        let mut any = false;
        for segment in &mut self.segments {
            if let Some(chunks) = segment.unpacked()? {
                segment.become_unpacked(chunks);
                any = true;
            }
        }
        Ok(any)
    }

    /// Swaps its bytes with those of the mirrors: applies it, and turns it into the delta that leads back. It
    /// was [unpacked](Self::unpack).
    ///
    /// `mirrors` are in ascending order of region, and every region of the delta is among them.
    pub(crate) fn swap<'a>(&mut self, mirrors: impl Iterator<Item = (RegionId, &'a mut Mirror)>) {
        debug_assert!(
            self.segments().iter().flat_map(|segment| &segment.pages).all(|entry| !entry.zero),
            "zeros are unpacked"
        );
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

    /// Visits each page with its mirror's bytes, which it writes, and its own chunks. A page that is zeros then isn't
    /// resident any more.
    fn walk<'a>(
        &mut self,
        mirrors: impl Iterator<Item = (RegionId, &'a mut Mirror)>,
        mut visit: impl FnMut(&mut Page, &DeltaPage, &mut [Chunk]),
    ) {
        let entries = self.segments.iter_mut().flat_map(|segment| {
            let mut chunks = segment.chunks.as_mut_slice();
            segment.pages.iter().map(move |entry| {
                let (own, rest) = std::mem::take(&mut chunks).split_at_mut(entry.chunks());
                chunks = rest;
                (entry, own)
            })
        });
        let mut entries = entries.peekable();
        for (region, mirror) in mirrors {
            while let Some((entry, own)) = entries.next_if(|(entry, _)| entry.region == region) {
                let page = mirror.page_mut(entry.page);
                visit(page, entry, own);
                // As a rule one chunk that was written says that it isn't.
                if is_zero(chunk_of(page, entry.mask.trailing_zeros() as usize)) && is_zero(page) {
                    mirror.whole().set_zero(entry.page);
                }
            }
        }
        debug_assert!(entries.next().is_none(), "a delta of a region without a mirror");
    }

    /// Removes all that it holds of `region`.
    pub(crate) fn purge(&mut self, region: RegionId) {
        self.segments.iter_mut().for_each(|segment| segment.purge(region));
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
        let mut delta = Self::default();
        let [merged] = delta.open(1)? else { return Ok(delta) };
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
        Ok(delta)
    }

    fn segments(&self) -> &[Segment] {
        &self.segments[..self.used]
    }
}

/// The bytes of chunk `at`.
fn chunk_of(page: &mut Page, at: usize) -> &mut [u8] {
    &mut page[at * CHUNK_SIZE..][..CHUNK_SIZE]
}

/// Whether `bytes`, a page or a chunk, are all zeros.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.as_chunks::<CHUNK_SIZE>().0.iter().all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
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
    use super::segment::MAX_SLACK_CHUNKS;
    use super::*;
    use crate::access::Taken;

    const REGION: RegionId = RegionId(1);

    /// A delta of (region, page, chunk index, byte), ascending.
    pub(super) fn delta(entries: &[(u32, usize, usize, u8)]) -> Delta {
        divided(&[entries])
    }

    /// The same in several segments.
    pub(super) fn divided(segments: &[&[(u32, usize, usize, u8)]]) -> Delta {
        let mut delta = Delta::default();
        for (segment, entries) in delta.open(segments.len()).unwrap().iter_mut().zip(segments) {
            fill(segment, entries);
        }
        delta
    }

    fn fill(segment: &mut Segment, entries: &[(u32, usize, usize, u8)]) {
        for group in entries.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let mask = group.iter().fold(0, |mask, entry| mask | 1 << entry.2);
            let was_zero = group.iter().all(|entry| entry.3 == 0);
            if !was_zero {
                segment.chunks_mut().extend(group.iter().map(|entry| Chunk([entry.3; CHUNK_SIZE])));
            }
            segment.commit_page(RegionId(group[0].0), group[0].1, Taken { mask, was_zero });
        }
    }

    pub(super) fn entries(delta: &Delta) -> Vec<(u32, usize, usize, u8)> {
        let mut chunks = delta.segments().iter().flat_map(|segment| &segment.chunks);
        let mut entries = Vec::new();
        for page in delta.segments().iter().flat_map(|segment| &segment.pages) {
            for bit in bits(page.mask) {
                let chunk = if page.zero { &ZERO } else { chunks.next().unwrap() };
                entries.push((page.region.0, page.page, bit, chunk.0[63]));
            }
        }
        assert!(chunks.next().is_none());
        entries
    }

    fn chunks(delta: &Delta) -> usize {
        delta.segments().iter().map(|segment| segment.chunks.len()).sum()
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
        assert_eq!(chunks(&change), 2);
        let filled = delta(&[(1, 1, 0, 5), (1, 1, 1, 5)]);
        let merged = [(1, 0, 3, 1), (1, 1, 0, 0), (1, 1, 1, 5), (1, 1, 63, 0), (2, 7, 0, 4)];
        assert_eq!(entries(&change.merge(&filled).unwrap()), merged);
        assert_eq!(chunks(&change.merge(&delta(&[(1, 1, 5, 0)])).unwrap()), 2);

        let (mut one, mut two) = (Mirror::new(2).unwrap(), Mirror::new(8).unwrap());
        one.page_mut(1).fill(7);
        change.apply([(REGION, &mut one), (RegionId(2), &mut two)].into_iter());
        assert_eq!((one.page_mut(1)[0], one.page_mut(1)[64], one.page_mut(1)[4095]), (0, 7, 0));
        assert_eq!(entries(&change), list);

        one.page_mut(1).fill(8);
        change.unpack().unwrap();
        assert_eq!((entries(&change), chunks(&change)), (list.to_vec(), 4));
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
    fn a_division_into_segments_changes_nothing() {
        let list = [(1, 0, 3, 1), (1, 1, 0, 0), (1, 1, 63, 0), (1, 9, 2, 3), (2, 7, 0, 4), (2, 8, 1, 5)];
        let other = delta(&[(1, 1, 2, 9), (1, 9, 2, 9), (2, 8, 0, 9)]);
        for (first, second) in [(0, 0), (1, 1), (1, 3), (3, 5), (4, 6), (6, 6)] {
            let cut = || divided(&[&list[..first], &list[first..second], &list[second..]]);
            assert_eq!(entries(&cut()), list);
            assert_eq!(cut().bytes(), delta(&list).bytes());
            assert!(cut().touched().eq(delta(&list).touched()));
            assert_eq!(entries(&cut().merge(&other).unwrap()), entries(&delta(&list).merge(&other).unwrap()));
            assert_eq!(entries(&other.merge(&cut()).unwrap()), entries(&other.merge(&delta(&list)).unwrap()));
            let mut purged = cut();
            purged.purge(RegionId(1));
            assert_eq!(entries(&purged), list[4..]);

            let (mut one, mut two) = (Mirror::new(10).unwrap(), Mirror::new(10).unwrap());
            one.page_mut(1).fill(8);
            let mut swapped = cut();
            swapped.unpack().unwrap();
            swapped.swap([(REGION, &mut one), (RegionId(2), &mut two)].into_iter());
            assert_eq!((one.page_mut(1)[0], one.page_mut(9)[128], two.page_mut(8)[64]), (0, 3, 5));
            let held = [(1, 0, 3, 0), (1, 1, 0, 8), (1, 1, 63, 8), (1, 9, 2, 0), (2, 7, 0, 0), (2, 8, 1, 0)];
            assert_eq!(entries(&swapped), held);
        }
    }

    #[test]
    fn emptied_segments_are_used_again() {
        let mut delta = divided(&[&[(1, 0, 0, 1)], &[(1, 5, 0, 1)], &[(1, 9, 0, 1)]]);
        delta.clear();
        assert_eq!((delta.bytes(), delta.touched().count()), (0, 0));
        fill(&mut delta.open(1).unwrap()[0], &[(1, 3, 0, 7)]);
        fill(&mut delta.open(1).unwrap()[0], &[(1, 4, 0, 8)]);
        fill(&mut delta.open(2).unwrap()[1], &[(2, 0, 0, 9)]);
        assert_eq!((delta.segments.len(), delta.used), (3, 3));
        assert_eq!(entries(&delta), [(1, 3, 0, 7), (1, 4, 0, 8), (2, 0, 0, 9)]);
    }

    #[test]
    fn buffers_of_a_large_epoch_are_given_back() {
        let mut change = delta(&[(1, 0, 0, 1)]);
        change.segments[0].chunks.resize(4 * MAX_SLACK_CHUNKS, Chunk([0; CHUNK_SIZE]));
        change.clear();
        assert_eq!((change.bytes(), change.resident_bytes() / 64), (0, 4 * MAX_SLACK_CHUNKS as u64));
        change.trim();
        assert_eq!(change.resident_bytes(), 0);
        assert!(change.segments[0].chunks.capacity() <= MAX_SLACK_CHUNKS);
    }
}
