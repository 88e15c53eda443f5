//! A piece of a delta: the pages that one thread took, one after the other.

use std::collections::TryReserveError;

use cairn_abi::RegionId;

use super::{DeltaPage, ZERO};
use crate::CHUNK_SIZE;
use crate::access::{Chunk, PAGE_CHUNKS, Taken};

/// Capacity beyond what is used that a segment may keep: a buffer that once held a large epoch gives memory back.
pub(super) const MAX_SLACK_CHUNKS: usize = 16384;

/// ```text
///   pages:   [ region 1, page 3, mask 0b0101 ][ region 1, page 9, mask 0b1000 ] ...   ascending
///   chunks:  [ chunk 0 ][ chunk 2 ]            [ chunk 3 ]                      ...   one for each bit, in order
/// ```
/// The chunks of a page that was all zeros are left out, so that filling fresh memory costs no history.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(super) pages: Vec<DeltaPage>,
    pub(super) chunks: Vec<Chunk>,
    /// The most pages and chunks that the buffers held so far: what of them is resident.
    peak: (usize, usize),
}

impl Segment {
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
        debug_assert!(self.pages.last().is_none_or(|last| last.key() < (region, page)), "pages ascend");
        self.pages.push(DeltaPage { region, page, mask: taken.mask, zero: taken.was_zero });
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

    /// Bytes of the buffers that were ever in use.
    pub(super) fn resident_bytes(&self) -> u64 {
        let (pages, chunks) = self.peak();
        (pages * size_of::<DeltaPage>() + chunks * CHUNK_SIZE) as u64
    }

    fn peak(&self) -> (usize, usize) {
        (self.peak.0.max(self.pages.len()), self.peak.1.max(self.chunks.len()))
    }

    /// Empties it and keeps the buffers.
    pub(super) fn clear(&mut self) {
        self.peak = self.peak();
        self.pages.clear();
        self.chunks.clear();
    }

    /// Gives back buffers that are far larger than what they hold.
    pub(super) fn trim(&mut self) {
        if self.chunks.capacity() - self.chunks.len() > self.chunks.len() + MAX_SLACK_CHUNKS {
            self.chunks.shrink_to(self.chunks.len() + PAGE_CHUNKS);
            self.pages.shrink_to(self.pages.len() + 1);
            self.peak = (self.pages.len(), self.chunks.len());
        }
    }

    /// Its bytes when the zeros that are left out are written out, or `None` if none are.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn unpacked(&self) -> Result<Option<Vec<Chunk>>, TryReserveError> {
        if !self.pages.iter().any(|entry| entry.zero) {
            return Ok(None);
        }
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(self.pages.iter().map(|entry| entry.mask.count_ones() as usize).sum())?;
        let mut packed = self.chunks.as_slice();
        for entry in &self.pages {
            let (own, rest) = packed.split_at(entry.chunks());
            packed = rest;
            chunks.extend_from_slice(own);
            if entry.zero {
                chunks.resize(chunks.len() + entry.mask.count_ones() as usize, ZERO);
            }
        }
        Ok(Some(chunks))
    }

    /// Takes what [`unpacked`](Self::unpacked) returned.
    pub(super) fn become_unpacked(&mut self, chunks: Vec<Chunk>) {
        self.chunks = chunks;
        self.pages.iter_mut().for_each(|entry| entry.zero = false);
        self.peak = (self.pages.len(), self.chunks.len());
    }

    /// Removes all that it holds of `region`.
    pub(super) fn purge(&mut self, region: RegionId) {
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
    }
}
