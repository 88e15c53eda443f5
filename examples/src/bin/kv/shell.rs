//! Commands in, answers out, and the stack of checkpoints that transactions are.

use std::io::{self, BufRead, Read, Write};

use cairn_guest::{CheckpointId, Error, Level, Session};

use crate::command::Command;
use crate::store::Store;

/// Bytes that a line may have: bounds the memory that one command can take.
const MAX_LINE: usize = 1 << 20;

/// A store and its open transactions.
pub(crate) struct Shell {
    session: Session,
    store: Store,
    /// One checkpoint per open transaction, the innermost last.
    transactions: Vec<CheckpointId>,
    /// If changes are answered when they are on disk.
    durable: Option<Durable>,
}

/// What is on disk.
struct Durable {
    level: Level,
    newest: Option<CheckpointId>,
}

/// Whether to read another line.
#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    Quit,
}

impl Shell {
    pub(crate) fn new(session: Session, store: Store) -> Self {
        Self { session, store, transactions: Vec::new(), durable: None }
    }

    /// Begins with what is on disk, if anything is, and puts every change there from now on.
    ///
    /// # Errors
    /// There is no store, or another program's is in it.
    pub(crate) fn recover(&mut self, level: Level) -> Result<Option<CheckpointId>, Error> {
        let newest = self.session.recover()?;
        self.durable = Some(Durable { level, newest });
        Ok(newest)
    }

    /// Answers line by line until QUIT or the end of the input.
    ///
    /// # Errors
    /// The input can't be read or the output can't be written. A bad command is answered, not an error.
    pub(crate) fn serve(&mut self, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
        let mut line = Vec::new();
        while read_line(&mut input, &mut line)? {
            let flow = if line.len() > MAX_LINE {
                writeln!(output, "ERR the line is longer than {MAX_LINE} bytes")?;
                Flow::Continue
            } else {
                self.answer(&line, &mut output)?
            };
            output.flush()?;
            if flow == Flow::Quit {
                break;
            }
        }
        Ok(())
    }

    fn answer(&mut self, line: &[u8], output: &mut impl Write) -> io::Result<Flow> {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(reason) => {
                writeln!(output, "ERR {reason}")?;
                return Ok(Flow::Continue);
            }
        };
        match command {
            Command::Nothing => {}
            Command::Set { key, value } => {
                let set = self.store.set(&mut self.session, key, value).map_err(|full| full.to_string());
                tell(output, set.and_then(|()| self.changed()))?;
            }
            Command::Get { key } => match self.store.get(&self.session, key) {
                Some(value) => {
                    output.write_all(value)?;
                    writeln!(output, "\nOK")?;
                }
                None => writeln!(output, "NONE")?,
            },
            Command::Del { key } => match self.store.delete(&mut self.session, key) {
                true => tell(output, self.changed())?,
                false => writeln!(output, "NONE")?,
            },
            Command::List => self.list(output)?,
            Command::Begin => tell(output, self.begin())?,
            Command::Commit => tell(output, self.commit().and_then(|()| self.changed()))?,
            Command::Rollback => tell(output, self.rollback())?,
            Command::Stats => self.stats(output)?,
            Command::Quit => {
                writeln!(output, "OK")?;
                return Ok(Flow::Quit);
            }
        }
        Ok(Flow::Continue)
    }

    /// Puts what was changed on disk, unless a transaction is open. What can't be put there stays changed, and goes
    /// there with the next change.
    fn changed(&mut self) -> Result<(), String> {
        let Some(durable) = self.durable.as_mut().filter(|_| self.transactions.is_empty()) else {
            return Ok(());
        };
        let stored = self.session.checkpoint_durable_at(durable.level);
        // Nobody rolls back to one that is on disk: in memory the newest is enough.
        let newest = match &stored {
            Ok(id) | Err(Error::NotStored { id, .. }) => durable.newest.replace(*id),
            Err(_) => None,
        };
        if let Some(before) = newest {
            // It may have been evicted.
            let _ = self.session.release(before);
        }
        stored.map(drop).map_err(|error| with_causes(&error))
    }

    fn begin(&mut self) -> Result<(), String> {
        if self.transactions.len() == self.max_depth() {
            return Err(format!("{} transactions are open, and no more can be", self.max_depth()));
        }
        self.transactions.push(self.session.checkpoint().map_err(|error| error.to_string())?);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), String> {
        let innermost = self.innermost()?;
        self.session.release(innermost).map_err(|error| error.to_string())?;
        self.transactions.pop();
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), String> {
        let innermost = self.innermost()?;
        self.session.rollback(innermost).map_err(|error| error.to_string())?;
        self.commit()
    }

    /// Transactions that may be open at once: a checkpoint beyond the session's history would take the outermost
    /// transaction's way back.
    fn max_depth(&self) -> usize {
        usize::try_from(self.session.history()).unwrap_or(usize::MAX)
    }

    fn innermost(&self) -> Result<CheckpointId, String> {
        self.transactions.last().copied().ok_or_else(|| "no transaction is open".to_owned())
    }

    fn list(&self, output: &mut impl Write) -> io::Result<()> {
        for (key, value) in self.store.sorted(&self.session) {
            output.write_all(key)?;
            output.write_all(b" ")?;
            output.write_all(value)?;
            output.write_all(b"\n")?;
        }
        writeln!(output, "OK")
    }

    fn stats(&self, output: &mut impl Write) -> io::Result<()> {
        let stats = self.store.stats(&self.session);
        writeln!(output, "engine {}", self.session.engine())?;
        writeln!(output, "keys {} of {}", stats.keys, stats.max_keys)?;
        writeln!(output, "bytes {} of {}", stats.bytes, stats.max_bytes)?;
        writeln!(output, "transactions {} of {}", self.transactions.len(), self.max_depth())?;
        writeln!(output, "OK")
    }
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

