//! The loop of the example `reset_fuzz`, timed: inputs to a parser, each on the same prepared state.
//!
//! An engine puts the state back by rolling back to one checkpoint; `fork` parses each input in a child process instead,
//! which is what a program without checkpoints does. What is reported:
//!
//! - `cycle_ns`: making an input, parsing it, putting the state back.
//! - `rollback_ns`: putting it back; of `fork`, making the child and waiting for its end.
//! - `checkpoint_ns`: the checkpoint of the prepared state, taken once; of `fork`, the fork call of each input.
//! - `overhead_ns`: what all but putting back took longer than on plain memory; of `fork`, what the whole cycle did.

use std::io;

use cairn_examples::fuzz::forked::Child;
use cairn_examples::fuzz::parser::{self, PAGES_TOUCHED};
use cairn_examples::fuzz::{Loaded, Mutator, Prepared, Verdict, digest, judge};
use cairn_guest::{EngineKind, Error, Session, SessionFigures};

use crate::cell::Cell;
use crate::clock::{Rate, ticks};
use crate::pattern::WORDS_PER_PAGE;
use crate::protocol::{Figures, Stops};
use crate::stats::Samples;
use crate::workload::difference;

/// The seed of the inputs, so that all engines get the same.
const SEED: u64 = 1;

/// Why an input can't be parsed on the prepared state.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// The engine failed.
    #[error(transparent)]
    Session(#[from] Error),
    /// A child process can't be made or waited for.
    #[error("an input can't be parsed in a child process")]
    Child(#[from] io::Error),
}

/// What puts the state back.
#[derive(Debug)]
enum Way {
    Rollback(Prepared),
    Fork(Vec<u64>),
}

/// A prepared state, and what was measured on it.
#[derive(Debug)]
pub struct Resets {
    way: Way,
    /// The session's figures after the checkpoint; of no session, zeros.
    first: SessionFigures,
    rate: Rate,
    mutator: Mutator,
    /// The digest of the prepared state.
    prepared: u64,
    /// Whether the state was the prepared one whenever it was looked at.
    intact: bool,
    planned: u32,
    /// Inputs so far, and what the parser said of them.
    inputs: u64,
    verdicts: Verdicts,
    cycles: Samples,
    checkpoints: Samples,
    resets: Samples,
    /// Cycles without putting back, or whole ones where that is not a part of its own.
    works: Samples,
}

/// A number that differs if one of the verdicts does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Verdicts(u64);

impl Verdicts {
    fn add(&mut self, verdict: Verdict) {
        self.0 = (self.0 ^ u64::from(verdict.code())).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7);
    }
}

impl Resets {
    /// Prepares the state and takes the checkpoint to go back to.
    ///
    /// # Errors
    /// The session's.
    pub fn new(session: Session, cell: Cell, rate: Rate) -> Result<Self, Stuck> {
        let (mut checkpoints, mut first) = (Samples::new(), SessionFigures::default());
        let way = if session.engine() == EngineKind::Fork {
            Way::Fork(prepared_words(cell))
        } else {
            let loaded = Loaded::new(session, words(cell))?;
            let start = ticks();
            let mut prepared = loaded.checkpoint()?;
            checkpoints.add(rate.ns(ticks() - start));
            // Before this session nothing was armed.
            first = SessionFigures { arming_ns: 0, ..prepared.figures()? };
            Way::Rollback(prepared)
        };
        let prepared = digest(way.state());
        Ok(Self {
            way,
            first,
            rate,
            mutator: Mutator::new(SEED),
            prepared,
            intact: true,
            planned: 0,
            inputs: 0,
            verdicts: Verdicts::default(),
            cycles: Samples::new(),
            checkpoints,
            resets: Samples::new(),
            works: Samples::new(),
        })
    }

    /// Makes ready for so many inputs: looks whether the state is the prepared one.
    pub fn plan(&mut self, inputs: u32) {
        self.intact &= digest(self.way.state()) == self.prepared;
        self.planned = inputs;
    }

    /// Parses the planned inputs; returns the ns that they took.
    ///
    /// # Errors
    /// [`Stuck`]
    pub fn run(&mut self) -> Result<u64, Stuck> {
        let start = ticks();
        for _ in 0..std::mem::take(&mut self.planned) {
            self.cycle()?;
        }
        Ok(self.rate.ns(ticks() - start))
    }

    /// Forgets what was timed so far, apart from a checkpoint that is taken once.
    pub fn forget_samples(&mut self) {
        for samples in [&mut self.cycles, &mut self.resets, &mut self.works] {
            *samples = Samples::new();
        }
        if matches!(self.way, Way::Fork(_)) {
            self.checkpoints = Samples::new();
        }
    }

