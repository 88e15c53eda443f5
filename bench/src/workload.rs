//! A cell at work in one session: cycles, rollbacks, and the check that what came back is right.

use cairn_guest::{CheckpointId, Error, Region, RegionMode, Session, SessionFigures, Ticket};

use crate::cell::Cell;
use crate::clock::{Rate, ticks};
use crate::contender::Contender;
use crate::epochs::Epochs;
use crate::model::{Model, fill};
use crate::pattern::{WORDS_PER_PAGE, write_epoch};
use crate::protocol::{Figures, Stops};
use crate::stats::Samples;

/// Rollbacks that are timed however long they take.
pub const ROLLBACKS_MIN: u64 = 5;
/// Rollbacks after which more would tell nothing new.
pub const ROLLBACKS_MAX: u64 = 500;

/// A region in a session, and what was measured on it.
#[derive(Debug)]
pub struct Workload {
    session: Session,
    region: Region<u64>,
    contender: Contender,
    cell: Cell,
    rate: Rate,
    epochs: Epochs,
    /// Epochs done, rolled back ones included.
    epoch: u32,
    /// The page sets of the planned cycles, one after the other.
    plan: Vec<u32>,
    planned: u32,
    /// The newest checkpoint, but for one that is being copied.
    newest: CheckpointId,
    /// The checkpoint before the newest.
    older: CheckpointId,
    /// One that is being copied.
    begun: Option<Ticket>,
    /// The session's figures after the first checkpoint, but what arming had cost before the region was there.
    first: SessionFigures,
    cycles: Samples,
    checkpoints: Samples,
    writes: Samples,
}

impl Workload {
    /// Makes the region, fills every page of it, and takes a first checkpoint.
    ///
    /// # Errors
    /// The session's.
    pub fn new(mut session: Session, contender: Contender, cell: Cell, rate: Rate) -> Result<Self, Error> {
        let mode = contender.mode();
        let unarmed = session.figures()?.arming_ns;
        let region = session.region_with("bench", words(cell), mode)?;
        if mode == RegionMode::Hinted {
            session.hint(&region, ..);
        }
        fill(session.slice_mut(&region));
        let newest = session.checkpoint()?;
        let first = SessionFigures { arming_ns: unarmed, ..session.figures()? };
        Ok(Self {
            first,
            session,
            region,
            contender,
            cell,
            rate,
            epochs: cell.epochs(),
            epoch: 0,
            plan: Vec::new(),
            planned: 0,
            newest,
            older: newest,
            begun: None,
            cycles: Samples::new(),
            checkpoints: Samples::new(),
            writes: Samples::new(),
        })
    }

    /// Pages that each epoch writes.
    #[must_use]
    pub fn dirty(&self) -> u32 {
        self.epochs.dirty()
    }

    /// Draws the page sets of the next `cycles` epochs.
    pub fn plan(&mut self, cycles: u32) {
        self.plan.clear();
        for _ in 0..cycles {
            self.epochs.append_next(&mut self.plan);
        }
        self.planned = cycles;
    }

    /// Runs the planned cycles; returns the ns that they took.
    ///
    /// # Errors
    /// The session's.
    pub fn run(&mut self) -> Result<u64, Error> {
        let start = ticks();
        let plan = std::mem::take(&mut self.plan);
        let dirty = self.epochs.dirty() as usize;
        for cycle in 0..std::mem::take(&mut self.planned) as usize {
            self.cycle(&plan[cycle * dirty..(cycle + 1) * dirty])?;
        }
        self.plan = plan;
        Ok(self.rate.ns(ticks() - start))
    }

    /// Forgets what was timed so far.
    pub fn forget_samples(&mut self) {
        for samples in [&mut self.cycles, &mut self.checkpoints, &mut self.writes] {
            *samples = Samples::new();
        }
    }

    /// Times rollbacks for about `rollback_ns`, checks what they restored, and reports everything.
    ///
    /// # Errors
    /// The session's.
    pub fn finish(mut self, rollback_ns: u64) -> Result<Figures, Error> {
        self.settle()?;
        let kept = self.session.figures()?;
        let (cycles, cycle_ns) = (self.cycles.len(), self.cycles.quantiles());
        let cycle_spread_ns = Some(self.cycles.spread());
        let (checkpoint_ns, writes_p50) = (self.checkpoints.quantiles(), self.writes.quantiles().p50);
        let first_pair = self.epoch;
        let rollbacks = self.rollbacks(rollback_ns)?;
        let (verified, untracked_p50) = self.verify(first_pair)?;
        Ok(Figures {
            cycles,
            rollbacks: rollbacks.len(),
            checkpoint_ns,
            cycle_ns,
            cycle_spread_ns,
            rollback_ns: rollbacks.quantiles(),
            overhead_ns_p50: difference(writes_p50, untracked_p50),
            extra_bytes: kept.mirror_bytes + kept.history_bytes + kept.table_bytes,
            stops: Stops::between(&self.first, &kept),
            verified,
        })
    }

    /// Writes an epoch and takes a checkpoint.
    fn cycle(&mut self, set: &[u32]) -> Result<(), Error> {
        let start = ticks();
        self.write(set);
        let written = ticks();
        let end = if self.contender.is_asynchronous() {
            let ticket = self.session.checkpoint_async()?;
            let end = ticks();
            // The one before is done: its id is there to be had.
            self.settle()?;
            self.begun = Some(ticket);
            end
        } else {
            let newest = self.session.checkpoint()?;
            let end = ticks();
            self.older = std::mem::replace(&mut self.newest, newest);
            end
        };
        self.epoch += 1;
        self.cycles.add(self.rate.ns(end - start));
        self.checkpoints.add(self.rate.ns(end - written));
        self.writes.add(self.rate.ns(written - start));
        Ok(())
    }

