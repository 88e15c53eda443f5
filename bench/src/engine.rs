//! How the worker of an engine is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contender::Contender;
use serde::{Deserialize, Serialize};

use crate::worker::HISTORY;

/// MiB of a VM's memory beside the region: the program, its libraries, its model of the region aside.
const PROGRAM_MIB: u32 = 256;

/// The programs that workers run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This benchmark.
    pub bench: PathBuf,
    /// The `cairn` command that runs the worker of `cairn`; none in a guest that has the device already.
    pub cairn: Option<PathBuf>,
    /// When its VMM takes requests without an exit.
    pub poll: Poll,
    /// How its VMM finds what was written.
    pub tracker: Tracker,
}

/// The values of `cairn run --poll`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Poll {
    /// While requests come and a core is spare.
    #[default]
    Auto,
    /// All the time, also while other engines are timed.
    Always,
    /// Never.
    Never,
}

impl Poll {
    /// The name that the option takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// The values of `cairn run --tracker`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tracker {
    /// Whatever costs least here.
    #[default]
    Auto,
    /// KVM's dirty bitmap.
    Bitmap,
    /// KVM's dirty ring.
    Ring,
    /// Everything is compared.
    Scan,
}

impl Tracker {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bitmap => "bitmap",
            Self::Ring => "ring",
            Self::Scan => "scan",
        }
    }
}

impl Programs {
    /// This program, and the `cairn` beside it unless another is named.
    ///
    /// # Errors
    /// The system doesn't say which program this is.
    pub fn find(cairn: Option<PathBuf>, poll: Poll, tracker: Tracker) -> std::io::Result<Self> {
        let bench = std::env::current_exe()?;
        let beside = || bench.parent().unwrap_or(Path::new("/")).join("cairn");
        Ok(Self { cairn: Some(cairn.unwrap_or_else(beside)), bench, poll, tracker })
    }

    /// This program, for every engine: in a guest.
    ///
    /// # Errors
    /// The system doesn't say which program this is.
    pub fn in_guest() -> std::io::Result<Self> {
        Ok(Self { cairn: None, bench: std::env::current_exe()?, poll: Poll::Never, tracker: Tracker::Auto })
    }

    /// The command that starts a worker of `engine` for a region of so many MiB.
    #[must_use]
    pub fn worker(&self, engine: Contender, region_mib: u32) -> Command {
        let vm = self.cairn.as_ref().filter(|_| engine.needs_device());
        let mut command = if let Some(cairn) = vm {
            let mut command = Command::new(cairn);
            let memory = memory_mib(region_mib);
            command.args(["run", "--memory", &format!("{memory}M"), "--history", &HISTORY.to_string()]);
            command.args(["--poll", self.poll.name(), "--tracker", self.tracker.name(), "--"]);
            command.arg(&self.bench);
            command
        } else {
            Command::new(&self.bench)
        };
        command.args(["worker", "--engine", engine.name()]);
        command
    }
}

/// MiB of guest memory for a region and the model of it.
fn memory_mib(region_mib: u32) -> u32 {
    region_mib.saturating_mul(2).saturating_add(PROGRAM_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(engine: Contender) -> Vec<String> {
        words_with(engine, Some("/b/cairn"))
    }

    fn words_with(engine: Contender, cairn: Option<&str>) -> Vec<String> {
        let cairn = cairn.map(PathBuf::from);
        let programs =
            Programs { bench: "/b/cairn-bench".into(), cairn, poll: Poll::Auto, tracker: Tracker::Ring };
        let command = programs.worker(engine, 64);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn only_cairn_runs_in_a_vm() {
        assert_eq!(words(Contender::Fork), ["/b/cairn-bench", "worker", "--engine", "fork"]);
        assert_eq!(
            words(Contender::Cairn).join(" "),
            "/b/cairn run --memory 384M --history 2 --poll auto --tracker ring -- /b/cairn-bench worker --engine cairn"
        );
    }

    #[test]
    fn in_a_guest_all_engines_run_alike() {
        assert_eq!(words_with(Contender::Cairn, None), ["/b/cairn-bench", "worker", "--engine", "cairn"]);
        assert_eq!(Programs::in_guest().unwrap().cairn, None);
    }

    #[test]
    fn the_command_is_looked_for_beside_the_benchmark() {
        let programs = Programs::find(None, Poll::Auto, Tracker::Auto).unwrap();
        assert_eq!(programs.cairn.unwrap().parent(), programs.bench.parent());
        let programs = Programs::find(Some("/x".into()), Poll::Never, Tracker::Scan).unwrap();
        assert_eq!(programs.cairn, Some("/x".into()));
    }
}
