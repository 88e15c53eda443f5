//! Somebody who keeps checkpoints elsewhere, and believes what he is told.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;

use cairn_abi::{CheckpointId, RegionId};

use super::model::Copies;
use crate::{CHUNK_SIZE, ChangeSink, PAGE_SIZE};

/// Pages of the largest region.
const MOST_PAGES: usize = 128;

/// The newest version that is kept for certain, and those that were handed over since.
#[derive(Default)]
pub(super) struct Elsewhere {
    kept: Copies,
    handed: Vec<Copies>,
}

/// A version in the making.
pub(super) struct Making<'a> {
    made: &'a mut Copies,
    before: Copies,
    region: RegionId,
    /// Pages of the region that were told.
    told: BTreeSet<usize>,
}

impl Elsewhere {
    pub(super) fn is_empty(&self) -> bool {
        self.latest().is_empty()
    }

    fn latest(&self) -> &Copies {
        self.handed.last().unwrap_or(&self.kept)
    }

    /// The newest version, of regions of the largest size.
    pub(super) fn newest(&self) -> impl Iterator<Item = (&RegionId, &Vec<u8>)> {
        self.latest().iter()
    }

    /// Begins a version: on top of the newest, or of nothing.
    pub(super) fn begin(&mut self, from_nothing: bool) -> Making<'_> {
        let before = if from_nothing { Copies::new() } else { self.latest().clone() };
        self.handed.push(Copies::new());
        let made = self.handed.last_mut().unwrap();
        Making { made, before, region: RegionId(0), told: BTreeSet::new() }
    }

    /// This is kept, from elsewhere.
    pub(super) fn start_with(&mut self, copies: Copies) {
        self.kept = copies;
    }

    pub(super) fn kept(&mut self) {
        self.kept = self.handed.pop().unwrap_or(std::mem::take(&mut self.kept));
        self.handed.clear();
    }

    pub(super) fn lost(&mut self) {
        self.handed.clear();
    }
}

/// The deltas of a history that are kept for certain, and those that were handed over since.
#[derive(Default)]
pub(super) struct HistoryElsewhere {
    kept: BTreeMap<CheckpointId, Vec<u8>>,
    handed: BTreeMap<CheckpointId, Vec<u8>>,
}

impl HistoryElsewhere {
    pub(super) fn take(&mut self, id: CheckpointId, delta: Vec<u8>) {
        self.handed.insert(id, delta);
    }

    pub(super) fn kept(&mut self) {
        self.kept.append(&mut self.handed);
    }

    pub(super) fn lost(&mut self) {
        self.handed.clear();
    }

    pub(super) fn delta(&self, id: CheckpointId) -> Vec<u8> {
        self.handed.get(&id).unwrap_or_else(|| &self.kept[&id]).clone()
    }
}

impl Making<'_> {
    fn bytes(&mut self, page: usize) -> &mut [u8] {
        assert!(self.told.insert(page), "page {page} is told twice");
        &mut self.made.get_mut(&self.region).unwrap()[page * PAGE_SIZE..][..PAGE_SIZE]
    }
}

impl ChangeSink for Making<'_> {
    type Error = Infallible;

    fn region(&mut self, region: RegionId, pages: usize) -> Result<(), Infallible> {
        assert!(pages <= MOST_PAGES && self.region < region);
        self.region = region;
        self.told.clear();
        let before = self.before.remove(&region).unwrap_or_else(|| vec![0; pages * PAGE_SIZE]);
        self.made.insert(region, before);
        Ok(())
    }

    fn zero(&mut self, pages: Range<usize>) -> Result<(), Infallible> {
        pages.for_each(|page| self.bytes(page).fill(0));
        Ok(())
    }

    fn page(&mut self, page: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Infallible> {
        self.bytes(page).copy_from_slice(bytes);
        Ok(())
    }

    fn chunks(&mut self, page: usize, mask: u64, bytes: &[u8]) -> Result<(), Infallible> {
        assert!(mask != 0 && mask != u64::MAX);
        let mut bytes = bytes.chunks_exact(CHUNK_SIZE);
        let page = self.bytes(page);
        for chunk in (0..64).filter(|chunk| mask >> chunk & 1 == 1) {
            page[chunk * CHUNK_SIZE..][..CHUNK_SIZE].copy_from_slice(bytes.next().unwrap());
        }
        assert!(bytes.next().is_none());
        Ok(())
    }
}
