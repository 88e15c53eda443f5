//! The engine: regions, versions and a tracker, and what the three calls do with them.

mod checks;
mod figures;
mod hints;
mod image;
mod operation;
mod saving;
mod ticket;

use std::ops::Range;
use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName};

use crate::access::Access;
use crate::pending::Pending;
use crate::predictor::Outcomes;
use crate::region::Region;
use crate::versions::{Lookup, Member, RegionSet, Versions};
use crate::{Config, EngineError, LiveMemory, Pool, TrackError, Tracker};

pub use image::{EngineImage, ImageError, RegionImage};
use operation::mirrors;
pub use saving::GatherPlace;
use ticket::Started;
pub use ticket::Ticket;

/// Checkpoints of a set of regions.
///
/// Every call but [`tracker`](Self::tracker) and the figures assumes that the program is quiet: that nothing
/// writes the regions while it runs. If something does, no memory is harmed, but which of its writes are in a
/// checkpoint is not said.
#[derive(Debug)]
pub struct Engine<T: Tracker> {
    tracker: T,
    config: Config,
    access: Access,
    /// Helps with large dirty sets.
    pool: Option<Arc<Pool>>,
    /// Ascending by id.
    regions: Vec<Region>,
    last_region: u32,
    /// Today's regions, for the next checkpoint.
    set: RegionSet,
    versions: Versions,
    unfinished: Option<Operation>,
    /// What an unfinished checkpoint took.
    pending: Pending,
    started: Started,
    counters: Counters,
    unprotected: Option<TrackError>,
}

/// What may need several calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Checkpoint,
    Rollback(CheckpointId),
}

/// What was done since the engine was made.
#[derive(Clone, Copy, Default, Debug)]
struct Counters {
    rollbacks: u64,
    compared: u64,
    changed: u64,
    protected: u64,
    /// Of regions that were removed.
    outcomes: Outcomes,
}

impl<T: Tracker> Engine<T> {
    /// An engine without regions.
    #[must_use]
    pub fn new(tracker: T, config: Config) -> Self {
        let access = Access::detect();
        Self {
            tracker,
            config,
            access,
            pool: None,
            regions: Vec::new(),
            last_region: 0,
            set: Arc::new([]),
            versions: Versions::new(config.history),
            unfinished: None,
            pending: Pending::default(),
            started: Started::default(),
            counters: Counters::default(),
            unprotected: None,
        }
    }

    /// Has the threads of `pool` help from now on, where so many pages were written that it pays. No result
    /// depends on it.
    #[must_use]
    pub fn with_pool(mut self, pool: Option<Arc<Pool>>) -> Self {
        self.pool = pool;
        self
    }

    /// The tracker.
    #[must_use]
    pub fn tracker(&self) -> &T {
        &self.tracker
    }

    /// The tracker, to be changed.
    pub fn tracker_mut(&mut self) -> &mut T {
        &mut self.tracker
    }

