//! The steps of a checkpoint and of a rollback.

use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId};

use super::{Engine, Operation};
use crate::access::Access;
use crate::delta::Delta;
use crate::mirror::Mirror;
use crate::region::{Ceiling, Passed, Region};
use crate::{EngineError, TrackError, Tracker};

impl<T: Tracker> Engine<T> {
    /// Starts an operation or goes on with it: `work` is told which. Gives it up if that fails, but for pages
    /// that are absent.
    pub(super) fn attempt<R>(
        &mut self,
        operation: Operation,
        work: impl FnOnce(&mut Self, bool) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        let another_try = self.unfinished == Some(operation);
        if self.unfinished.is_some() && !another_try {
            self.abandon();
        }
        self.finish();
        let result = work(self, another_try);
        match &result {
            Ok(_) => self.unfinished = None,
            Err(EngineError::Absent) => self.unfinished = Some(operation),
            Err(_) => self.abandon(),
        }
        result
    }

    pub(super) fn try_checkpoint(&mut self) -> Result<CheckpointId, EngineError> {
        self.versions.reserve()?;
        self.pending.reserve()?;
        self.collect()?;
        let mut old = self.versions.take_spare();
        let taken = self.take(&mut old);
        self.pending.add(old);
        self.pending.count(taken?);
        if self.any_missing() {
            self.pending.compact();
            self.regions.iter_mut().for_each(Region::keep_taken);
            return Err(EngineError::Absent);
        }
        let (old, passed) = self.pending.finish()?;
        self.count(passed);
        self.note_changes(&old);
        let id =
            self.versions.commit(old, Arc::clone(&self.set), passed.changed, self.config.max_history_bytes);
        self.protect(Region::end_checkpoint);
        Ok(id)
    }

    pub(super) fn try_rollback(&mut self, id: CheckpointId, another_try: bool) -> Result<(), EngineError> {
        let node = self.retained(id)?;
        self.check_set(id, &self.versions.node(node).set)?;
        self.versions.reserve_reroot(node)?;
        self.collect()?;
        self.list_restore(node, another_try);
        self.note_reroot(node);
        // What must be written shows when the mirror is the wanted version.
        let former = self.reroot(node);
        if let Err(error) = self.before_restore() {
            if let Some(former) = former {
                self.reroot(former);
            }
            return Err(error.into());
        }
        // From here nothing can fail.
        if let Some(former) = former {
            self.versions.settle(former);
        }
        for at in 0..self.regions.len() {
            let passed = self.regions[at].restore(self.access, self.pool.as_deref());
            self.count(passed);
        }
        if self.any_missing() {
            self.regions.iter_mut().for_each(Region::keep_restored);
            return Err(EngineError::Absent);
        }
        self.protect(Region::end_rollback);
        self.counters.rollbacks += 1;
        Ok(())
    }

    /// Makes the version in `node` the mirror, and returns the node that was it.
    fn reroot(&mut self, node: usize) -> Option<usize> {
        self.versions.reroot(node, |delta| delta.swap(mirrors(&mut self.regions)))
    }

    fn before_restore(&mut self) -> Result<(), TrackError> {
        let mut budget = self.config.max_pages_per_try;
        for region in &mut self.regions {
            region.before_restore(self.access, &mut self.tracker, &mut budget)?;
        }
        Ok(())
    }

    fn any_missing(&self) -> bool {
        self.regions.iter().any(|region| region.tries.any_missing())
    }

    fn collect(&mut self) -> Result<(), EngineError> {
        for region in &mut self.regions {
            region.collect(&mut self.tracker)?;
        }
        Ok(())
    }

    /// Takes what was written and is present into the mirrors, and the mirrors' former bytes into `old`.
    fn take(&mut self, old: &mut Delta) -> Result<Passed, EngineError> {
        let ceiling = Ceiling::new(self.config.max_history_bytes.saturating_sub(self.pending.bytes()));
        let mut all = Passed::default();
        let mut budget = self.config.max_pages_per_try;
        for region in &mut self.regions {
            all += region.take(self.access, self.pool.as_deref(), old, &ceiling, &mut budget)?;
        }
        Ok(all)
    }

    /// Lists what must be restored for the version in `node`: what was written, and where it differs from the root.
    /// In another try the version in `node` is the root, and the rest is what the last try left.
    fn list_restore(&mut self, node: usize, another_try: bool) {
        for region in &mut self.regions {
            region.begin_restore(another_try);
        }
        for (id, page, _) in self.versions.touched(node) {
            if let Ok(at) = self.regions.binary_search_by_key(&id, |region| region.id) {
                self.regions[at].restore_page(page);
            }
        }
    }

    /// Protects after an epoch. A failure leaves pages open, which the tracker reports again: it is noted, not returned.
    fn protect(&mut self, end: fn(&mut Region, Access, &mut T) -> Result<u64, TrackError>) {
        self.unprotected = None;
        for region in &mut self.regions {
            match end(region, self.access, &mut self.tracker) {
                Ok(pages) => self.counters.protected += pages,
                Err(error) => self.unprotected = Some(error),
            }
        }
    }

    pub(super) fn count(&mut self, passed: Passed) {
        self.counters.compared += passed.compared;
        self.counters.changed += passed.changed;
    }
}

/// The regions' mirrors, as deltas want them.
pub(super) fn mirrors(regions: &mut [Region]) -> impl Iterator<Item = (RegionId, &mut Mirror)> {
    regions.iter_mut().map(|region| (region.id, &mut region.mirror))
}
