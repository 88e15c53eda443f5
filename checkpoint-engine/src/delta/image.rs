//! A delta as plain bytes, and back.
//!
//! ```text
//!   count, 8 bytes
//!   count times:  region, 4 | 1 if the version has zeros there, 4 | page, 8 | mask, 8
//!   the chunks of all pages whose bytes aren't zeros, in order
//! ```
//! Numbers are little-endian.

use std::collections::TryReserveError;

use cairn_abi::RegionId;

use super::{Delta, DeltaPage};
use crate::CHUNK_SIZE;
use crate::access::Chunk;

const COUNT_LEN: usize = 8;
const ENTRY_LEN: usize = 24;

impl Delta {
    /// How many bytes [`to_bytes`](Self::to_bytes) answers.
    pub(crate) fn bytes_len(&self) -> u64 {
        let lens = self
            .segments()
            .iter()
            .map(|segment| segment.pages.len() * ENTRY_LEN + size_of_val(segment.chunks.as_slice()));
        (COUNT_LEN + lens.sum::<usize>()) as u64
    }

    /// All that it says.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, TryReserveError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(self.bytes_len()).unwrap_or(usize::MAX))?;
        let pages = || self.segments().iter().flat_map(|segment| &segment.pages);
        bytes.extend((pages().count() as u64).to_le_bytes());
        for DeltaPage { region, page, mask, zero } in pages() {
            bytes.extend(region.0.to_le_bytes());
            bytes.extend(u32::from(*zero).to_le_bytes());
            bytes.extend((*page as u64).to_le_bytes());
            bytes.extend(mask.to_le_bytes());
        }
        for chunk in self.segments().iter().flat_map(|segment| &segment.chunks) {
            bytes.extend(chunk.0);
        }
        Ok(bytes)
    }

    /// The delta that `bytes` are, which may be anybody's: `None` if they are none, or name a page that isn't one.
    /// `pages` knows how many pages a region has, if there is such a region.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn from_bytes(
        bytes: &[u8],
        pages: impl Fn(RegionId) -> Option<usize>,
    ) -> Result<Option<Self>, TryReserveError> {
        let Some((entries, rest)) = split(bytes) else { return Ok(None) };
        let mut delta = Self::default();
        let [segment] = delta.open(1)? else { return Ok(None) };
        segment.pages.try_reserve_exact(entries.len())?;
        segment.chunks.try_reserve_exact(rest.len())?;
        let mut chunks = 0;
        for bytes in entries {
            let Some(entry) = entry(bytes) else { return Ok(None) };
            let ascends = segment.pages.last().is_none_or(|last| last.key() < entry.key());
            let is_there = pages(entry.region).is_some_and(|pages| entry.page < pages);
            if !ascends || !is_there {
                return Ok(None);
            }
            chunks += entry.chunks();
            segment.pages.push(entry);
        }
        if chunks != rest.len() {
            return Ok(None);
        }
        segment.chunks.extend(rest.iter().copied().map(Chunk));
        Ok(Some(delta))
    }
}

/// An entry and a chunk, as they stand there.
type RawEntry = [u8; ENTRY_LEN];
type RawChunk = [u8; CHUNK_SIZE];

/// The entries and the chunks, whole ones.
fn split(bytes: &[u8]) -> Option<(&[RawEntry], &[RawChunk])> {
    let (count, rest) = bytes.split_first_chunk::<COUNT_LEN>()?;
    let entries = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(ENTRY_LEN)?;
    let (entries, chunks) = rest.split_at_checked(entries)?;
    let (chunks, left) = chunks.as_chunks();
    left.is_empty().then_some((entries.as_chunks().0, chunks))
}

fn entry(bytes: &RawEntry) -> Option<DeltaPage> {
    let (region, rest) = bytes.split_first_chunk::<4>()?;
    let (zero, rest) = rest.split_first_chunk::<4>()?;
    let (page, rest) = rest.split_first_chunk::<8>()?;
    let mask = u64::from_le_bytes(*rest.first_chunk::<8>()?);
    let zero = match u32::from_le_bytes(*zero) {
        0 => false,
        1 => true,
        _ => return None,
    };
    let page = usize::try_from(u64::from_le_bytes(*page)).ok()?;
    (mask != 0).then_some(DeltaPage { region: RegionId(u32::from_le_bytes(*region)), page, mask, zero })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delta, divided, entries};
    use super::*;

    const PAGES: usize = 10;

    fn pages(region: RegionId) -> Option<usize> {
        (region.0 == 1 || region.0 == 3).then_some(PAGES)
    }

    #[test]
    fn a_delta_comes_back() {
        let list = [(1, 0, 3, 1), (1, 1, 0, 0), (1, 1, 63, 0), (1, 9, 2, 3), (3, 7, 0, 4)];
        for delta in [delta(&list), divided(&[&list[..1], &[], &list[1..]]), Delta::default()] {
            let bytes = delta.to_bytes().unwrap();
            assert_eq!(bytes.len() as u64, delta.bytes_len());
            let back = Delta::from_bytes(&bytes, pages).unwrap().unwrap();
            assert_eq!(entries(&back), entries(&delta));
        }
    }

    #[test]
    fn bytes_that_are_none_are_refused() {
        let good = delta(&[(1, 0, 3, 1), (1, 9, 2, 3), (3, 7, 0, 4)]).to_bytes().unwrap();
        let none = |bytes: &[u8]| assert!(Delta::from_bytes(bytes, pages).unwrap().is_none(), "{bytes:?}");
        (0..good.len()).for_each(|len| none(&good[..len]));
        none(&[good.as_slice(), &[0]].concat());
        // The count, a region, the zero, a page beyond, an order, a mask.
        for (at, byte) in [(0, 4), (7, 255), (8, 2), (12, 1), (12, 7), (16, 10), (40, 0), (24, 255), (25, 1)]
        {
            let mut bytes = good.clone();
            bytes[at] = byte;
            none(&bytes);
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                // Either is fine but a panic.
                let _ = Delta::from_bytes(&bytes, pages).unwrap();
            }
        }
    }
}