    /// The vector instructions that compare and copy pages here, as Rust's target features name them.
    #[must_use]
    pub fn instruction_set(&self) -> &'static str {
        self.access.instruction_set()
    }

    /// Registers `memory`. The region's id is greater than any before and never used again.
    ///
    /// # Errors
    /// [`EngineError::NameTaken`], [`EngineError::Overlap`], [`EngineError::EmptyRegion`], a limit of the
    /// [`Config`], [`EngineError::NoMemory`] or [`EngineError::Track`]; nothing is registered.
    pub fn add_region(&mut self, name: RegionName, memory: LiveMemory) -> Result<RegionId, EngineError> {
        self.register(name, memory, RegionMode::Tracked)
    }

    fn register(
        &mut self,
        name: RegionName,
        memory: LiveMemory,
        mode: RegionMode,
    ) -> Result<RegionId, EngineError> {
        self.abandon();
        self.check_new_region(name, &memory)?;
        self.regions.try_reserve(1)?;
        let id = RegionId(self.last_region + 1);
        let mut set = Vec::new();
        set.try_reserve_exact(self.set.len() + 1)?;
        set.extend_from_slice(&self.set);
        set.push(Member { id, name });
        let region = Region::new(id, name, memory, self.config, mode)?;
        match mode {
            RegionMode::Tracked => self.tracker.attach(id, &region.live)?,
            RegionMode::Hinted => self.tracker.attach_hinted(id, &region.live)?,
        }
        self.regions.push(region);
        self.last_region = id.0;
        self.set = set.into();
        Ok(id)
    }

    /// Drops a region. The checkpoints that have it can't be rolled back to any more; its bytes leave the history.
    ///
    /// # Errors
    /// [`EngineError::NoRegion`].
    pub fn remove_region(&mut self, region: RegionId) -> Result<(), EngineError> {
        self.abandon();
        let at = self.region_at(region)?;
        self.tracker.detach(region);
        self.counters.outcomes += self.regions.remove(at).predictor.outcomes();
        self.set = self.set.iter().copied().filter(|member| member.id != region).collect();
        self.versions.purge(region);
        Ok(())
    }

    /// Makes the regions' bytes a checkpoint, and evicts the oldest if there are now too many, or too large ones.
    ///
    /// Pages that are [absent](EngineError::Absent) make it an *unfinished* checkpoint: what is present is taken,
    /// [`absent`](Self::absent) says what isn't, and the next call goes on. It doesn't need again what was taken
    /// before, wherever that is by then, and what it takes is one checkpoint. Any other call that changes anything,
    /// and [`abandon`](Self::abandon), gives an unfinished operation up.
    ///
    /// The program is quiet between the calls, too. What it writes nevertheless, to a page that was taken or
    /// restored already, is found by the next operation if the page is present in the last call, and else by the
    /// first after the page is back.
    ///
    /// # Errors
    /// [`EngineError::Absent`]: to be called again. [`EngineError::NoMemory`] or [`EngineError::Track`]: no
    /// checkpoint was made, and all others are as valid as before. A failure to write-protect is none: see
    /// [`unprotected`](Self::unprotected).
    pub fn checkpoint(&mut self) -> Result<CheckpointId, EngineError> {
        self.attempt(Operation::Checkpoint, |engine, _| engine.try_checkpoint())
    }

    /// Makes the regions' bytes what they were at checkpoint `id`. Later checkpoints stay.
    ///
    /// Pages that are [absent](EngineError::Absent), or that differ and can't be written, make it an unfinished
    /// rollback: the others are restored, and the next call with the same `id` goes on with the rest. If it is
    /// given up instead, memory derives from `id` and what wasn't restored counts as written since: a checkpoint
    /// takes it as it is, and a rollback undoes it.
    ///
    /// # Errors
    /// [`EngineError::Absent`]: to be called again. [`EngineError::NoCheckpoint`], [`EngineError::Evicted`],
    /// [`EngineError::RegionSet`], [`EngineError::NoMemory`] or [`EngineError::Track`]; this call changed nothing in memory. A failure
    /// to write-protect is none: see [`unprotected`](Self::unprotected).
    pub fn rollback(&mut self, id: CheckpointId) -> Result<(), EngineError> {
        self.attempt(Operation::Rollback(id), |engine, another_try| engine.try_rollback(id, another_try))
    }

    /// The pages that an unfinished checkpoint or rollback waits for, as runs that are as long as can be. The
    /// program has to read them for a checkpoint, and to write them (what they hold) for a rollback.
    pub fn absent(&self) -> impl Iterator<Item = (RegionId, Range<usize>)> + '_ {
        self.regions.iter().flat_map(|region| region.tries.missing().runs().map(|pages| (region.id, pages)))
    }

    /// Gives an unfinished operation up, if there is one, and [finishes](Self::finish) an asynchronous checkpoint.
    /// No checkpoint is lost.
    pub fn abandon(&mut self) {
        self.finish();
        self.unfinished = None;
        // The mirror is the root again. Live memory is as it was, and nothing was protected: the next
        // checkpoint finds all of it again.
        let mut any = false;
        for mut old in self.pending.give_up() {
            old.apply(mirrors(&mut self.regions));
            self.versions.give_spare(old);
            any = true;
        }
        if any {
            self.regions.iter_mut().for_each(Region::give_back_all);
        }
        self.regions.iter_mut().for_each(Region::forget_tries);
    }

    /// Forgets checkpoint `id`. Memory may derive from it; it goes on doing so.
    ///
    /// # Errors
    /// [`EngineError::NoCheckpoint`] or [`EngineError::Evicted`].
    pub fn release(&mut self, id: CheckpointId) -> Result<(), EngineError> {
        self.abandon();
        let node = self.retained(id)?;
        self.versions.release(node);
        Ok(())
    }

    /// Why the last checkpoint or rollback left pages writable that it meant to protect, if it did.
    ///
    /// That is no failure of the call: a page that isn't protected is reported and compared the next time. But a
    /// caller may want to say that every checkpoint now costs more.
    #[must_use]
    pub fn unprotected(&self) -> Option<&TrackError> {
        self.unprotected.as_ref()
    }

    /// Where a region is in `regions`.
    fn region_at(&self, id: RegionId) -> Result<usize, EngineError> {
        self.regions.binary_search_by_key(&id, |region| region.id).map_err(|_| EngineError::NoRegion(id))
    }

    /// The node of a checkpoint.
    fn retained(&self, id: CheckpointId) -> Result<usize, EngineError> {
        match self.versions.lookup(id) {
            Lookup::Retained(node) => Ok(node),
            Lookup::Evicted => Err(EngineError::Evicted { id, oldest: self.versions.oldest() }),
            Lookup::Unknown => Err(EngineError::NoCheckpoint(id)),
        }
    }
}
