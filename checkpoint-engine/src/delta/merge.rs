//! Two deltas walked in step.

use cairn_abi::RegionId;

use super::{Delta, DeltaPage, Segment, ZERO};
use crate::access::Chunk;

/// Yields each page of either delta, ascending, as the entry of the merged delta and both parts of it.
pub(super) struct Merge<'a> {
    sides: [Side<'a>; 2],
}

/// What is left of one delta.
#[derive(Clone, Copy)]
struct Side<'a> {
    /// What is left of one segment.
    pages: &'a [DeltaPage],
    chunks: &'a [Chunk],
    /// The segments behind it.
    later: &'a [Segment],
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
        Self { sides: [own, beyond].map(|delta| Side::new(delta.segments())) }
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
    fn new(segments: &'a [Segment]) -> Self {
        let mut side = Self { pages: &[], chunks: &[], later: segments };
        side.go_on();
        side
    }

    /// Goes on to a segment that has pages, if the one before has no more.
    fn go_on(&mut self) {
        while let ([], Some((next, later))) = (self.pages, self.later.split_first()) {
            *self = Self { pages: &next.pages, chunks: &next.chunks, later };
        }
    }

    /// Takes the first page, if it is `key`.
    fn take(&mut self, key: (RegionId, usize)) -> Part<'a> {
        match self.pages.split_first() {
            Some((first, rest)) if first.key() == key => {
                let (chunks, later) = self.chunks.split_at(first.chunks());
                (self.pages, self.chunks) = (rest, later);
                self.go_on();
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