    /// Checks what was restored and what the parser said, and reports everything.
    ///
    /// # Errors
    /// [`Stuck`]
    pub fn finish(mut self, cell: Cell) -> Result<Figures, Stuck> {
        let (extra_bytes, stops) = match &mut self.way {
            Way::Rollback(prepared) => {
                let kept = prepared.figures()?;
                let bytes = kept.mirror_bytes + kept.history_bytes + kept.table_bytes;
                (bytes, Stops::between(&self.first, &kept))
            }
            // A child's copies of what it writes, while it is there.
            Way::Fork(_) => (u64::from(PAGES_TOUCHED) * crate::PAGE_BYTES as u64, None),
        };
        let mut model = prepared_words(cell);
        let restored = self.way.state() == model;
        let (verdicts, untracked_p50) = self.replay(&mut model);
        Ok(Figures {
            cycles: self.cycles.len(),
            rollbacks: self.resets.len(),
            checkpoint_ns: self.checkpoints.quantiles(),
            cycle_ns: self.cycles.quantiles(),
            cycle_spread_ns: Some(self.cycles.spread()),
            rollback_ns: self.resets.quantiles(),
            overhead_ns_p50: difference(self.works.quantiles().p50, untracked_p50),
            extra_bytes,
            stops,
            verified: self.intact && restored && verdicts == self.verdicts,
        })
    }

    fn cycle(&mut self) -> Result<(), Stuck> {
        let start = ticks();
        let input = self.mutator.next_input();
        let made = ticks();
        let (verdict, back_from) = match &mut self.way {
            Way::Rollback(prepared) => {
                let verdict = prepared.judge(input);
                let parsed = ticks();
                prepared.reset()?;
                self.works.add(self.rate.ns(parsed - start));
                (verdict, parsed)
            }
            Way::Fork(state) => {
                let child = Child::judging(state, input)?;
                self.checkpoints.add(self.rate.ns(ticks() - made));
                let verdict = child.verdict()?;
                self.works.add(self.rate.ns(ticks() - start));
                (verdict, made)
            }
        };
        let end = ticks();
        self.resets.add(self.rate.ns(end - back_from));
        self.cycles.add(self.rate.ns(end - start));
        self.mutator.learn(verdict);
        self.verdicts.add(verdict);
        self.inputs += 1;
        Ok(())
    }

    /// Parses all inputs again on plain memory, which is timed, and undoes each by what the parser says that it wrote.
    /// Returns what the parser said of them, and the median time of making and parsing one.
    fn replay(&self, model: &mut [u64]) -> (Verdicts, u64) {
        let mut mutator = Mutator::new(SEED);
        let (mut verdicts, mut untracked) = (Verdicts::default(), Samples::new());
        for _ in 0..self.inputs {
            let start = ticks();
            let verdict = judge(model, mutator.next_input());
            untracked.add(self.rate.ns(ticks() - start));
            parser::undo(model);
            mutator.learn(verdict);
            verdicts.add(verdict);
        }
        (verdicts, untracked.quantiles().p50)
    }
}

impl Way {
    fn state(&self) -> &[u64] {
        match self {
            Self::Rollback(prepared) => prepared.state(),
            Self::Fork(state) => state,
        }
    }
}

fn words(cell: Cell) -> usize {
    cell.pages() as usize * WORDS_PER_PAGE
}

fn prepared_words(cell: Cell) -> Vec<u64> {
    let mut state = vec![0; words(cell)];
    parser::prepare(&mut state);
    state
}

#[cfg(test)]
mod tests {
    use cairn_guest::Options;

    use super::*;
    use crate::pattern::Pattern;

    fn cell() -> Cell {
        Cell::new(Pattern::Reset, 1, 0).unwrap()
    }

    fn resets(kind: EngineKind) -> Resets {
        let session = Options::new().engine(kind).history(2).open().unwrap();
        Resets::new(session, cell(), Rate::new(1_000_000_000).unwrap()).unwrap()
    }

    #[test]
    fn inputs_are_measured_and_verified_by_rollback_and_by_fork() {
        for kind in [EngineKind::FullCopy, EngineKind::Mprotect, EngineKind::Fork] {
            let mut resets = resets(kind);
            resets.plan(3);
            resets.run().unwrap();
            resets.forget_samples();
            for _ in 0..2 {
                resets.plan(50);
                resets.run().unwrap();
            }
            let figures = resets.finish(cell()).unwrap();
            assert!(figures.verified, "{kind}");
            assert_eq!((figures.cycles, figures.rollbacks), (100, 100), "{kind}");
            assert!(0 < figures.checkpoint_ns.p50 && 0 < figures.rollback_ns.p50, "{kind}");
            assert!(figures.rollback_ns.p50 <= figures.cycle_ns.p50, "{kind}");
        }
    }

    #[test]
    fn a_state_that_is_not_put_back_and_a_verdict_that_differs_are_noticed() {
        let mut changed = resets(EngineKind::Fork);
        let Way::Fork(state) = &mut changed.way else { unreachable!() };
        *state.last_mut().unwrap() ^= 1;
        assert!(!changed.finish(cell()).unwrap().verified);
        let mut misjudged = resets(EngineKind::FullCopy);
        misjudged.plan(5);
        misjudged.run().unwrap();
        misjudged.verdicts.add(Verdict::Crash);
        assert!(!misjudged.finish(cell()).unwrap().verified);
    }
}
