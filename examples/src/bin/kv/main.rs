//! A key-value store whose transactions are checkpoints.

mod command;
mod shell;
mod store;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_guest::Level;
use clap::{Parser, ValueEnum};

use crate::shell::Shell;
use crate::store::Store;

/// A key-value store that reads commands from standard input, one a line, and answers each on standard output.
///
/// SET KEY VALUE, GET KEY, DEL KEY, LIST: a key has no spaces, a value is the rest of the line.
/// BEGIN, COMMIT, ROLLBACK: a transaction, which may hold others. ROLLBACK undoes all since the last BEGIN.
/// STATS, QUIT.
///
/// Answers begin with OK, NONE (no such key) or ERR and what is wrong; GET's and LIST's lines come before the OK.
#[derive(Parser)]
#[command(verbatim_doc_comment, version)]
struct Args {
    /// Keys that fit.
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    keys: u64,
    /// KiB that all keys and values may have together.
    #[arg(long, value_name = "KIB", default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(1..=2 << 20))]
    room: u64,
    /// Answer a change when it is on disk, where it survives the end of the program (written) or the loss of power
    /// (synced), and begin with what is there: under cairn run --store DIR. An open transaction is not a change yet.
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "synced", require_equals = true)]
    durable: Option<Durable>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Durable {
    Written,
    Synced,
}

impl From<Durable> for Level {
    fn from(durable: Durable) -> Self {
        match durable {
            Durable::Written => Self::Written,
            Durable::Synced => Self::Synced,
        }
    }
}

fn main() -> ExitCode {
    cairn_examples::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut session = cairn_examples::open_session()?;
    let (keys, bytes) = (usize::try_from(args.keys)?, usize::try_from(args.room << 10)?);
    let store = Store::new(&mut session, keys, bytes).context("no room for the store")?;
    let mut shell = Shell::new(session, store);
    if let Some(level) = args.durable {
        match shell.recover(level.into()).context("what is on disk can't be recovered")? {
            Some(id) => eprintln!("recovered checkpoint {id}"),
            None => eprintln!("nothing on disk yet"),
        }
    }
    shell.serve(io::stdin().lock(), io::stdout().lock()).context("standard input or output")
}
