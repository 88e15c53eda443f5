//! The checkpoints that somebody wants to read: one for each who asks, served in turn.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_abi::CheckpointId;
use cairn_store::Snapshot;

use super::sink::{Owner, SinkError};

/// What reading a checkpoint came to.
type Found = Result<Arc<Snapshot>, SinkError>;

/// Who wants to read what, in the order in which they asked; each owner once.
#[derive(Debug, Default)]
pub(super) struct Readings(VecDeque<Reading>);

#[derive(Debug)]
struct Reading {
    owner: Owner,
    id: CheckpointId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It's waiting for its turn.
    Wanted,
    /// It's being read.
    Begun,
    /// Its owner can have it.
    Found(Found),
}

impl Readings {
    /// Has `id` read for `owner`, and nothing else any more. Answers whether that is new.
    pub(super) fn want(&mut self, owner: Owner, id: CheckpointId) -> bool {
        if self.0.iter().any(|reading| reading.is(owner, id)) {
            return false;
        }
        // Whoever changes its mind waits behind the others, or it would be served always.
        self.forget(owner);
        self.0.push_back(Reading { owner, id, stage: Stage::Wanted });
        true
    }

    /// The one whose turn it is.
    pub(super) fn next(&mut self) -> Option<(Owner, CheckpointId)> {
        let next = self.0.iter_mut().find(|reading| matches!(reading.stage, Stage::Wanted))?;
        next.stage = Stage::Begun;
        Some((next.owner, next.id))
    }

    /// Notes what became of the one whose turn it was. If its owner has asked again since, that is to be done anew.
    pub(super) fn found(&mut self, owner: Owner, id: CheckpointId, found: Found) {
        let begun = |reading: &&mut Reading| reading.is(owner, id) && matches!(reading.stage, Stage::Begun);
        if let Some(reading) = self.0.iter_mut().find(begun) {
            reading.stage = Stage::Found(found);
        }
    }

    /// Whether `owner` can [take](Self::take) `id`.
    pub(super) fn is_found(&self, owner: Owner, id: CheckpointId) -> bool {
        self.0.iter().any(|reading| reading.is(owner, id) && matches!(reading.stage, Stage::Found(_)))
    }

    /// What `owner` wanted, if it's there.
    pub(super) fn take(&mut self, owner: Owner, id: CheckpointId) -> Option<Found> {
        let is_it = |reading: &Reading| reading.is(owner, id) && matches!(reading.stage, Stage::Found(_));
        let place = self.0.iter().position(is_it)?;
        match self.0.remove(place)?.stage {
            Stage::Found(found) => Some(found),
            Stage::Wanted | Stage::Begun => None,
        }
    }

    /// Forgets what `owner` wanted.
    pub(super) fn forget(&mut self, owner: Owner) {
        self.0.retain(|reading| reading.owner != owner);
    }

    /// Forgets what couldn't be read: there is more in the store now.
    pub(super) fn forget_failures(&mut self) {
        self.0.retain(|reading| !matches!(reading.stage, Stage::Found(Err(_))));
    }
}

impl Reading {
    fn is(&self, owner: Owner, id: CheckpointId) -> bool {
        self.owner == owner && self.id == id
    }
}
