//! `cairn restore`: a program from its checkpoint.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use cairn_abi::CheckpointId;
use cairn_vmm::machine::app;
use cairn_vmm::machine::name::GuestName;
use cairn_vmm::machine::whole::WholeConfig;
use clap::Args;

use crate::run;
use crate::whole::Every;

/// What the help says after the options.
const MORE_HELP: &str = "\
The program goes on in this process, with the memory, the registers and the files that it had. Standard input,
output and error are this process's; what went to a terminal or a pipe before isn't taken back. Its clocks go on from
where they were, but for the time of day.

The store says which directories the program sees and changes, and where its standard output goes: restore only what
you, or somebody whom you trust, has made.

Exit status: as for cairn run.

Example:
  cairn run --store ck --every 500ms --stdout out.txt -- python3 long.py
  cairn restore ck";

/// Options of `cairn restore`.
#[derive(Args, Debug)]
#[command(max_term_width = 100, after_help = MORE_HELP)]
pub(crate) struct Restore {
    /// The directory that `cairn run --store` was given.
    store: PathBuf,
    /// The checkpoint, by its number [default: the newest].
    #[arg(long, value_name = "ID")]
    at: Option<u64>,
    /// How often further checkpoints are taken, into the same store [default: as before].
    #[arg(long, value_name = "TIME", value_parser = Every::parse)]
    every: Option<Every>,
    /// Checkpoints that the store keeps at least [default: as before].
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroUsize>,
    /// Take no further checkpoints: the store is only read.
    #[arg(long, conflicts_with_all = ["every", "keep"])]
    no_checkpoints: bool,
    /// What `cairn ps`, `checkpoint` and `rollback` call it [default: the program's own name].
    #[arg(long, value_name = "NAME")]
    name: Option<GuestName>,
    /// The file that standard output goes to, if it was a file and is elsewhere now.
    #[arg(long, value_name = "FILE")]
    stdout: Option<PathBuf>,
}

impl Restore {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let comeback = app::Restore::open(&self.store, self.at.map(CheckpointId))?;
        let output = match (self.stdout, comeback.stdout()) {
            (Some(path), Some(_)) => Some(std::path::absolute(path)?),
            (None, before) => before.map(|(path, _)| path),
            (Some(path), None) => anyhow::bail!(
                "the program's standard output was no file of its own, so that {} can't be where it goes on: run it \
                 with --stdout FILE",
                path.display()
            ),
        };
        let every = self.every.map_or(comeback.every(), |every| every.0);
        let further =
            (!self.no_checkpoints).then(|| (comeback.store(self.store, self.keep), WholeConfig { every }));
        Ok(run::told(&comeback.run(further, output, self.name)?))
    }
}
