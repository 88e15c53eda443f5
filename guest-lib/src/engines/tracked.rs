//! The project's own engine over a tracker in this process.

use std::num::NonZeroUsize;
use std::ops::Range;

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName};
use cairn_engine::{Config, EngineError, HostCosts, LiveMemory, Rule, Tracker};

use super::{Engine, Failure, Limits, MAX_BYTES, MAX_REGIONS};
use crate::error::Error;
use crate::memory::{Block, PAGE};
use crate::region::Regions;

/// A tracker in the program's own process.
pub(super) trait InProcess: Tracker {
    /// What its faults cost beside a compare, for the engine's predictor. Measured once on one machine, as only
    /// their proportions count and they differ less between hosts than a hypervisor's do.
    const COSTS: HostCosts;

    /// Says of the region that is attached next whether pages that were never touched are zeros.
    fn next_is_zeros(&mut self, zeros: bool);
}

/// Mirror, deltas and history in this process.
#[derive(Debug)]
pub(super) struct TrackedEngine<T: Tracker> {
    engine: cairn_engine::Engine<T>,
    history: u32,
}

impl<T: InProcess> TrackedEngine<T> {
    pub(super) fn new(tracker: T, rule: Rule, history: u32) -> Self {
        let retained = usize::try_from(history).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
        let config = Config {
            history: retained,
            rule,
            costs: T::COSTS,
            max_regions: MAX_REGIONS,
            max_region_bytes: MAX_BYTES,
            ..Config::default()
        };
        Self { engine: cairn_engine::Engine::new(tracker, config), history }
    }
}

impl<T: InProcess + std::fmt::Debug + Send> Engine for TrackedEngine<T> {
    fn limits(&self) -> Limits {
        Limits { history: self.history, regions: MAX_REGIONS, bytes: MAX_BYTES }
    }

    fn register(
        &mut self,
        name: &RegionName,
        block: &Block,
        mode: RegionMode,
        _tag: u64,
    ) -> Result<RegionId, Failure> {
        self.engine.tracker_mut().next_is_zeros(block.is_owned());
        // SAFETY: a block is whole pages, mapped readable and writable while it lives, and the session
        // unregisters a region, or drops the engine, before its block. Only trackers make it read-only,
        // and undo that in `before_restore`. The engine writes it in `rollback` alone, which has the
        // session exclusively, so no slice is in use.
        let memory = unsafe { LiveMemory::new(block.start(), block.len() / PAGE) };
        Ok(match mode {
            RegionMode::Tracked => self.engine.add_region(*name, memory)?,
            RegionMode::Hinted => self.engine.add_hinted_region(*name, memory, block.is_owned())?,
        })
    }

    fn unregister(&mut self, region: RegionId) -> Result<(), Failure> {
        Ok(self.engine.remove_region(region)?)
    }

    fn hint(&mut self, region: RegionId, pages: Range<u64>) {
        for (word, bits) in cairn_abi::hint::words(pages) {
            // The session has the region, so the engine has it.
            let _ = self.engine.hint(region, word as usize, bits);
        }
    }

    fn checkpoint(&mut self, _regions: &Regions) -> Result<CheckpointId, Failure> {
        Ok(self.engine.checkpoint()?)
    }

    fn rollback(&mut self, _regions: &mut Regions, id: CheckpointId) -> Result<(), Failure> {
        Ok(self.engine.rollback(id)?)
    }

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure> {
        Ok(self.engine.release(id)?)
    }

    fn figures(&mut self) -> Result<SessionFigures, Failure> {
        Ok(self.engine.figures())
    }

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure> {
        Ok(self.engine.checkpoint_figures(id)?)
    }

    fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Failure> {
        let next = |after: CheckpointId| self.engine.next_checkpoint_figures(after).ok();
        let all = std::iter::successors(next(CheckpointId(0)), |last| next(last.id));
        Ok(all.collect())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NoCheckpoint(_) => Self::NoCheckpoint,
            EngineError::Evicted { .. } => Self::Evicted,
            EngineError::RegionSet { region, .. } => Self::RegionSet(region),
            other => Self::Other(Error::Engine(Box::new(other))),
        }
    }
}
