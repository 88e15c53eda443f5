//! What an engine says of itself.

use cairn_abi::CheckpointId;
use cairn_abi::reply::{CheckpointFigures, SessionFigures};

use super::Engine;
use crate::region::Region;
use crate::{EngineError, Tracker};

impl<T: Tracker> Engine<T> {
    /// Figures of the session.
    #[must_use]
    pub fn figures(&self) -> SessionFigures {
        let sum = |of: fn(&Region) -> u64| self.regions.iter().map(of).sum::<u64>();
        let (mirrors, tables, taken) = self.started.copying().bytes();
        let gone = self.counters.outcomes;
        SessionFigures {
            regions: small(self.regions.len()),
            retained: small(self.versions.retained()),
            current: self.versions.root().map_or(0, |root| root.id.0),
            checkpoints: self.versions.taken(),
            rollbacks: self.counters.rollbacks,
            mirror_bytes: sum(|region| region.mirror.resident_bytes()) + mirrors,
            history_bytes: self.versions.resident_bytes() + self.pending.resident_bytes() + taken,
            table_bytes: sum(Region::table_bytes) + self.versions.table_bytes() + tables,
            pages_compared: self.counters.compared,
            pages_changed: self.counters.changed,
            pages_protected: self.counters.protected,
            pages_open: sum(|region| region.predictor.open_pages()),
            faults_avoided: gone.avoided + sum(|region| region.predictor.outcomes().avoided),
            faults_taken: gone.taken + sum(|region| region.predictor.outcomes().taken),
            compares_wasted: gone.wasted + sum(|region| region.predictor.outcomes().wasted),
            // Whoever stops the program for the engine knows these.
            ..SessionFigures::default()
        }
    }

    /// Figures of checkpoint `id`.
    ///
    /// # Errors
    /// [`EngineError::NoCheckpoint`] or [`EngineError::Evicted`].
    pub fn checkpoint_figures(&self, id: CheckpointId) -> Result<CheckpointFigures, EngineError> {
        Ok(self.node_figures(self.retained(id)?))
    }

    /// Figures of the oldest retained checkpoint that is newer than `after`: from 0 on, the way through all.
    ///
    /// # Errors
    /// [`EngineError::NoCheckpoint`]: there is none.
    pub fn next_checkpoint_figures(&self, after: CheckpointId) -> Result<CheckpointFigures, EngineError> {
        let node = self.versions.next_named(after).ok_or(EngineError::NoCheckpoint(after))?;
        Ok(self.node_figures(node))
    }

    fn node_figures(&self, at: usize) -> CheckpointFigures {
        let node = self.versions.node(at);
        CheckpointFigures {
            id: node.id,
            parent: node.parent,
            pages_changed: node.pages_changed,
            bytes: self.versions.node_bytes(at),
        }
    }
}

/// A count that limits of the [`Config`] keep far below the type's.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
