//! Heat that spreads over a plate, computed in memory that is rolled back when a number went bad.

mod plate;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cairn_guest::Session;
use clap::Parser;

use crate::plate::Plate;

/// Cells along an edge, at most: two grids of this size are 4 GiB together, which is what a session may have.
const MAX_SIZE: u64 = 16_000;
/// Rollbacks to one checkpoint before this gives up: a number that goes bad each time is not a passing fault.
const MAX_ATTEMPTS: u32 = 3;

/// Lets heat spread over a square plate with one hot edge (five-point stencil, Jacobi iteration).
///
/// Prints the residual (the largest change of a cell in the last step) and a checksum of all cells. Both are the
/// same whether or not a fault was injected on the way.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Cells along an edge of the plate.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(3..=MAX_SIZE))]
    size: u64,
    /// Steps to compute.
    #[arg(long, value_name = "S", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps between two checkpoints.
    #[arg(long, value_name = "K", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Once, after this step, write a NaN into the middle of the plate.
    #[arg(long, value_name = "STEP")]
    nan_at: Option<u64>,
}

fn main() -> ExitCode {
    cairn_examples::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    if let Some(step) = args.nan_at
        && !(1..=args.steps).contains(&step)
    {
        bail!("--nan-at {step} is no step of this run: it has the steps 1 to {}", args.steps);
    }
    let mut session = cairn_examples::open_session()?;
    let plate = Plate::new(&mut session, usize::try_from(args.size)?).context("no room for the plate")?;
    let residual = compute(&mut session, &plate, args)?;
    println!("steps {} residual {residual:e} checksum {:016x}", args.steps, plate.checksum(&session));
    Ok(())
}

/// Computes all steps and returns the last one's residual.
fn compute(session: &mut Session, plate: &Plate, args: &Args) -> Result<f64> {
    let mut nan_at = args.nan_at;
    let mut checkpoint = session.checkpoint()?;
    let mut attempts = 0;
    loop {
        let residual = plate.step(session);
        let step = plate.steps_done(session);
        if nan_at == Some(step) {
            nan_at = None;
            plate.spoil(session);
        }
        let last = step == args.steps;
        if !last && !step.is_multiple_of(args.every) {
            continue;
        }
        if plate.is_sound(session) {
            if last {
                return Ok(residual);
            }
            checkpoint = cairn_examples::replace_checkpoint(session, checkpoint)?;
            attempts = 0;
        } else if attempts < MAX_ATTEMPTS {
            attempts += 1;
            session.rollback(checkpoint)?;
            let kept = plate.steps_done(session);
            eprintln!(
                "a cell is not a number (noticed after step {step}): rolling back, going on after step {kept}"
            );
        } else {
            bail!(
                "a cell is not a number after step {step} again, after {MAX_ATTEMPTS} rollbacks: giving up"
            );
        }
    }
}
