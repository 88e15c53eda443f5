//! The engine: regions, versions and a tracker, and what the three calls do with them.

use std::sync::Arc;

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, RegionId, RegionName};

use crate::access::Access;
use crate::delta::Delta;
use crate::mirror::Mirror;
use crate::region::{Passed, Region};
use crate::versions::{Lookup, Member, RegionSet, Versions};
use crate::{Config, EngineError, LiveMemory, SetSide, TrackError, Tracker};

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
    /// Ascending by id.
    regions: Vec<Region>,
    last_region: u32,
    /// Today's regions, for the next checkpoint.
    set: RegionSet,
    versions: Versions,
    counters: Counters,
    unprotected: Option<TrackError>,
}

/// What was done since the engine was made.
#[derive(Clone, Copy, Default, Debug)]
struct Counters {
    rollbacks: u64,
    compared: u64,
    changed: u64,
    protected: u64,
}

impl<T: Tracker> Engine<T> {
    /// An engine without regions.
    #[must_use]
    pub fn new(tracker: T, config: Config) -> Self {
        Self {
            tracker,
            config,
            access: Access::detect(),
            regions: Vec::new(),
            last_region: 0,
            set: Arc::new([]),
            versions: Versions::new(config.history),
            counters: Counters::default(),
            unprotected: None,
        }
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
        self.check_new_region(name, &memory)?;
        self.regions.try_reserve(1)?;
        let id = RegionId(self.last_region + 1);
        let mut set = Vec::new();
        set.try_reserve_exact(self.set.len() + 1)?;
        set.extend_from_slice(&self.set);
        set.push(Member { id, name });
        let region = Region::new(id, name, memory, self.config.rule)?;
        self.tracker.attach(id, &region.live)?;
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
        let at = self.region_at(region)?;
        self.tracker.detach(region);
        self.regions.remove(at);
        self.set = self.set.iter().copied().filter(|member| member.id != region).collect();
        self.versions.purge(region);
        Ok(())
    }

    /// Where a live region's bytes are.
    ///
    /// # Errors
    /// [`EngineError::NoRegion`].
    pub fn region_memory(&self, region: RegionId) -> Result<&LiveMemory, EngineError> {
        self.region_at(region).map(|at| &self.regions[at].live)
    }

    /// Makes the regions' bytes a checkpoint, and evicts the oldest if there are now too many.
    ///
    /// # Errors
    /// [`EngineError::NoMemory`] or [`EngineError::Track`]; no checkpoint was made, and all others are as valid
    /// as before. A failure to write-protect is none: see [`unprotected`](Self::unprotected).
    pub fn checkpoint(&mut self) -> Result<CheckpointId, EngineError> {
        self.versions.reserve()?;
        self.collect()?;
        let mut old = self.versions.take_spare();
        match self.take(&mut old) {
            Ok(passed) => {
                self.count(passed);
                let id = self.versions.commit(old, Arc::clone(&self.set), passed.changed);
                self.protect(Region::end_checkpoint);
                Ok(id)
            }
            Err(error) => {
                // What was taken goes back, so that the mirror is the root again. Live memory is as it was, and
                // nothing was protected: the next try finds all of it again.
                old.apply(mirrors(&mut self.regions));
                self.versions.give_spare(old);
                Err(error)
            }
        }
    }

    /// Makes the regions' bytes what they were at checkpoint `id`. Later checkpoints stay.
    ///
    /// # Errors
    /// [`EngineError::NoCheckpoint`], [`EngineError::Evicted`], [`EngineError::RegionSet`],
    /// [`EngineError::NoMemory`] or [`EngineError::Track`]; memory is as it was. A failure to write-protect is none: see
    /// [`unprotected`](Self::unprotected).
    pub fn rollback(&mut self, id: CheckpointId) -> Result<(), EngineError> {
        let node = self.retained(id)?;
        self.check_set(id, &self.versions.node(node).set)?;
        self.versions.reserve_reroot(node)?;
        self.collect()?;
        self.list_restore(node);
        for region in &self.regions {
            region.before_restore(&mut self.tracker)?;
        }
        // From here nothing can fail.
        self.versions.reroot(node, |delta| delta.swap(mirrors(&mut self.regions)));
        for at in 0..self.regions.len() {
            let passed = self.regions[at].restore(self.access);
            self.count(passed);
        }
        self.protect(Region::end_rollback);
        self.counters.rollbacks += 1;
        Ok(())
    }

