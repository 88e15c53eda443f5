//! Counts words in memory that can be damaged, noticed and rolled back.

mod count;
mod input;
mod table;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::count::Counting;
use crate::input::Input;

/// What `--help` says first.
const ABOUT: &str = "\
Counts the words of texts and survives damage to its own table of counts.

The result is that of

    cat FILE... | tr -cs '[:alnum:]' '\\n' | grep . | sort | uniq -c

under LC_ALL=C: a word is a run of ASCII letters and digits, words are sorted by their bytes.";

/// The command line.
#[derive(Parser)]
#[command(about = ABOUT, version)]
struct Args {
    /// The texts, read as if they were one.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Overwrite a part of the table once, before this line (the first is 1).
    #[arg(long, value_name = "LINE", value_parser = clap::value_parser!(u64).range(1..))]
    corrupt_at: Option<u64>,
    /// Lines between two checkpoints.
    #[arg(long, value_name = "LINES", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// MiB that the table may take.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=64 << 10))]
    room: u64,
}

fn main() -> ExitCode {
    cairn_examples::exit_code(run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    let input = Input::open(args.files)?;
    let session = cairn_examples::open_session()?;
    let room = usize::try_from(args.room << 20)?;
    let mut counting = Counting::start(session, input, room, args.every, args.corrupt_at)?;
    counting.run()?;
    print(&counting.result()).context("writing the result")
}

/// Prints counts as `uniq -c` does.
fn print(counts: &[(&[u8], u64)]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (word, count) in counts {
        write!(out, "{count:>7} ")?;
        out.write_all(word)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
