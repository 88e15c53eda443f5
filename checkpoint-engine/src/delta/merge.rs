//! Two deltas walked in step.

use cairn_abi::RegionId;

use super::{Delta, DeltaPage, ZERO};
use crate::access::Chunk;

/// Yields each page of either delta, ascending, as the entry of the merged delta and both parts of it.
pub(super) struct Merge<'a> {
    sides: [Side<'a>; 2],
}

/// What is left of one delta.
#[derive(Clone, Copy)]
struct Side<'a> {
    pages: &'a [DeltaPage],
    chunks: &'a [Chunk],
}

/// What one delta has of a page, and how far it was read.
#[derive(Clone, Copy, Default)]
pub(super) struct Part<'a> {
    mask: u64,
    /// Empty if the page is all zeros.
    chunks: &'a [Chunk],
}

impl<'a> Merge<'a> {
    pub(super) fn new(own: &'a Delta, beyond: &'a Delta) -> Self {
        Self { sides: [own, beyond].map(|delta| Side { pages: &delta.pages, chunks: &delta.chunks }) }
    }
}

impl<'a> Iterator for Merge<'a> {
    type Item = (DeltaPage, [Part<'a>; 2]);

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.sides.iter().filter_map(|side| side.pages.first());
        let (region, page) = first.map(DeltaPage::key).min()?;
        let parts = self.sides.each_mut().map(|side| side.take((region, page)));
        let mask = parts[0].mask | parts[1].mask;
        let zero = parts.iter().all(|part| part.chunks.is_empty());
        Some((DeltaPage { region, page, mask, zero }, parts))
    }
}

impl<'a> Side<'a> {
    /// Takes the first page, if it is `key`.
    fn take(&mut self, key: (RegionId, usize)) -> Part<'a> {
        match self.pages.split_first() {
            Some((first, rest)) if first.key() == key => {
                let (chunks, later) = self.chunks.split_at(first.chunks());
                (self.pages, self.chunks) = (rest, later);
                Part { mask: first.mask, chunks }
            }
            _ => Part::default(),
        }
    }
}

impl<'a> Part<'a> {
    /// Its chunk `bit`, if it has that. Asked for in ascending order.
    pub(super) fn next(&mut self, bit: usize) -> Option<&'a Chunk> {
        if self.mask >> bit & 1 == 0 {
            return None;
        }
        let Some((first, rest)) = self.chunks.split_first() else { return Some(&ZERO) };
        self.chunks = rest;
        Some(first)
    }
}
