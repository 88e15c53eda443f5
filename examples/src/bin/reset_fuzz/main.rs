//! Looks for an input that crashes a parser, and gives each input the same prepared state.

mod hunt;

use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_examples::fuzz::MIB_WORDS;
use clap::{Parser, ValueEnum};

use crate::hunt::{Found, Hunt, Reset};

/// Largest state: a session of any engine takes it.
const MAX_REGION_MIB: u64 = 4096;

/// Feeds a parser with mutated inputs until one crashes it. The parser has a large table in memory, which is prepared
/// once and put back after each input: by a rollback, or with --fork by a child process for each input.
///
/// Prints which input found the bug, and the line of it that crashes the parser; with the same seed both are the same
/// whatever puts the state back. On standard error: how many resets a second there were.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// Parse each input in a child process instead of rolling back.
    #[arg(long)]
    fork: bool,
    /// MiB of the parser's state.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MAX_REGION_MIB))]
    region_mib: u64,
    /// Inputs after which to give up.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    inputs: u64,
    /// What the inputs are drawn with.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// When to compare the whole state with the prepared one, which is not timed but empties the caches.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Check::Batch)]
    check: Check,
}

/// When the state is checked.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Before each input.
    Each,
    /// Before each batch of inputs, and at the end.
    Batch,
}

impl Check {
    /// Inputs between two checks.
    fn batch(self) -> u64 {
        match self {
            Self::Each => 1,
            Self::Batch => 256,
        }
    }
}

fn main() -> ExitCode {
    cairn_examples::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let words = usize::try_from(args.region_mib)? * MIB_WORDS;
    let reset = if args.fork {
        eprintln!("each input has a child process");
        Reset::forks(words)
    } else {
        let session = cairn_examples::open_session()?;
        Reset::rolls_back(session, words).context("no room for the parser's state")?
    };
    let mut hunt = Hunt::new(reset, args.seed);
    let found = hunt.run(args.inputs, args.check.batch())?;
    hunt.tell_pace();
    match found {
        Found::Crash { input, line } => {
            println!("input {input} crashes the parser, by this line: {}", line.escape_ascii());
        }
        Found::Nothing => println!("none of {} inputs crashes the parser", args.inputs),
    }
    println!("the state is the prepared one: {:016x}", hunt.digest());
    Ok(())
}
