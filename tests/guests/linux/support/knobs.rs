//! Settings and counters of the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::scenario::not_here;

/// A setting that is put back when this is dropped.
#[derive(Debug)]
pub(crate) struct Knob {
    path: PathBuf,
    before: String,
}

impl Knob {
    /// Sets it; a kernel that doesn't have it, or a user who may not, is [`NotHere`](crate::scenario::NotHere).
    pub(crate) fn set(path: impl AsRef<Path>, value: &str) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let cannot = |error| not_here(format_args!("{} can't be set: {error}", path.display()));
        let before = fs::read_to_string(&path).map_err(cannot)?;
        fs::write(&path, value).map_err(cannot)?;
        Ok(Self { before: chosen(&before).to_owned(), path })
    }
}

impl Drop for Knob {
    fn drop(&mut self) {
        // The guest ends soon; whoever runs it elsewhere may see the setting.
        let _ = fs::write(&self.path, &self.before);
    }
}

/// `a [b] c` is how a file shows that b is chosen.
fn chosen(text: &str) -> &str {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text.trim(), |(word, _)| word)
}

/// The number in a file.
pub(crate) fn number(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    text.trim().parse().with_context(|| format!("{path} holds {text:?}"))
}

/// The sum of these counters of /proc/vmstat. Those that this kernel doesn't have count as 0.
pub(crate) fn events(names: &[&str]) -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").context("reading /proc/vmstat")?;
    let counters = text.lines().filter_map(|line| line.split_once(' '));
    Ok(counters
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}

/// A line of /proc/meminfo, in bytes.
pub(crate) fn memory(line: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).with_context(|| format!("/proc/meminfo has no {line}"))
}
