//! A child process holds each snapshot: the kernel copies a page when it is first written afterwards.

use std::ops::Range;

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName};

use super::resident::{self, Runs};
use super::sys::pagemap::Pagemap;
use super::sys::process::{DyingProcess, FrozenMemory, FrozenProcess, Lifeline};
use super::sys::usage::Usage;
use super::versions::Versions;
use super::{Engine, Failure, Limits, MAX_BYTES, MAX_REGIONS};
use crate::error::Error;
use crate::memory::Block;
use crate::region::Regions;

/// Bytes that are read from a child at once: they stay in a second-level cache until they were compared.
const WINDOW: usize = 256 << 10;

/// The memory of one checkpoint.
#[derive(Debug)]
struct Snapshot {
    process: FrozenProcess,
    regions: Vec<Held>,
}

/// A region in a child.
#[derive(Clone, Debug)]
struct Held {
    region: RegionId,
    address: usize,
    len: usize,
    /// Whether pages that have no memory are zeros.
    sparse: bool,
}

/// The engine.
#[derive(Debug)]
pub(super) struct ForkEngine {
    versions: Versions<Snapshot>,
    /// Killed and giving back their memory. A later call reaps them, so that none waits for it.
    dying: Vec<DyingProcess>,
    lifeline: Lifeline,
    pagemap: Option<Pagemap>,
    regions: u32,
    last_region: u32,
}

impl ForkEngine {
    /// Tries what it needs: a child can be made, and its memory read.
    pub(super) fn new(history: u32) -> std::io::Result<Self> {
        let lifeline = Lifeline::open()?;
        let probe = [1_u8; 8];
        let mut read = [0; 8];
        FrozenProcess::new(&lifeline)?.memory()?.read(probe.as_ptr().addr(), &mut read)?;
        Ok(Self {
            versions: Versions::new(history),
            dying: Vec::new(),
            lifeline,
            pagemap: Pagemap::own().ok(),
            regions: 0,
            last_region: 0,
        })
    }

    fn end(&mut self, snapshot: Option<Snapshot>) {
        self.dying.retain_mut(|process| !process.is_gone());
        self.dying.extend(snapshot.map(|snapshot| snapshot.process.end()));
    }
}

