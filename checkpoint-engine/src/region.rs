//! One region: its live bytes, its mirror, and what is known of its pages.

mod freeze;
mod hints;
mod parts;
mod restore;
mod saving;
mod take;
mod tries;

use cairn_abi::{RegionId, RegionMode, RegionName};

use crate::access::Access;
use crate::mirror::Mirror;
use crate::predictor::{EpochEnd, Predictor};
use crate::{Config, EngineError, LiveMemory, PageSet, TrackError, Tracker};

use hints::Hints;
use saving::Saving;
pub(crate) use take::Ceiling;
use tries::Tries;

/// Pages that are asked for ahead of the one that is compared. By `examples/compare_cost.rs`: without, a third
/// slower; with 1 much the same; with 3 a fifth slower, as two pages and their mirrors are what L1 holds.
const PREFETCH_PAGES: usize = 2;

/// A region and the sets that its operations work with.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) name: RegionName,
    pub(crate) live: LiveMemory,
    pub(crate) mirror: Mirror,
    pub(crate) predictor: Predictor,
    pub(crate) hints: Hints,
    /// Whether the root version has it. If not, no version needs its former bytes.
    pub(crate) in_root: bool,
    /// What the tracker reported and this try takes; later, what to protect.
    written: PageSet,
    /// Whether `written` may hold any.
    any_written: bool,
    /// What differed from the mirror, in all tries.
    changed: PageSet,
    /// What a try of a rollback restores; later, what to protect.
    restore: PageSet,
    pub(crate) tries: Tries,
    /// If changes are recorded.
    pub(crate) unsaved: Option<Saving>,
}

/// How many pages a pass over a region met.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Passed {
    pub(crate) compared: u64,
    pub(crate) changed: u64,
}

impl std::ops::AddAssign for Passed {
    fn add_assign(&mut self, more: Self) {
        self.compared += more.compared;
        self.changed += more.changed;
    }
}

impl Region {
    pub(crate) fn new(
        id: RegionId,
        name: RegionName,
        live: LiveMemory,
        config: Config,
        mode: RegionMode,
    ) -> Result<Self, EngineError> {
        let pages = live.pages();
        Ok(Self {
            id,
            name,
            live,
            mirror: Mirror::new(pages)?,
            predictor: Predictor::new(config.rule, config.costs, pages)?,
            hints: Hints::new(mode, pages)?,
            in_root: false,
            written: PageSet::new(pages)?,
            any_written: false,
            changed: PageSet::new(pages)?,
            restore: PageSet::new(pages)?,
            tries: Tries::new(pages)?,
            unsaved: config.records_changes.then(|| Saving::new(pages)).transpose()?,
        })
    }

    /// Bytes of the tables.
    pub(crate) fn table_bytes(&self) -> u64 {
        let sets =
            self.written.bytes() + self.changed.bytes() + self.restore.bytes() + self.tries.table_bytes();
        let tables = self.predictor.table_bytes() + self.hints.table_bytes() + self.mirror.table_bytes();
        let tables = tables + self.unsaved.as_ref().map_or(0, Saving::table_bytes);
        (size_of::<Self>() + sets + tables) as u64
    }

    /// Asks the tracker what may have been written, or goes by the hints.
    pub(crate) fn collect<T: Tracker>(&mut self, tracker: &mut T) -> Result<(), TrackError> {
        // An operation that failed may have left something.
        if self.any_written {
            self.written.clear();
        }
        self.any_written = true;
        if self.hints.rule() {
            self.hints.add_to(&mut self.written);
        } else {
            tracker.collect(self.id, &mut self.written)?;
        }
        self.written.trim();
        self.tries.begin(&mut self.written);
        self.any_written = !self.written.is_empty();
        Ok(())
    }

    /// After a checkpoint: protects what the rule says. Returns how many pages.
    pub(crate) fn end_checkpoint<T: Tracker>(
        &mut self,
        access: Access,
        tracker: &mut T,
    ) -> Result<u64, TrackError> {
        self.in_root = true;
        let several_tries = self.tries.done.any();
        if several_tries {
            self.mark_written_again(access);
            self.written.union_with(self.tries.done.pages());
            self.any_written = true;
        }
        self.mirror.give_back(|page| self.written.contains(page));
        if self.hints.rule() {
            self.end_hinted(several_tries);
            return Ok(0);
        }
        if !self.any_written {
            self.hints.use_up(None);
            return Ok(0);
        }
        let mut pages = self.predictor.end_epoch(EpochEnd::Checkpoint, &mut self.written, &mut self.changed);
        // What is hinted is about to be written again: nobody waits until that shows.
        let hinted = self.hints.take_from(&mut self.written);
        if several_tries {
            self.written.subtract(&self.tries.marked);
        }
        if several_tries || hinted {
            pages = self.written.count() as u64;
        }
        self.hints.use_up(None);
        self.tries.end();
        match pages {
            0 => Ok(0),
            pages => tracker.protect(self.id, &self.written).map(|()| pages),
        }
    }

    /// After a checkpoint or a rollback in a region that goes by hints: there is nothing to protect.
    fn end_hinted(&mut self, several_tries: bool) {
        self.hints.use_up(several_tries.then_some(&self.tries.marked));
        self.tries.end();
    }

    /// Gives back the memory of all of the mirror that is zeros: the operation that filled it was given up.
    pub(crate) fn give_back_all(&mut self) {
        self.mirror.give_back(|_| false);
    }

    /// Forgets what the tries of an operation did, which is given up. The mirror is the root.
    pub(crate) fn forget_tries(&mut self) {
        self.tries.forget();
    }

    fn mark_written_again(&mut self, access: Access) {
        let Self { live, mirror, tries, .. } = self;
        tries.mark_written_again(|page| access.differs(live, mirror, page, None));
    }

    fn is_scattered(&self) -> bool {
        self.live.places().is_some()
    }
}
