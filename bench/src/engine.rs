//! How the worker of an engine is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_guest::EngineKind;
use serde::{Deserialize, Serialize};

use crate::worker::HISTORY;

/// MiB of a VM's memory beside the region: the program, its libraries, its model of the region aside.
const PROGRAM_MIB: u32 = 256;

/// The programs that workers run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This benchmark.
    pub bench: PathBuf,
    /// The `cairn` command.
    pub cairn: PathBuf,
    /// When its VMM takes requests without an exit.
    pub poll: Poll,
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
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl Programs {
    /// This program, and the `cairn` beside it unless another is named.
    ///
    /// # Errors
    /// The system doesn't say which program this is.
    pub fn find(cairn: Option<PathBuf>, poll: Poll) -> std::io::Result<Self> {
        let bench = std::env::current_exe()?;
        let beside = || bench.parent().unwrap_or(Path::new("/")).join("cairn");
        Ok(Self { cairn: cairn.unwrap_or_else(beside), bench, poll })
    }

    /// The command that starts a worker of `engine` for a region of so many MiB.
    #[must_use]
    pub fn worker(&self, engine: EngineKind, region_mib: u32) -> Command {
        let mut command = if engine == EngineKind::Cairn {
            let mut command = Command::new(&self.cairn);
            let memory = memory_mib(region_mib);
            command.args(["run", "--memory", &format!("{memory}M"), "--history", &HISTORY.to_string()]);
            command.args(["--poll", self.poll.name(), "--"]);
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

    fn words(engine: EngineKind) -> Vec<String> {
        let programs =
            Programs { bench: "/b/cairn-bench".into(), cairn: "/b/cairn".into(), poll: Poll::Auto };
        let command = programs.worker(engine, 64);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn only_cairn_runs_in_a_vm() {
        assert_eq!(words(EngineKind::Fork), ["/b/cairn-bench", "worker", "--engine", "fork"]);
        assert_eq!(
            words(EngineKind::Cairn).join(" "),
            "/b/cairn run --memory 384M --history 2 --poll auto -- /b/cairn-bench worker --engine cairn"
        );
    }

    #[test]
    fn the_command_is_looked_for_beside_the_benchmark() {
        let programs = Programs::find(None, Poll::Auto).unwrap();
        assert_eq!(programs.cairn.parent(), programs.bench.parent());
        assert_eq!(Programs::find(Some("/x".into()), Poll::Never).unwrap().cairn, Path::new("/x"));
    }
}
