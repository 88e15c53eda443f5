//! Options of checkpoints of whole programs.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_store::{Level, Options};
use cairn_vmm::machine::whole::WholeConfig;
use clap::Args;

/// The shortest time between two checkpoints that can be asked for: what a small one takes.
const LEAST: Duration = Duration::from_millis(10);

/// Options of `cairn run` that are about checkpoints of the whole program.
#[derive(Args, Debug)]
pub(crate) struct WholeArgs {
    /// Keep checkpoints of the whole program in this directory, for `cairn restore` to bring it back. Needs --every.
    #[arg(long, value_name = "DIR", requires = "every")]
    store: Option<PathBuf>,
    /// How often one is taken, such as 500ms or 2s. The program knows nothing of it.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "store")]
    every: Option<Duration>,
    /// Where the program's standard output goes. A program that is brought back goes on writing where it was when
    /// the checkpoint was taken; what stands behind is cut off.
    #[arg(long, value_name = "FILE", requires = "every")]
    stdout: Option<PathBuf>,
    /// Checkpoints that are kept in the store [default: all].
    #[arg(long, value_name = "N", requires = "every")]
    keep: Option<NonZeroUsize>,
    /// Have each checkpoint on the disk, so that it survives a power failure, before the next one is taken.
    #[arg(long, requires = "every")]
    sync: bool,
}

impl WholeArgs {
    /// What is asked for, if anything.
    pub(crate) fn config(self) -> Result<Option<WholeConfig>> {
        let (Some(store), Some(every)) = (self.store, self.every) else { return Ok(None) };
        if every < LEAST {
            bail!("--every must be at least {LEAST:?}");
        }
        let stdout = self.stdout.map(std::path::absolute).transpose();
        Ok(Some(WholeConfig {
            store,
            every,
            options: Options { keep: self.keep, ..Options::default() },
            level: if self.sync { Level::Synced } else { Level::Written },
            stdout: stdout.context("--stdout names no file")?,
        }))
    }
}

/// `500ms`, `2s`, `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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
        for text in ["", "5", "ms", "-1s", "1.5s", "1h", "99999999999999999999s", "999999999999999999m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
