//! The loop: make an input, parse it, put the state back.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_examples::fuzz::forked::Child;
use cairn_examples::fuzz::{Loaded, Mutator, Prepared, Verdict, digest, parser};
use cairn_guest::{Error, Session};

/// What puts the state back.
pub(crate) enum Reset {
    /// A rollback.
    Rollback(Prepared),
    /// Nothing does: a child's copy is parsed on.
    Fork(Vec<u64>),
}

/// What was found.
pub(crate) enum Found {
    /// The number of the input, from 1, and the line of it that crashes the parser.
    Crash { input: u64, line: Vec<u8> },
    /// No input did.
    Nothing,
}

impl Reset {
    pub(crate) fn rolls_back(session: Session, words: usize) -> Result<Self, Error> {
        Loaded::new(session, words)?.checkpoint().map(Self::Rollback)
    }

    pub(crate) fn forks(words: usize) -> Self {
        let mut state = vec![0; words];
        parser::prepare(&mut state);
        Self::Fork(state)
    }

    fn state(&self) -> &[u64] {
        match self {
            Self::Rollback(prepared) => prepared.state(),
            Self::Fork(state) => state,
        }
    }

    /// Parses an input on the prepared state, and leaves the prepared state.
    fn judge(&mut self, input: &[u8]) -> Result<Verdict> {
        match self {
            Self::Rollback(prepared) => {
                let verdict = prepared.judge(input);
                prepared.reset().context("the state can't be put back")?;
                Ok(verdict)
            }
            Self::Fork(state) => Child::judging(state, input)
                .and_then(Child::verdict)
                .map_err(named)
                .context("an input can't be parsed in a child process"),
        }
    }
}

/// Says of a machine without fork what to do about it.
fn named(error: io::Error) -> anyhow::Error {
    if error.raw_os_error() == Some(libc::ENOSYS) {
        anyhow::Error::new(error).context("there is no fork here: run it natively")
    } else {
        error.into()
    }
}

/// A loop and what it did so far.
pub(crate) struct Hunt {
    reset: Reset,
    mutator: Mutator,
    /// The digest of the prepared state.
    prepared: u64,
    inputs: u64,
    /// What the inputs took, checks aside.
    time: Duration,
}

impl Hunt {
    pub(crate) fn new(reset: Reset, seed: u64) -> Self {
        let prepared = digest(reset.state());
        Self { reset, mutator: Mutator::new(seed), prepared, inputs: 0, time: Duration::ZERO }
    }

    /// The digest of the state as it is.
    pub(crate) fn digest(&self) -> u64 {
        digest(self.reset.state())
    }

    /// Tries inputs until one crashes the parser, `most` at most. Checks the state before each `batch`.
    pub(crate) fn run(&mut self, most: u64, batch: u64) -> Result<Found> {
        let mut found = Found::Nothing;
        while self.inputs < most && matches!(found, Found::Nothing) {
            self.check()?;
            if self.batch(batch.min(most - self.inputs))? {
                found = Found::Crash { input: self.inputs, line: self.crashing_line()? };
            }
        }
        self.check()?;
        Ok(found)
    }

    /// Tries so many inputs, or up to the first that crashes; whether one did.
    fn batch(&mut self, inputs: u64) -> Result<bool> {
        let start = Instant::now();
        let mut crashed = false;
        for _ in 0..inputs {
            let verdict = self.reset.judge(self.mutator.next_input())?;
            self.mutator.learn(verdict);
            self.inputs += 1;
            crashed = verdict == Verdict::Crash;
            if crashed {
                break;
            }
        }
        self.time += start.elapsed();
        Ok(crashed)
    }

    fn check(&self) -> Result<()> {
        let (is, inputs) = (self.digest(), self.inputs);
        ensure!(
            is == self.prepared,
            "after {inputs} inputs the state is not the prepared one: its digest is {is:016x} and was {:016x}",
            self.prepared
        );
        Ok(())
    }

    /// The line of the last input that crashes the parser by itself.
    fn crashing_line(&mut self) -> Result<Vec<u8>> {
        let input = self.mutator.input().to_vec();
        for line in input.split(|byte| *byte == b'\n') {
            if self.reset.judge(line)? == Verdict::Crash {
                return Ok(line.to_vec());
            }
        }
        // It takes several lines together.
        Ok(input)
    }

    /// Prints the resets per second.
    pub(crate) fn tell_pace(&self) {
        let seconds = self.time.as_secs_f64().max(f64::MIN_POSITIVE);
        let inputs = self.inputs as f64;
        eprintln!(
            "{} resets in {seconds:.3} s: {:.0} per second, {:.1} us for an input and its reset",
            self.inputs,
            inputs / seconds,
            seconds / inputs * 1e6
        );
    }
}
