//! Copies every region at every checkpoint.

use std::ops::Range;

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName};

use super::resident::{self, Runs};
use super::sys::pagemap::Pagemap;
use super::versions::Versions;
use super::{Engine, Failure, Limits, MAX_BYTES, MAX_REGIONS};
use crate::error::Error;
use crate::memory::{Block, PAGE};
use crate::region::Regions;

/// What a page holds that was never written.
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// One region's content. What is not in `runs` was zeros, whatever the buffer holds there.
#[derive(Debug)]
struct Copied {
    region: RegionId,
    buffer: Block,
    runs: Runs,
}

/// The engine. Buffers are used again, one more than the history: a first touch costs more than a copy.
#[derive(Debug)]
pub(super) struct FullCopy {
    versions: Versions<Vec<Copied>>,
    spare: Vec<Block>,
    pagemap: Option<Pagemap>,
    regions: Vec<RegionId>,
    last_region: u32,
}

impl FullCopy {
    pub(super) fn new(history: u32) -> Self {
        Self {
            versions: Versions::new(history),
            spare: Vec::new(),
            pagemap: Pagemap::own().ok(),
            regions: Vec::new(),
            last_region: 0,
        }
    }

    /// Takes a snapshot's buffers back, those that a region can use again.
    fn recycle(&mut self, snapshot: Vec<Copied>) {
        let live = |copied: &Copied| self.regions.contains(&copied.region);
        self.spare.extend(snapshot.into_iter().filter(live).map(|copied| copied.buffer));
    }

    /// A buffer of `len` bytes, used or new.
    fn buffer(&mut self, len: usize) -> Result<Block, Error> {
        if let Some(index) = self.spare.iter().position(|block| block.len() == len) {
            return Ok(self.spare.swap_remove(index));
        }
        let block = Block::map(len).map_err(Error::system("getting memory for a checkpoint"))?;
        block.prefer_huge_pages();
        Ok(block)
    }
}

impl Engine for FullCopy {
    fn limits(&self) -> Limits {
        Limits { history: self.versions.history(), regions: MAX_REGIONS, bytes: MAX_BYTES }
    }

    fn register(
        &mut self,
        _name: &RegionName,
        block: &Block,
        _mode: RegionMode,
        _tag: u64,
    ) -> Result<RegionId, Failure> {
        if block.is_owned() {
            block.prefer_huge_pages();
        }
        self.last_region += 1;
        let id = RegionId(self.last_region);
        self.regions.push(id);
        Ok(id)
    }

    fn unregister(&mut self, region: RegionId) -> Result<(), Failure> {
        self.regions.retain(|live| *live != region);
        self.spare.clear();
        Ok(())
    }

    fn checkpoint(&mut self, regions: &Regions) -> Result<CheckpointId, Failure> {
        let mut snapshot = Vec::new();
        for entry in regions.iter() {
            let mut buffer = self.buffer(entry.block.len())?;
            let runs = resident::runs(&entry.block, self.pagemap.as_mut());
            copy(entry.block.bytes(), buffer.bytes_mut(), &runs);
            snapshot.push(Copied { region: entry.id, buffer, runs });
        }
        // Only now does another make room: a checkpoint that fails costs none.
        let (id, evicted) = self.versions.add(regions, snapshot);
        self.recycle(evicted.unwrap_or_default());
        Ok(id)
    }

    fn rollback(&mut self, regions: &mut Regions, id: CheckpointId) -> Result<(), Failure> {
        let version = self.versions.with_regions(id, regions)?;
        // Both in the order of the regions' slots, and the same regions.
        for (entry, copied) in regions.iter_mut().zip(&version.snapshot) {
            let touched = resident::runs(&entry.block, self.pagemap.as_mut());
            let live = entry.block.bytes_mut();
            copy(copied.buffer.bytes(), live, &copied.runs);
            for run in resident::difference(&touched, &copied.runs) {
                resident::restore_zeros(&mut live[run]);
            }
        }
        self.versions.current = Some(id);
        self.versions.rollbacks += 1;
        Ok(())
    }

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure> {
        let snapshot = self.versions.remove(id)?;
        self.recycle(snapshot);
        Ok(())
    }

    fn figures(&mut self) -> Result<SessionFigures, Failure> {
        let copies = self.versions.iter().flat_map(|version| &version.snapshot);
        let held: u64 = copies.map(Copied::bytes).sum();
        let spare: usize = self.spare.iter().map(Block::len).sum();
        Ok(SessionFigures {
            regions: u32::try_from(self.regions.len()).unwrap_or(u32::MAX),
            retained: self.versions.retained(),
            current: self.versions.current.map_or(0, |id| id.0),
            checkpoints: self.versions.taken(),
            rollbacks: self.versions.rollbacks,
            history_bytes: held + spare as u64,
            ..SessionFigures::default()
        })
    }

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure> {
        let version = self.versions.get(id)?;
        let before = version.parent.and_then(|parent| self.versions.get(parent).ok());
        let changed = version.snapshot.iter().map(|copied| {
            let before = before
                .and_then(|version| version.snapshot.iter().find(|earlier| earlier.region == copied.region));
            copied.count_changed_pages(before)
        });
        Ok(CheckpointFigures {
            id,
            parent: version.parent,
            pages_changed: changed.sum(),
            bytes: version.snapshot.iter().map(Copied::bytes).sum(),
        })
    }

    fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Failure> {
        self.versions.ids().into_iter().map(|id| self.checkpoint_figures(id)).collect()
    }
}

impl Copied {
    /// Bytes that it was copied from; the buffer may have more from earlier use.
    fn bytes(&self) -> u64 {
        self.runs.iter().map(Range::len).sum::<usize>() as u64
    }

    /// Pages that differ from `before`, or from zeros.
    fn count_changed_pages(&self, before: Option<&Self>) -> u64 {
        let starts = (0..self.buffer.len()).step_by(PAGE);
        let differs =
            |start: &usize| self.page(*start) != before.map_or(&ZERO_PAGE[..], |before| before.page(*start));
        starts.filter(differs).count() as u64
    }

    /// The page from byte `start` on.
    fn page(&self, start: usize) -> &[u8] {
        let index = self.runs.partition_point(|run| run.end <= start);
        match self.runs.get(index) {
            Some(run) if run.contains(&start) => &self.buffer.bytes()[start..start + PAGE],
            _ => &ZERO_PAGE,
        }
    }
}

/// Copies those runs.
fn copy(from: &[u8], to: &mut [u8], runs: &[Range<usize>]) {
    for run in runs {
        to[run.clone()].copy_from_slice(&from[run.clone()]);
    }
}