impl Engine for ForkEngine {
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
        // Forking copies one entry for 2 MiB then, where it would copy 512.
        if block.is_owned() {
            block.prefer_huge_pages();
        }
        self.regions += 1;
        self.last_region += 1;
        Ok(RegionId(self.last_region))
    }

    fn unregister(&mut self, _region: RegionId) -> Result<(), Failure> {
        self.regions -= 1;
        Ok(())
    }

    fn checkpoint(&mut self, regions: &Regions) -> Result<CheckpointId, Failure> {
        let process = FrozenProcess::new(&self.lifeline).map_err(Error::system("forking a snapshot"))?;
        let held = regions.iter().map(|entry| Held {
            region: entry.id,
            address: entry.block.address(),
            len: entry.block.len(),
            sparse: entry.block.is_owned(),
        });
        let (id, evicted) = self.versions.add(regions, Snapshot { process, regions: held.collect() });
        self.end(evicted);
        Ok(id)
    }

    fn rollback(&mut self, regions: &mut Regions, id: CheckpointId) -> Result<(), Failure> {
        let snapshot = &self.versions.with_regions(id, regions)?.snapshot;
        let memory = snapshot.memory(id)?;
        let mut pagemap = snapshot.pagemap();
        let mut window = vec![0; WINDOW];
        // Both in the order of the regions' slots, and the same regions.
        for (entry, held) in regions.iter_mut().zip(&snapshot.regions) {
            let touched = resident::runs(&entry.block, self.pagemap.as_mut());
            let there = held.resident(pagemap.as_mut());
            let live = entry.block.bytes_mut();
            for part in windows(&there) {
                let wanted = &mut window[..part.len()];
                memory.read(held.address + part.start, wanted).map_err(lost(id))?;
                resident::restore_pages(&mut live[part], wanted);
            }
            for run in resident::difference(&touched, &there) {
                resident::restore_zeros(&mut live[run]);
            }
        }
        self.versions.current = Some(id);
        self.versions.rollbacks += 1;
        Ok(())
    }

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure> {
        let snapshot = self.versions.remove(id)?;
        self.end(Some(snapshot));
        Ok(())
    }

    /// The history is what only the children have: all memory of theirs and ours, pages that several
    /// share counted once, less all that we have. With two such sessions in a process it is less than that:
    /// what the other's children share is not counted.
    fn figures(&mut self) -> Result<SessionFigures, Failure> {
        // A child on its way out would be a sharer that nobody counts; dropping waits for it.
        self.dying.clear();
        let failed = || Error::system("reading what the snapshots cost");
        let own = Usage::own().map_err(failed())?;
        let (mut shared, mut tables) = (own.proportional, 0);
        for version in self.versions.iter() {
            let usage = Usage::of(version.snapshot.process.pid()).map_err(failed())?;
            shared += usage.proportional;
            tables += usage.page_tables;
        }
        Ok(SessionFigures {
            regions: self.regions,
            retained: self.versions.retained(),
            current: self.versions.current.map_or(0, |id| id.0),
            checkpoints: self.versions.taken(),
            rollbacks: self.versions.rollbacks,
            history_bytes: shared.saturating_sub(own.anonymous),
            table_bytes: tables,
            ..SessionFigures::default()
        })
    }

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure> {
        let version = self.versions.get(id)?;
        let parent = version.parent.and_then(|parent| self.versions.get(parent).ok());
        let usage = Usage::of(version.snapshot.process.pid())
            .map_err(Error::system("reading what a snapshot costs"))?;
        let mut pages_changed = 0;
        for held in &version.snapshot.regions {
            let before = parent.and_then(|parent| {
                let before = parent.snapshot.regions.iter().find(|before| before.region == held.region)?;
                Some((parent.id, &parent.snapshot, before))
            });
            pages_changed += version.snapshot.count_changed_pages(id, held, before)?;
        }
        Ok(CheckpointFigures { id, parent: version.parent, pages_changed, bytes: usage.private })
    }

    fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Failure> {
        self.versions.ids().into_iter().map(|id| self.checkpoint_figures(id)).collect()
    }
}

impl Snapshot {
    /// Its memory, unless somebody killed the process.
    fn memory(&self, id: CheckpointId) -> Result<FrozenMemory, Error> {
        if !self.process.is_alive() {
            return Err(Error::Lost { id, source: None });
        }
        self.process.memory().map_err(lost(id))
    }

    /// Where its memory is. Without that, all of it is read.
    fn pagemap(&self) -> Option<Pagemap> {
        Pagemap::of(self.process.pid()).ok()
    }

    /// Pages of a region that differ from `before`, or from zeros.
    fn count_changed_pages(
        &self,
        id: CheckpointId,
        held: &Held,
        before: Option<(CheckpointId, &Self, &Held)>,
    ) -> Result<u64, Error> {
        let mut pagemap = if before.is_some() { None } else { self.pagemap() };
        let there = held.resident(pagemap.as_mut());
        let memory = self.memory(id)?;
        let before = match before {
            Some((id, snapshot, held)) => Some((id, snapshot.memory(id)?, held)),
            None => None,
        };
        let (mut now, mut then) = (vec![0; WINDOW], vec![0; WINDOW]);
        let mut changed = 0;
        for part in windows(&there) {
            let (now, then) = (&mut now[..part.len()], &mut then[..part.len()]);
            memory.read(held.address + part.start, now).map_err(lost(id))?;
            if let Some((id, memory, held)) = &before {
                memory.read(held.address + part.start, then).map_err(lost(*id))?;
            }
            changed += resident::count_differing_pages(now, then);
        }
        Ok(changed)
    }
}

impl Held {
    /// The byte ranges that have memory in the child of `pagemap`.
    fn resident(&self, pagemap: Option<&mut Pagemap>) -> Runs {
        resident::runs_in(self.address..self.address + self.len, pagemap.filter(|_| self.sparse))
    }
}

/// For `map_err`: reading a child's memory fails when the child is gone.
fn lost(id: CheckpointId) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Lost { id, source: Some(source) }
}

/// `runs` in parts of at most [`WINDOW`] bytes.
fn windows(runs: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    runs.iter().flat_map(|run| run.clone().step_by(WINDOW).map(|start| start..run.end.min(start + WINDOW)))
}
