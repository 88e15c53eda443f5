//! Counting line by line, with a checkpoint every so many lines and a way back when the table is damaged.

use anyhow::{Context, Result, bail};
use cairn_guest::{CheckpointId, Session};

use crate::input::Input;
use crate::table::Table;

/// Rollbacks to one checkpoint before this gives up: memory that is damaged again each time is not a passing fault.
const MAX_ATTEMPTS: u32 = 3;

/// A count under way.
pub(crate) struct Counting {
    session: Session,
    table: Table,
    input: Input,
    every: u64,
    /// Before which line the table is to be damaged, as long as it was not.
    corrupt_at: Option<u64>,
    /// The newest checkpoint, which holds a table that was found sound.
    checkpoint: CheckpointId,
    /// Rollbacks to it.
    attempts: u32,
}

impl Counting {
    /// Makes an empty table, which may take `room` bytes, and its first checkpoint.
    pub(crate) fn start(
        mut session: Session,
        input: Input,
        room: usize,
        every: u64,
        corrupt_at: Option<u64>,
    ) -> Result<Self> {
        let table = Table::new(&mut session, room)?;
        let checkpoint = session.checkpoint().context("the first checkpoint")?;
        Ok(Self { session, table, input, every, corrupt_at, checkpoint, attempts: 0 })
    }

    /// Counts to the end of the text.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut line = Vec::new();
        loop {
            let more = self.input.read_line(&mut line)?;
            let next = self.input.position();
            if more {
                if self.corrupt_at == Some(next.line) {
                    self.corrupt_at = None;
                    self.table.damage(&mut self.session);
                }
                self.table
                    .count_line(&mut self.session, &line, next)
                    .context("no room for more words (--room makes more)")?;
            }
            let due = !more || next.line.is_multiple_of(self.every);
            if due && !self.table.is_sound(&self.session) {
                self.roll_back()?;
            } else if !more {
                break;
            } else if due {
                self.keep()?;
            }
        }
        if let Some(line) = self.corrupt_at {
            eprintln!("nothing was damaged: the text ends before line {line}");
        }
        Ok(())
    }

    /// The words with their counts.
    pub(crate) fn result(&self) -> Vec<(&[u8], u64)> {
        self.table.sorted(&self.session)
    }

    /// Takes a checkpoint of a table that was found sound; the one before is no longer needed.
    fn keep(&mut self) -> Result<()> {
        self.checkpoint = cairn_examples::replace_checkpoint(&mut self.session, self.checkpoint)?;
        self.attempts = 0;
        Ok(())
    }

    fn roll_back(&mut self) -> Result<()> {
        let noticed = self.input.position().line;
        if self.attempts == MAX_ATTEMPTS {
            bail!("the table is damaged again at line {noticed} after {MAX_ATTEMPTS} rollbacks: giving up");
        }
        self.attempts += 1;
        self.session.rollback(self.checkpoint)?;
        let next = self.table.next(&self.session);
        eprintln!(
            "the table is damaged (noticed at line {noticed}): rolling back, going on from line {}",
            next.line + 1
        );
        self.input.seek(next)
    }
}