    /// Forgets checkpoint `id`. Memory may derive from it; it goes on doing so.
    ///
    /// # Errors
    /// [`EngineError::NoCheckpoint`] or [`EngineError::Evicted`].
    pub fn release(&mut self, id: CheckpointId) -> Result<(), EngineError> {
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

    /// Figures of the session.
    #[must_use]
    pub fn figures(&self) -> SessionFigures {
        let sum = |of: fn(&Region) -> u64| self.regions.iter().map(of).sum::<u64>();
        SessionFigures {
            regions: small(self.regions.len()),
            retained: small(self.versions.retained()),
            current: self.versions.root().map_or(0, |root| root.id.0),
            checkpoints: self.versions.taken(),
            rollbacks: self.counters.rollbacks,
            mirror_bytes: sum(|region| region.mirror.resident_bytes()),
            history_bytes: self.versions.resident_bytes(),
            table_bytes: sum(Region::table_bytes) + self.versions.table_bytes(),
            pages_compared: self.counters.compared,
            pages_changed: self.counters.changed,
            pages_protected: self.counters.protected,
            pages_open: sum(|region| region.heat.open_pages()),
        }
    }

    /// Figures of checkpoint `id`.
    ///
    /// # Errors
    /// [`EngineError::NoCheckpoint`] or [`EngineError::Evicted`].
    pub fn checkpoint_figures(&self, id: CheckpointId) -> Result<CheckpointFigures, EngineError> {
        let at = self.retained(id)?;
        let node = self.versions.node(at);
        Ok(CheckpointFigures {
            id,
            parent: node.parent,
            pages_changed: node.pages_changed,
            bytes: self.versions.node_bytes(at),
        })
    }

    fn check_new_region(&self, name: RegionName, memory: &LiveMemory) -> Result<(), EngineError> {
        if memory.pages() == 0 {
            return Err(EngineError::EmptyRegion);
        }
        if self.regions.len() >= self.config.max_regions {
            return Err(EngineError::TooManyRegions { max: self.config.max_regions });
        }
        let others: usize = self.regions.iter().map(|region| region.live.bytes()).sum();
        let bytes = others.saturating_add(memory.bytes()) as u64;
        let max = self.config.max_region_bytes;
        if bytes > max {
            return Err(EngineError::TooManyBytes { bytes, max });
        }
        for region in &self.regions {
            if region.name == name {
                return Err(EngineError::NameTaken(name));
            }
            if region.live.overlaps(memory) {
                return Err(EngineError::Overlap(region.id));
            }
        }
        Ok(())
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

    /// Refuses a checkpoint whose regions aren't today's.
    fn check_set(&self, checkpoint: CheckpointId, set: &RegionSet) -> Result<(), EngineError> {
        if Arc::ptr_eq(set, &self.set) {
            return Ok(());
        }
        let missing_in = |other: &RegionSet| {
            let other = Arc::clone(other);
            move |member: &&Member| !other.contains(member)
        };
        let dropped = set.iter().find(missing_in(&self.set)).map(|member| (member, SetSide::Checkpoint));
        let added = || self.set.iter().find(missing_in(set)).map(|member| (member, SetSide::Today));
        match dropped.or_else(added) {
            None => Ok(()),
            Some((member, side)) => {
                Err(EngineError::RegionSet { checkpoint, region: member.id, name: member.name, side })
            }
        }
    }

    fn collect(&mut self) -> Result<(), EngineError> {
        for region in &mut self.regions {
            region.collect(&mut self.tracker)?;
        }
        Ok(())
    }

    /// Takes what was written into the mirrors, and the mirrors' former bytes into `old`.
    fn take(&mut self, old: &mut Delta) -> Result<Passed, EngineError> {
        let max_bytes = self.config.max_history_bytes.saturating_sub(self.versions.bytes());
        let mut all = Passed::default();
        for region in &mut self.regions {
            let passed = region.take(self.access, old, max_bytes)?;
            all.compared += passed.compared;
            all.changed += passed.changed;
        }
        Ok(all)
    }

    /// Lists what must be restored for the version in `node`: what was written, and where it differs from the root.
    fn list_restore(&mut self, node: usize) {
        for region in &mut self.regions {
            region.begin_restore();
        }
        for (id, page) in self.versions.touched(node) {
            if let Ok(at) = self.regions.binary_search_by_key(&id, |region| region.id) {
                self.regions[at].restore_page(page);
            }
        }
    }

    /// Protects after an epoch. A failure leaves pages open, which the tracker reports again: it is noted, not returned.
    fn protect(&mut self, end: fn(&mut Region, &mut T) -> Result<u64, TrackError>) {
        self.unprotected = None;
        for region in &mut self.regions {
            match end(region, &mut self.tracker) {
                Ok(pages) => self.counters.protected += pages,
                Err(error) => self.unprotected = Some(error),
            }
        }
    }

    fn count(&mut self, passed: Passed) {
        self.counters.compared += passed.compared;
        self.counters.changed += passed.changed;
    }
}

/// The regions' mirrors, as deltas want them.
fn mirrors(regions: &mut [Region]) -> impl Iterator<Item = (RegionId, &mut Mirror)> {
    regions.iter_mut().map(|region| (region.id, &mut region.mirror))
}

/// A count that limits of the [`Config`] keep far below the type's.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