fn tell(output: &mut impl Write, outcome: Result<(), String>) -> io::Result<()> {
    match outcome {
        Ok(()) => writeln!(output, "OK"),
        Err(reason) => writeln!(output, "ERR {reason}"),
    }
}

/// Reads a line; of one that is too long, only [`MAX_LINE`] + 1 bytes are kept. False at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = MAX_LINE as u64 + 1;
    input.by_ref().take(limit).read_until(b'\n', line)?;
    if line.len() > MAX_LINE && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}

#[cfg(test)]
mod tests {
    use cairn_guest::EngineKind;

    use super::*;

    fn answers(input: &[u8]) -> String {
        let mut session = Session::open_with(EngineKind::FullCopy).unwrap();
        let store = Store::new(&mut session, 16, 4096).unwrap();
        let mut output = Vec::new();
        Shell::new(session, store).serve(input, &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn inner_transactions_are_undone_alone_and_outer_ones_whole() {
        let input = b"SET a 1\nBEGIN\nSET a 2\nBEGIN\nSET a 3\nROLLBACK\nGET a\nROLLBACK\nGET a\nROLLBACK\n";
        assert_eq!(answers(input), "OK\nOK\nOK\nOK\nOK\nOK\n2\nOK\nOK\n1\nOK\nERR no transaction is open\n");
    }

    #[test]
    fn a_committed_inner_transaction_is_still_part_of_the_outer() {
        let input = b"SET a 1\nBEGIN\nBEGIN\nSET a 2\nCOMMIT\nGET a\nROLLBACK\nGET a\n";
        assert_eq!(answers(input), "OK\nOK\nOK\nOK\nOK\n2\nOK\nOK\n1\nOK\n");
    }

    #[test]
    fn the_outermost_of_as_many_transactions_as_may_be_open_can_be_undone() {
        let depth = Session::open_with(EngineKind::FullCopy).unwrap().history();
        let mut input = b"SET a 1\n".to_vec();
        for depth in 0..=depth {
            input.extend(format!("BEGIN\nSET a depth{depth}\n").bytes());
        }
        input.extend(b"ROLLBACK\n".repeat(depth as usize));
        input.extend(b"GET a\n");
        let answers = answers(&input);
        assert_eq!(answers.matches("ERR").count(), 1, "{answers}");
        assert!(answers.ends_with("\n1\nOK\n"), "{answers}");
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_and_the_next_one_answered() {
        let mut input = vec![b'x'; MAX_LINE + 1];
        input.extend(b"\nSET k v\nGET k\n");
        let answers = answers(&input);
        assert_eq!(answers, format!("ERR the line is longer than {MAX_LINE} bytes\nOK\nv\nOK\n"));
    }

    #[test]
    fn a_line_at_the_limit_is_read() {
        let mut input = b"GET ".to_vec();
        input.resize(MAX_LINE - 1, b'k');
        input.push(b'\n');
        assert_eq!(answers(&input), "NONE\n");
    }

    #[test]
    fn bad_lines_are_answered_and_change_nothing() {
        let input = b"SET a 1\nSET a\nFOO\n\nGET b\nDEL b\nCOMMIT\nLIST\nQUIT\nGET a\n";
        let answers = answers(input);
        assert_eq!(answers.lines().filter(|line| line.starts_with("ERR")).count(), 3, "{answers}");
        assert!(answers.ends_with("NONE\nNONE\nERR no transaction is open\na 1\nOK\nOK\n"), "{answers}");
    }
}
