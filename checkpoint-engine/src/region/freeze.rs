//! A region's part of an asynchronous checkpoint.

use std::mem;

use super::Region;
use crate::asynchronous::{FrozenRegion, close_gaps};
use crate::mirror::Mirror;
use crate::predictor::EpochEnd;
use crate::{PageSet, Tracker};

impl Region {
    /// Freezes what the tracker reported, and hands over what is needed to take it. `None` if nothing was reported.
    ///
    /// # Errors
    /// The pages can't be frozen; nothing was done.
    pub(crate) fn freeze<T: Tracker>(&mut self, tracker: &mut T) -> Result<Option<FrozenRegion>, ()> {
        if !self.any_written {
            return Ok(None);
        }
        // Nothing is known of the writes to a hinted region until the program tells of them.
        if self.is_scattered() || self.hints.rule() {
            return Err(());
        }
        self.changed.clear();
        close_gaps(&self.written, &mut self.restore);
        let frozen = tracker.freeze(self.id, &self.written, &self.restore);
        let frozen = frozen.ok().flatten().ok_or(())?;
        // Those that come while the copy goes on are about the next epoch.
        self.hints.use_up(None);
        Ok(Some(FrozenRegion {
            id: self.id,
            mirror: mem::replace(&mut self.mirror, Mirror::nothing()),
            written: mem::replace(&mut self.written, PageSet::nothing()),
            changed: mem::replace(&mut self.changed, PageSet::nothing()),
            held: mem::replace(&mut self.restore, PageSet::nothing()),
            in_root: self.in_root,
            live: self.live.alias(),
            frozen,
            cursor: 0,
        }))
    }

    /// Takes back what [`freeze`](Self::freeze) handed over.
    pub(crate) fn put_back(&mut self, frozen: FrozenRegion) {
        self.mirror = frozen.mirror;
        self.written = frozen.written;
        self.changed = frozen.changed;
        self.restore = frozen.held;
    }

    /// After an asynchronous checkpoint. All its pages are protected already: one that the rule would have left
    /// open costs a fault if it is written.
    pub(crate) fn end_frozen(&mut self) {
        self.in_root = true;
        self.mirror.give_back(|page| self.written.contains(page));
        if self.any_written {
            self.predictor.end_epoch(EpochEnd::Checkpoint, &mut self.written, &mut self.changed);
        }
        self.tries.end();
    }
}
