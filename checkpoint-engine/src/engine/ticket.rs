//! Asynchronous checkpoints as the engine's callers see them: tickets.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_abi::CheckpointId;

use super::Engine;
use crate::asynchronous::{Copying, FrozenRegion, Work};
use crate::region::Region;
use crate::{EngineError, Tracker};

/// Failed checkpoints of which the engine knows that they failed. An older one is taken for one that never was.
pub(super) const MAX_FAILED: usize = 64;

/// What became of [`Engine::checkpoint_async`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The checkpoint's id. It means nothing before the checkpoint is done.
    pub id: CheckpointId,
    /// Whether it is.
    pub done: bool,
}

/// The asynchronous checkpoint in the making, and those that failed.
#[derive(Debug, Default)]
pub(super) struct Started {
    copying: Arc<Copying>,
    /// The newest ones that failed, ascending, and why.
    failed: VecDeque<(CheckpointId, EngineError)>,
}

impl Started {
    pub(super) fn copying(&self) -> &Arc<Copying> {
        &self.copying
    }

    /// Those that are known.
    pub(super) fn failed(&self) -> impl Iterator<Item = CheckpointId> + '_ {
        self.failed.iter().map(|(id, _)| *id)
    }

    pub(super) fn note_failed(&mut self, id: CheckpointId, error: EngineError) {
        if self.failed.len() == MAX_FAILED {
            self.failed.pop_front();
        }
        self.failed.push_back((id, error));
    }
}

impl Drop for Started {
    /// The regions' memory may go with the engine, and somebody else holds the copying.
    fn drop(&mut self) {
        self.copying.cancel();
    }
}

impl<T: Tracker> Engine<T> {
    /// What copies the pages of an asynchronous checkpoint: for the thread that does so while the program runs.
    #[must_use]
    pub fn copying(&self) -> &Arc<Copying> {
        self.started.copying()
    }

    /// Begins a checkpoint of the regions' bytes as they are now, and returns when no write can get at them any
    /// more that were written since the last. They are taken by whoever calls [`Copying::copy_some`], and the next
    /// call of the engine that needs the result takes what is left. An older checkpoint in the making is finished
    /// first.
    ///
    /// Where the tracker can't [freeze](Tracker::freeze), or can't now, the checkpoint is done when this returns.
    ///
    /// # Errors
    /// As for [`checkpoint`](Self::checkpoint). What fails later, the [ticket](Self::ticket) tells.
    pub fn checkpoint_async(&mut self) -> Result<Ticket, EngineError> {
        self.abandon();
        self.versions.reserve()?;
        for region in &mut self.regions {
            region.collect(&mut self.tracker)?;
        }
        let Some(frozen) = self.freeze() else {
            return self.checkpoint().map(|id| Ticket { id, done: true });
        };
        let id = self.versions.next_id();
        let max_bytes = self.config.max_history_bytes;
        let old = self.versions.take_spare();
        self.started.copying.begin(Work::new(self.access, id, frozen, old, max_bytes));
        Ok(Ticket { id, done: false })
    }

    /// What became of the asynchronous checkpoint `id`, which is finished here if `wait`, or if only its commit is
    /// left.
    ///
    /// # Errors
    /// [`EngineError::NoMemory`]: there was no memory for it. It doesn't exist, its id is never used again, and the
    /// checkpoints before it stand. [`EngineError::NoCheckpoint`]: the id was never given.
    pub fn ticket(&mut self, id: CheckpointId, wait: bool) -> Result<Ticket, EngineError> {
        if let Some((current, copied)) = self.started.copying.state()
            && current == id
        {
            if !wait && !copied {
                return Ok(Ticket { id, done: false });
            }
            self.finish();
        }
        match self.started.failed.iter().find(|(failed, _)| *failed == id) {
            Some((_, EngineError::NoMemory)) => Err(EngineError::NoMemory),
            None if self.versions.was_given(id) => Ok(Ticket { id, done: true }),
            _ => Err(EngineError::NoCheckpoint(id)),
        }
    }

    /// Finishes an asynchronous checkpoint, if one is in the making. Whether it failed is told by its
    /// [ticket](Self::ticket).
    pub fn finish(&mut self) {
        let Some(work) = self.started.copying.finish() else { return };
        let id = work.id;
        let (frozen, end) = work.into_parts();
        match end {
            Ok((old, passed)) => {
                self.count(passed);
                self.put_back(frozen, |_| {});
                self.note_changes(&old);
                let max_bytes = self.config.max_history_bytes;
                self.versions.commit(old, Arc::clone(&self.set), passed.changed, max_bytes);
                for region in &mut self.regions {
                    region.end_frozen();
                }
            }
            Err(error) => {
                self.put_back(frozen, |region| region.frozen.reopen(&region.written));
                self.regions.iter_mut().for_each(Region::give_back_all);
                self.versions.fail();
                self.started.note_failed(id, error);
            }
        }
    }

    /// Freezes what was collected. `None`, with nothing frozen, if that can't be.
    fn freeze(&mut self) -> Option<Vec<FrozenRegion>> {
        let mut frozen = Vec::new();
        let mut possible = frozen.try_reserve_exact(self.regions.len()).is_ok();
        for region in &mut self.regions {
            if !possible {
                break;
            }
            match region.freeze(&mut self.tracker) {
                Ok(more) => frozen.extend(more),
                Err(()) => possible = false,
            }
        }
        if possible {
            return Some(frozen);
        }
        frozen.iter().for_each(FrozenRegion::thaw_all);
        self.put_back(frozen, |region| region.frozen.reopen(&region.written));
        None
    }

    /// Gives the regions back what was frozen of them; `before` looks at each first.
    fn put_back(&mut self, frozen: Vec<FrozenRegion>, before: impl Fn(&FrozenRegion)) {
        for part in frozen {
            before(&part);
            if let Ok(at) = self.region_at(part.id) {
                self.regions[at].put_back(part);
            }
        }
    }
}