    /// Waits for a checkpoint that is being copied.
    fn settle(&mut self) -> Result<(), Error> {
        if let Some(ticket) = self.begun.take() {
            let newest = self.session.wait(ticket)?;
            self.older = std::mem::replace(&mut self.newest, newest);
        }
        Ok(())
    }

    /// Writes an epoch, and says so first where the engine goes by that.
    fn write(&mut self, set: &[u32]) {
        if self.contender.mode() == RegionMode::Hinted {
            for page in set {
                let first = *page as usize * WORDS_PER_PAGE;
                self.session.hint(&self.region, first..=first);
            }
        }
        write_epoch(self.session.slice_mut(&self.region), set, self.epoch);
    }

    /// Pairs of epochs, one kept by a checkpoint and one undone by a rollback, which is timed.
    fn rollbacks(&mut self, budget_ns: u64) -> Result<Samples, Error> {
        let mut samples = Samples::new();
        let start = ticks();
        loop {
            self.plan(2);
            let plan = std::mem::take(&mut self.plan);
            let (kept, undone) = plan.split_at(self.epochs.dirty() as usize);
            self.cycle(kept)?;
            self.write(undone);
            self.epoch += 1;
            self.settle()?;
            let before = ticks();
            self.session.rollback(self.newest)?;
            let after = ticks();
            self.plan = plan;
            samples.add(self.rate.ns(after - before));
            let late = self.rate.ns(after - start) > budget_ns;
            if samples.len() >= ROLLBACKS_MAX || (late && samples.len() >= ROLLBACKS_MIN) {
                return Ok(samples);
            }
        }
    }

    /// Does all epochs again on plain memory, which is timed, and compares it with the two newest checkpoints. Only
    /// now, so that the model takes no memory and no cache while the engine is timed.
    fn verify(&mut self, first_pair: u32) -> Result<(bool, u64), Error> {
        let mut model = Model::new(self.cell.pages() as usize);
        let mut untracked = Samples::new();
        let mut epochs = self.cell.epochs();
        let mut set = Vec::new();
        let newest_epoch = self.epoch - 2;
        let mut verified = true;
        for epoch in 0..=newest_epoch {
            set.clear();
            epochs.append_next(&mut set);
            let undone = epoch >= first_pair && (epoch - first_pair) % 2 == 1;
            if undone {
                continue;
            }
            if epoch == newest_epoch {
                self.session.rollback(self.older)?;
                verified &= model.is(self.session.slice(&self.region));
            }
            model.hold(&set);
            let start = ticks();
            model.write(&set, epoch);
            untracked.add(self.rate.ns(ticks() - start));
        }
        self.session.rollback(self.newest)?;
        verified &= model.is(self.session.slice(&self.region));
        Ok((verified, untracked.quantiles().p50))
    }
}

fn words(cell: Cell) -> usize {
    cell.pages() as usize * WORDS_PER_PAGE
}

/// `left - right`, whichever is larger.
pub(crate) fn difference(left: u64, right: u64) -> i64 {
    let magnitude = i64::try_from(left.abs_diff(right)).unwrap_or(i64::MAX);
    if left < right { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use cairn_guest::{EngineKind, Options};

    use super::*;
    use crate::pattern::Pattern;

    fn workload(contender: Contender, pattern: Pattern) -> Workload {
        let session = Options::new().engine(EngineKind::FullCopy).history(2).open().unwrap();
        let rate = Rate::new(1_000_000_000).unwrap();
        Workload::new(session, contender, Cell::new(pattern, 1, 100).unwrap(), rate).unwrap()
    }

    #[test]
    fn every_pattern_is_measured_and_verified() {
        for pattern in Pattern::ALL.into_iter().filter(|pattern| *pattern != Pattern::Reset) {
            for contender in [Contender::CairnHinted, Contender::CairnAsync] {
                let mut workload = workload(contender, pattern);
                workload.plan(3);
                workload.run().unwrap();
                workload.forget_samples();
                for _ in 0..2 {
                    workload.plan(4);
                    workload.run().unwrap();
                }
                let figures = workload.finish(0).unwrap();
                assert!(figures.verified, "{pattern}");
                assert_eq!((figures.cycles, figures.rollbacks), (8, ROLLBACKS_MIN), "{pattern}");
                assert!(figures.cycle_ns.p50 >= figures.checkpoint_ns.p50, "{pattern}");
            }
        }
    }

    #[test]
    fn a_restored_byte_that_is_wrong_is_noticed() {
        // A word that no epoch writes, wrong in every checkpoint.
        let mut workload = workload(Contender::CairnHinted, Pattern::Hot);
        let last = words(workload.cell) - 1;
        workload.session.slice_mut(&workload.region)[last] = 1;
        workload.plan(1);
        workload.run().unwrap();
        assert!(!workload.finish(0).unwrap().verified);
    }

    #[test]
    fn a_plan_is_run_once() {
        let mut workload = workload(Contender::CairnHinted, Pattern::Sweep);
        workload.plan(2);
        workload.run().unwrap();
        workload.run().unwrap();
        assert_eq!(workload.epoch, 2);
    }

    #[test]
    fn differences_have_a_sign() {
        assert_eq!((difference(5, 3), difference(3, 5)), (2, -2));
        assert_eq!(difference(u64::MAX, 0), i64::MAX);
    }
}
