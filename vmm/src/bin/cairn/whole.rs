//! Options of checkpoints of whole programs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use cairn_vmm::machine::whole::WholeConfig;
use clap::Args;

/// The shortest time between two checkpoints that can be asked for: what a small one takes.
const LEAST: Duration = Duration::from_millis(10);

/// Options of `cairn run` that are about checkpoints of the whole program.
#[derive(Args, Debug)]
pub(crate) struct WholeArgs {
    /// Keep checkpoints of the whole program in the store, one each so often, such as 500ms or 2s, or `never` for
    /// those alone that somebody asks for: `cairn restore` brings it back from the last one. The program knows nothing
    /// of it. What it writes into directories with rw goes back with it, and is applied to them when it has ended with
    /// status 0. Behind another program's checkpoints in the store these are added, and `cairn restore` brings the newest
    /// back.
    #[arg(long, value_name = "TIME", value_parser = Every::parse, requires = "store")]
    every: Option<Every>,
    /// Where the program's standard output goes; to the program it is a pipe, in which it can't go back. A program that
    /// is brought back goes on writing where it was when the checkpoint was taken; what stands behind is cut off.
    #[arg(long, value_name = "FILE", requires = "every")]
    stdout: Option<PathBuf>,
}

impl WholeArgs {
    /// Whether whole programs are checkpointed.
    pub(crate) fn is_asked(&self) -> bool {
        self.every.is_some()
    }

    /// What is asked for, if anything.
    pub(crate) fn config(&self) -> Option<WholeConfig> {
        self.every.map(|Every(every)| WholeConfig { every })
    }

    /// Where standard output goes, if not to this process's.
    pub(crate) fn stdout(self) -> Result<Option<PathBuf>> {
        self.stdout.map(std::path::absolute).transpose().context("--stdout names no file")
    }
}

/// A time, or `never`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Every(pub(crate) Option<Duration>);

impl Every {
    /// `500ms`, `2s`, `1m`, `never`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let every = duration(text)?;
        if every < LEAST {
            return Err(format!("must be at least {LEAST:?}"));
        }
        Ok(Self(Some(every)))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is no time: write a number and ms, s or m, such as 500ms");
    let split = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match &text[split..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, millis) in [("500ms", 500), ("2s", 2000), ("1m", 60_000), ("0ms", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(Every::parse("never"), Ok(Every(None)));
        assert_eq!(Every::parse("10ms"), Ok(Every(Some(LEAST))));
        assert!(Every::parse("9ms").is_err());
        for text in ["", "5", "ms", "-1s", "1.5s", "1h", "99999999999999999999s", "999999999999999999m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
