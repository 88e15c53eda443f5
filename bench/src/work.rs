//! What a worker does in its cell: epochs with checkpoints, or inputs with resets.

use cairn_guest::Session;

use crate::cell::Cell;
use crate::clock::Rate;
use crate::contender::Contender;
use crate::pattern::Pattern;
use crate::protocol::Figures;
use crate::resets::{Resets, Stuck};
use crate::workload::Workload;

/// The work of a cell, in batches.
#[derive(Debug)]
pub struct Work {
    cell: Cell,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Epochs(Box<Workload>),
    Resets(Box<Resets>),
}

impl Work {
    /// Prepares the memory of the cell, for `reset` in a region whose engine finds out what is written.
    ///
    /// # Errors
    /// [`Stuck`]
    pub fn new(session: Session, contender: Contender, cell: Cell, rate: Rate) -> Result<Self, Stuck> {
        let kind = if cell.pattern == Pattern::Reset {
            Kind::Resets(Box::new(Resets::new(session, cell, rate)?))
        } else {
            Kind::Epochs(Box::new(Workload::new(session, contender, cell, rate)?))
        };
        Ok(Self { cell, kind })
    }

    /// Pages that each cycle writes.
    #[must_use]
    pub fn dirty(&self) -> u32 {
        self.cell.dirty_pages
    }

    /// Does what can be done for the next `cycles` before they are timed.
    pub fn plan(&mut self, cycles: u32) {
        match &mut self.kind {
            Kind::Epochs(work) => work.plan(cycles),
            Kind::Resets(work) => work.plan(cycles),
        }
    }

    /// Runs the planned cycles; returns the ns that they took.
    ///
    /// # Errors
    /// [`Stuck`]
    pub fn run(&mut self) -> Result<u64, Stuck> {
        match &mut self.kind {
            Kind::Epochs(work) => Ok(work.run()?),
            Kind::Resets(work) => work.run(),
        }
    }

    /// Forgets what was timed so far.
    pub fn forget_samples(&mut self) {
        match &mut self.kind {
            Kind::Epochs(work) => work.forget_samples(),
            Kind::Resets(work) => work.forget_samples(),
        }
    }

    /// Times rollbacks for about `rollback_ns` if cycles have none, checks what was restored, and reports everything.
    ///
    /// # Errors
    /// [`Stuck`]
    pub fn finish(self, rollback_ns: u64) -> Result<Figures, Stuck> {
        match self.kind {
            Kind::Epochs(work) => Ok(work.finish(rollback_ns)?),
            Kind::Resets(work) => work.finish(self.cell),
        }
    }
}
