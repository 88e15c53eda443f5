//! `cairn restore`: a program from its checkpoint.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_abi::CheckpointId;
use cairn_vmm::machine::app::{self, OutputTo, Trusted};
use cairn_vmm::machine::name::GuestName;
use cairn_vmm::machine::whole::{Consent, WholeConfig};
use clap::Args;

use crate::control::checkpoint;
use crate::whole::Every;
use crate::{number, run, state};

/// What the help says after the options.
const MORE_HELP: &str = "\
The program goes on in this process, with the memory, the registers and the files that it had. Standard input,
output and error are this process's; what went to a terminal or a pipe before isn't taken back. Its clocks go on from
where they were, but for the time of day.

A store says which directories the program sees and changes, and where its standard output goes. What you made yourself
on this machine is signed with a key of yours (key in $XDG_STATE_HOME/cairn, ~/.local/state/cairn) and gets that. Of
anything else the program is somebody's, and gets it only if you agree: to all of it with --trust, or by giving the
same with --dir and --stdout.

Exit status: as for cairn run.

Examples:
  cairn run --store ck --every 500ms --stdout out.txt -- python3 long.py
  cairn restore ck
  cairn restore ck --commit-files                keep what it had written so far, and don't run it";

/// Options of `cairn restore`.
#[derive(Args, Debug)]
#[command(max_term_width = 100, after_help = MORE_HELP)]
pub(crate) struct Restore {
    /// The directory that `cairn run --store` was given.
    store: PathBuf,
    /// The checkpoint, by its number [default: the newest].
    #[arg(long, value_name = "ID", value_parser = checkpoint)]
    at: Option<CheckpointId>,
    /// How often further checkpoints are taken, into the same store [default: as before].
    #[arg(long, value_name = "TIME", value_parser = Every::parse)]
    every: Option<Every>,
    /// Keep only the newest N checkpoints [default: as before].
    #[arg(long, value_name = "N", value_parser = number::from_one)]
    keep: Option<NonZeroUsize>,
    /// Take no further checkpoints. Where standard output is a file or directories are changed, the store is still held,
    /// so that nobody else runs the program.
    #[arg(long, conflicts_with_all = ["every", "keep"])]
    no_checkpoints: bool,
    /// What `cairn ps`, `checkpoint` and `rollback` call it [default: what they called it before].
    #[arg(long, value_name = "NAME")]
    name: Option<GuestName>,
    /// The file that standard output goes to, if it was a file and is elsewhere now. One that isn't there is made, and gets
    /// only what follows.
    #[arg(long, value_name = "FILE")]
    stdout: Option<PathBuf>,
    /// Let the program do all that the store says, whoever made it.
    #[arg(long)]
    trust: bool,
    /// Of a store that isn't yours: agree that the program sees this directory, or with rw changes it.
    #[arg(long, value_name = "HOST[:GUEST][:rw]")]
    dir: Vec<OsString>,
    /// Apply what the program had changed in its directories, as its end would have, and don't run it.
    #[arg(long, conflicts_with_all = ["every", "keep", "no_checkpoints", "stdout"])]
    commit_files: bool,
}

impl Restore {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let comeback = app::Restore::open(&self.store, self.at, state::with_key())?;
        let consent = Consent {
            everything: self.trust,
            grants: self.dir.iter().map(|text| run::grant(text)).collect::<Result<_>>()?,
            directory: std::env::current_dir().context("the working directory can't be told")?,
            // Nothing is written there where nothing runs.
            stdout: self.stdout.is_some() || self.commit_files,
        };
        let comeback = comeback.trust(&consent)?;
        if self.commit_files {
            return commit_files(comeback);
        }
        let output = match (self.stdout, comeback.stdout()) {
            // An empty one is as good as none: what failed before may have left it.
            (Some(path), Some(_)) if is_nothing(&path) => Some(OutputTo::New(std::path::absolute(path)?)),
            (Some(path), Some(_)) => Some(OutputTo::GoesOn(std::path::absolute(path)?)),
            (None, before) => before.map(|(path, _)| OutputTo::GoesOn(path)),
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

/// Whether there is no such file, or nothing in it.
fn is_nothing(path: &Path) -> bool {
    path.metadata()
        .map_or_else(|error| error.kind() == ErrorKind::NotFound, |file| file.is_file() && file.len() == 0)
}

fn commit_files(comeback: Trusted) -> Result<ExitCode> {
    match comeback.commit_files()? {
        None => anyhow::bail!("the program had no directory that it may change: there is nothing to apply"),
        Some(published) if published.steps == 0 => {
            say!("the program had changed nothing in its directories");
        }
        Some(published) => {
            for change in &published.changes {
                say!("{change}");
            }
            say!("files written: {}, changes in all: {}", published.files, published.steps);
        }
    }
    Ok(ExitCode::SUCCESS)
}
