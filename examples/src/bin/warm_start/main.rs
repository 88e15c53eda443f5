//! A program that gets ready once and is started many times: a checkpoint of the whole program after its costly
//! preparation.
//!
//! ```text
//! cairn run --store ck --every never -- warm_start
//! echo 600851475143 | cairn restore --no-checkpoints ck
//! ```

mod factors;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use cairn_guest::{Error, ForkPoint, fork_point};
use clap::Parser;

use crate::factors::Factors;

/// Numbers that the table may have: 4 bytes each.
const MOST_NUMBERS: u32 = 500_000_000;

/// Prepares a table of the smallest prime factor of every number, takes a checkpoint of the whole program, and ends.
/// Brought back from it, it splits the numbers that it reads, one a line, into primes.
///
/// Without `cairn run --store DIR --every never` it does both in one run.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// How many numbers the table has.
    #[arg(long, value_name = "N", default_value_t = 20_000_000, value_parser = clap::value_parser!(u32).range(2..=i64::from(MOST_NUMBERS)))]
    numbers: u32,
}

fn main() -> ExitCode {
    cairn_examples::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let factors = Factors::new(args.numbers);
    eprintln!("the table of {} numbers took {:.2?}", args.numbers, begun.elapsed());
    match fork_point() {
        Ok(ForkPoint::Taken(id)) => {
            eprintln!("ready as checkpoint {}: cairn restore goes on from here", id.0);
            return Ok(());
        }
        Ok(ForkPoint::Resumed { from }) => eprintln!("the table is there: checkpoint {}", from.0),
        Err(error @ Error::NoWholeCheckpoints { .. }) => eprintln!("only for this run: {error}"),
        Err(error) => return Err(error).context("the prepared program can't be kept"),
    }
    answer(&factors)
}

/// Reads numbers and writes their prime factors.
fn answer(factors: &Factors) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let number: u64 = line.trim().parse().with_context(|| format!("{line:?} is no number"))?;
        write!(out, "{number}:")?;
        for prime in factors.of(number) {
            write!(out, " {prime}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
