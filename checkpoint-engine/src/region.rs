//! One region: its live bytes, its mirror, and what is known of its pages.

use cairn_abi::{RegionId, RegionName};

use crate::access::Access;
use crate::delta::Delta;
use crate::heat::{EpochEnd, Heat};
use crate::mirror::Mirror;
use crate::{EngineError, LiveMemory, PageSet, Rule, TrackError, Tracker};

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
    pub(crate) heat: Heat,
    /// Whether the root version has it. If not, no version needs its former bytes.
    pub(crate) in_root: bool,
    /// What the tracker reported; later, what to protect.
    written: PageSet,
    /// Whether `written` may hold any.
    any_written: bool,
    /// What differed from the mirror.
    changed: PageSet,
    /// What a rollback restores.
    restore: PageSet,
}

/// How many pages a pass over a region met.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Passed {
    pub(crate) compared: u64,
    pub(crate) changed: u64,
}

impl Region {
    pub(crate) fn new(
        id: RegionId,
        name: RegionName,
        live: LiveMemory,
        rule: Rule,
    ) -> Result<Self, EngineError> {
        let pages = live.pages();
        Ok(Self {
            id,
            name,
            live,
            mirror: Mirror::new(pages)?,
            heat: Heat::new(rule, pages)?,
            in_root: false,
            written: PageSet::new(pages)?,
            any_written: false,
            changed: PageSet::new(pages)?,
            restore: PageSet::new(pages)?,
        })
    }

    /// Bytes of the tables.
    pub(crate) fn table_bytes(&self) -> u64 {
        let sets = self.written.bytes() + self.changed.bytes() + self.restore.bytes();
        (size_of::<Self>() + sets + self.heat.table_bytes() + self.mirror.table_bytes()) as u64
    }

    /// Asks the tracker what may have been written.
    pub(crate) fn collect<T: Tracker>(&mut self, tracker: &mut T) -> Result<(), TrackError> {
        // An operation that failed may have left something.
        if self.any_written {
            self.written.clear();
        }
        self.any_written = true;
        tracker.collect(self.id, &mut self.written)?;
        self.written.trim();
        self.any_written = !self.written.is_empty();
        Ok(())
    }

    /// Makes the mirror equal to live memory in what was written; the mirror's former bytes go to `old`, of at
    /// most `max_bytes`. On failure `old` holds what was done so far.
    pub(crate) fn take(
        &mut self,
        access: Access,
        old: &mut Delta,
        max_bytes: u64,
    ) -> Result<Passed, EngineError> {
        let mut passed = Passed::default();
        if !self.any_written {
            return Ok(passed);
        }
        self.changed.clear();
        let mut ahead = self.written.iter().skip(PREFETCH_PAGES);
        for page in &self.written {
            old.reserve_page()?;
            let taken = access.take(&self.live, &mut self.mirror, page, ahead.next(), old.chunks_mut())?;
            passed.compared += 1;
            if taken.mask == 0 {
                continue;
            }
            passed.changed += 1;
            self.changed.insert(page);
            if !self.in_root {
                old.drop_page(taken);
                continue;
            }
            old.commit_page(self.id, page, taken);
            if old.bytes() > max_bytes {
                return Err(EngineError::NoMemory);
            }
        }
        Ok(passed)
    }

    /// After a checkpoint: protects what the rule says. Returns how many pages.
    pub(crate) fn end_checkpoint<T: Tracker>(&mut self, tracker: &mut T) -> Result<u64, TrackError> {
        self.in_root = true;
        if !self.any_written {
            self.heat.end_idle_epoch();
            return Ok(0);
        }
        match self.heat.end_epoch(EpochEnd::Checkpoint, &mut self.written, &mut self.changed) {
            0 => Ok(0),
            pages => tracker.protect(self.id, &self.written).map(|()| pages),
        }
    }

    /// Starts the list of what a rollback restores.
    pub(crate) fn begin_restore(&mut self) {
        self.restore.clear();
        self.restore.union_with(&self.written);
    }

    /// Adds a page in which the wanted version differs from the mirror.
    pub(crate) fn restore_page(&mut self, page: usize) {
        self.restore.insert(page);
    }

    /// Tells the tracker what is about to be restored.
    pub(crate) fn before_restore<T: Tracker>(&self, tracker: &mut T) -> Result<(), TrackError> {
        if self.restore.is_empty() {
            return Ok(());
        }
        tracker.before_restore(self.id, &self.restore)
    }

    /// Makes live memory equal to the mirror in what is to be restored.
    pub(crate) fn restore(&mut self, access: Access) -> Passed {
        self.changed.clear();
        let mut passed = Passed::default();
        let mut ahead = self.restore.iter().skip(PREFETCH_PAGES);
        for page in &self.restore {
            passed.compared += 1;
            if access.restore(&self.live, &self.mirror, page, ahead.next()) {
                passed.changed += 1;
                // What the program didn't write is no sign of what it will write.
                if self.written.contains(page) {
                    self.changed.insert(page);
                }
            }
        }
        passed
    }

    /// After a rollback: protects what the rule says of the pages that were written, and all others that were
    /// restored. Returns how many pages.
    pub(crate) fn end_rollback<T: Tracker>(&mut self, tracker: &mut T) -> Result<u64, TrackError> {
        self.heat.end_epoch(EpochEnd::Rollback, &mut self.written, &mut self.changed);
        self.heat.remove_open(&mut self.restore);
        match self.restore.count() as u64 {
            0 => Ok(0),
            pages => tracker.protect(self.id, &self.restore).map(|()| pages),
        }
    }
}
