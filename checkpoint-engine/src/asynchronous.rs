//! An asynchronous checkpoint in the making: frozen pages are taken while the program runs.
//!
//! The engine freezes what was written and hands the regions' mirrors over to a [`Copying`]. Whoever holds that (a
//! thread of its own, and the engine itself when it can't wait) takes batch after batch:
//!
//! ```text
//!   written ── freeze ──> held ── taken into the mirror ──> thawed       the last one: commit
//!                          └── somebody writes it: taken next ──┘
//! ```
//!
//! Writers wait in the operating system, perhaps with locks of theirs. So there is one lock here, nobody who has it
//! writes live memory, and it is enough to take a page and thaw it.

mod frozen;
mod shared;
#[cfg(test)]
mod shared_tests;

use std::sync::Mutex;

use cairn_abi::CheckpointId;

use crate::EngineError;
use crate::access::Access;
use crate::delta::Delta;
use crate::pending::Pending;
use crate::region::Passed;

pub(crate) use frozen::{FrozenRegion, close_gaps};
use shared::{Batches, Shared};

/// The asynchronous checkpoint of an engine, if one is in the making. Shared by the engine and by the thread that
/// copies.
#[derive(Debug, Default)]
pub struct Copying {
    work: Shared<Mutex<Option<Work>>>,
}

/// What is to be done, and what was.
#[derive(Debug)]
pub(crate) struct Work {
    access: Access,
    pub(crate) id: CheckpointId,
    pub(crate) regions: Vec<FrozenRegion>,
    /// The region that the next batch is sought in first.
    at: usize,
    /// The deltas of what was taken, each in ascending order, but for the newest.
    pending: Pending,
    /// The newest.
    old: Delta,
    /// Bytes that the deltas may have.
    max_bytes: u64,
    end: Option<Result<(Delta, Passed), EngineError>>,
}

impl Copying {
    /// Takes and thaws the next pages, at most 2 MiB of them. Returns whether there is more to do.
    pub fn copy_some(&self) -> bool {
        self.work.copy_some()
    }

    /// Takes and thaws the page at `address` in this process, and its frozen neighbours in the same 2 MiB: somebody
    /// waits to write it. Returns whether there is such a region; if not, or if the page isn't frozen any more,
    /// nobody need wait.
    pub fn copy_at(&self, address: u64) -> bool {
        self.work.copy_at(address)
    }

    /// The id of the checkpoint in the making, and whether only its commit is left.
    pub(crate) fn state(&self) -> Option<(CheckpointId, bool)> {
        self.work.look(|work| (work.id, work.end.is_some()))
    }

    /// Resident bytes and table bytes of the mirrors, and bytes of the deltas.
    pub(crate) fn bytes(&self) -> (u64, u64, u64) {
        let bytes = self.work.look(|work| {
            let sum = |of: fn(&FrozenRegion) -> u64| work.regions.iter().map(of).sum::<u64>();
            let taken = work.pending.resident_bytes() + work.old.resident_bytes();
            (sum(|region| region.mirror.resident_bytes()), sum(FrozenRegion::table_bytes), taken)
        });
        bytes.unwrap_or_default()
    }

    pub(crate) fn begin(&self, work: Work) {
        self.work.begin(work);
    }

    /// Takes all that is left, and ends the work.
    pub(crate) fn finish(&self) -> Option<Work> {
        self.work.finish()
    }

    /// Ends the work as it is. Nobody is held back afterwards.
    pub(crate) fn cancel(&self) {
        self.work.cancel();
    }
}

impl Work {
    /// The checkpoint `id` of what is frozen in `regions`. `old` is an empty delta.
    pub(crate) fn new(
        access: Access,
        id: CheckpointId,
        regions: Vec<FrozenRegion>,
        old: Delta,
        max_bytes: u64,
    ) -> Self {
        Self { access, id, regions, at: 0, pending: Pending::default(), old, max_bytes, end: None }
    }

    /// How the copying ended, and the regions.
    ///
    /// # Errors
    /// Why there can be no checkpoint. The mirrors are as before.
    pub(crate) fn into_parts(mut self) -> (Vec<FrozenRegion>, Result<(Delta, Passed), EngineError>) {
        let end = self.end.take().unwrap_or(Err(EngineError::NoMemory));
        if end.is_err() {
            self.pending.add(std::mem::take(&mut self.old));
            for mut old in self.pending.give_up() {
                old.apply(self.regions.iter_mut().map(|region| (region.id, &mut region.mirror)));
            }
        }
        (self.regions, end)
    }

    fn copy_around(&mut self, at: usize, page: usize) {
        let taken = self.reserve_part(at, page).and_then(|()| {
            let region = &mut self.regions[at];
            let batch = region.batch_around(page);
            let passed = region.take(self.access, batch.clone(), &mut self.old)?;
            self.pending.count(passed);
            if self.old.bytes() + self.pending.bytes() > self.max_bytes {
                return Err(EngineError::NoMemory);
            }
            region.end_batch(batch);
            Ok(())
        });
        if let Err(error) = taken {
            self.thaw_all();
            self.end = Some(Err(error));
        }
    }

    /// Begins a new part if the batch around `page` doesn't follow what the newest has.
    fn reserve_part(&mut self, at: usize, page: usize) -> Result<(), EngineError> {
        let region = &self.regions[at];
        if !self.old.ends_before(region.id, region.batch_around(page).start) {
            self.pending.reserve()?;
            self.pending.add(std::mem::take(&mut self.old));
        }
        Ok(())
    }

    /// All is taken and nobody waits: makes one delta of the parts.
    fn conclude(&mut self) {
        let merged = self.pending.reserve().and_then(|()| {
            self.pending.add(std::mem::take(&mut self.old));
            self.pending.finish()
        });
        self.end = Some(merged.map_err(EngineError::from));
    }
}

impl Batches for Work {
    fn copy_some(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        for _ in 0..=self.regions.len() {
            if let Some(region) = self.regions.get(self.at)
                && let Some(page) = region.next_held()
            {
                self.copy_around(self.at, page);
                return self.end.is_none();
            }
            self.at = if self.at + 1 < self.regions.len() { self.at + 1 } else { 0 };
        }
        self.conclude();
        false
    }

    fn copy_at(&mut self, address: u64) -> bool {
        let found = self.regions.iter().enumerate();
        let mut found = found.filter_map(|(at, region)| Some((at, region.page_at(address)?)));
        let Some((at, page)) = found.next() else { return false };
        if self.end.is_none() && self.regions[at].is_held(page) {
            // Whoever writes a page is likely to write the next.
            self.at = at;
            self.copy_around(at, page);
        } else {
            self.regions[at].thaw(page);
        }
        true
    }

    fn thaw_all(&self) {
        self.regions.iter().for_each(FrozenRegion::thaw_all);
    }
}
