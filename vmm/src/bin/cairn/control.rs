//! `cairn checkpoint` and `cairn rollback`: requests to a running program.

use std::process::ExitCode;

use anyhow::Result;
use cairn_abi::CheckpointId;
use cairn_vmm::machine::control::Request;
use clap::Args;

use crate::{guests, number};

/// What the help of `cairn checkpoint` says after the options.
const CHECKPOINT_HELP: &str = "\
Example:
  cairn run --store ck --every never --name job -- python3 long.py &
  cairn checkpoint job
  cairn rollback job 1";

/// What the help of `cairn rollback` says after the options.
const ROLLBACK_HELP: &str = "\
The program goes on from the checkpoint in the same process: with the memory, the registers and the files that it had,
the file of --stdout cut back, and its clocks going on from where they were, but for the time of day. What went to a
terminal or a pipe isn't taken back. If the program can't go on from there it runs on as it was, and stderr says why.

A rollback to another checkpoint than the newest is noted in the store as a checkpoint of its own, with the one that
was rolled back to as parent, so that cairn restore goes on from there if the program is killed. Newer ones stay until
the store drops them.

Examples:
  cairn ps                       which guests are running, and their newest checkpoints
  cairn store ls ck              which checkpoints there are
  cairn rollback job 7           by the guest's name
  cairn rollback 12345 7         by its process";

/// Options of `cairn checkpoint`.
#[derive(Args, Debug)]
#[command(max_term_width = 100, after_help = CHECKPOINT_HELP)]
pub(crate) struct Checkpoint {
    /// The guest's name, or the id of its process.
    name: String,
}

/// Options of `cairn rollback`.
#[derive(Args, Debug)]
#[command(max_term_width = 100, after_help = ROLLBACK_HELP)]
pub(crate) struct Rollback {
    /// The guest's name, or the id of its process.
    name: String,
    /// The checkpoint, by its number.
    #[arg(value_parser = checkpoint)]
    id: CheckpointId,
}

/// A checkpoint's number.
pub(crate) fn checkpoint(text: &str) -> Result<CheckpointId, String> {
    number::checkpoint(text).map(CheckpointId)
}

impl Checkpoint {
    pub(crate) fn run(self) -> Result<ExitCode> {
        say!("{}", guests::find(&self.name)?.ask(Request::Checkpoint)?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Rollback {
    pub(crate) fn run(self) -> Result<ExitCode> {
        say!("{}", guests::find(&self.name)?.ask(Request::Rollback(self.id))?);
        Ok(ExitCode::SUCCESS)
    }
}
