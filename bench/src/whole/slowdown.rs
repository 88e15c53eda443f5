//! What checkpoints cost a program that runs: the same work with them and without, in turn.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_bench::stats::median;
use serde::{Deserialize, Serialize};

use super::Bench;
use super::program::{GO, Mode, Program, READY, ROUND_MS, Told, Writes};
use super::running::{Checkpoint, Event, Running, Scratch};

/// Between two checkpoints.
const EVERY: &str = "100ms";
/// Checkpoints before the work begins: the first has everything, the second what was written meanwhile.
const BEFORE: u32 = 3;

/// What was found for one way to write.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Slowdown {
    pub(super) writes: Writes,
    pub(super) mib: u32,
    pub(super) percent: u32,
    /// Of the runs without checkpoints, the median, and of those with them.
    pub(super) plain_ns: u64,
    pub(super) checkpointed_ns: u64,
    /// By how much the second is longer, in hundredths.
    pub(super) slowdown_percent: f64,
    pub(super) checkpoints: usize,
    pub(super) pages: u64,
    pub(super) bytes: u64,
    /// How long the program stood still for one, as the monitor says: the median and the longest.
    pub(super) pause_ns: u64,
    pub(super) longest_pause_ns: u64,
    /// The longest that it saw by its own clock, without checkpoints and with them: others take the CPU, too.
    pub(super) plain_gap_ns: u64,
    pub(super) gap_ns: u64,
    /// From the beginning of one until the store had it, the median.
    pub(super) until_stored_ns: u64,
    /// CPU time of the monitor that the runs without checkpoints didn't need, for one checkpoint.
    pub(super) cpu_ns: i64,
}

/// One run.
struct Ran {
    told: Told,
    cpu_ns: u64,
    checkpoints: Vec<Checkpoint>,
}

/// Measures one way to write.
pub(super) fn measure(bench: &Bench, writes: Writes) -> Result<Slowdown> {
    let seconds = bench.options.seconds;
    let (mib, percent) = (bench.options.mib, bench.options.percent);
    let hz = bench.rate.hz();
    let calibrating = Program { mode: Mode::Calibrate, mib: 1, percent, writes, turns: 0, rounds: 0, hz };
    let turns = turns_of_a_round(bench.cairn_run(&[]).arg(&bench.own).args(calibrating.arguments()))?;
    let rounds = seconds * 1000 / ROUND_MS;
    let program = Program { mode: Mode::Work, mib, turns, rounds, ..calibrating };
    let (mut plain, mut checkpointed) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.runs {
        let command = &mut bench.cairn_run(&[]);
        plain.push(run(command.arg(&bench.own).args(program.arguments()), false)?);
        let scratch = Scratch::new(&bench.options.disk)?;
        let store: PathBuf = scratch.at("store");
        let store = store.to_str().context("the store's path is no text")?;
        let command = &mut bench.cairn_run(&["-v", "--store", store, "--every", EVERY]);
        checkpointed.push(run(command.arg(&bench.own).args(program.arguments()), true)?);
    }
    let digests = plain.iter().chain(&checkpointed).map(|ran| ran.told.digest);
    ensure!(digests.clone().all(|digest| Some(digest) == digests.clone().next()), "the results differ");
    Ok(summary(&program, &plain, &checkpointed))
}

/// Turns of the loop in a round, as the command says.
pub(super) fn turns_of_a_round(command: &mut Command) -> Result<u64> {
    let mut running = Running::start(command)?;
    let said = running.wait(|event| match event {
        Event::Line(line) => line.parse::<u64>().ok(),
        _ => None,
    });
    match said {
        Ok((_, turns)) => Ok(turns * u64::from(ROUND_MS)),
        Err(_) => running.end().and(Err(anyhow::anyhow!("the program said nothing"))),
    }
}

fn run(command: &mut Command, with_checkpoints: bool) -> Result<Ran> {
    let mut running = Running::start(command)?;
    running.line(READY)?;
    if with_checkpoints {
        running.checkpoints(BEFORE)?;
    }
    let before = running.cpu_ns()?;
    running.tell(GO)?;
    let mut checkpoints = Vec::new();
    let (_, told) = running.wait(|event| match event {
        Event::Line(line) => Some(serde_json::from_str::<Told>(line)),
        Event::Taken(checkpoint) => {
            checkpoints.push(*checkpoint);
            None
        }
        Event::AllThere => None,
    })?;
    let cpu_ns = running.cpu_ns()? - before;
    running.tell(GO)?;
    running.end()?;
    Ok(Ran { told: told?, cpu_ns, checkpoints })
}

fn summary(program: &Program, plain: &[Ran], checkpointed: &[Ran]) -> Slowdown {
    let time = |runs: &[Ran]| median(runs.iter().map(|ran| ran.told.ns).collect());
    let (plain_ns, checkpointed_ns) = (time(plain), time(checkpointed));
    let all: Vec<&Checkpoint> = checkpointed.iter().flat_map(|ran| &ran.checkpoints).collect();
    let of = |field: fn(&Checkpoint) -> u64| median(all.iter().map(|checkpoint| field(checkpoint)).collect());
    let cpu = |runs: &[Ran]| runs.iter().map(|ran| ran.cpu_ns as i64).sum::<i64>() / runs.len().max(1) as i64;
    let gap = |runs: &[Ran]| runs.iter().flat_map(|ran| &ran.told.gaps_ns).copied().max().unwrap_or(0);
    let each = (all.len() / checkpointed.len().max(1)).max(1) as i64;
    Slowdown {
        writes: program.writes,
        mib: program.mib,
        percent: program.percent,
        plain_ns,
        checkpointed_ns,
        slowdown_percent: (checkpointed_ns as f64 / plain_ns as f64 - 1.0) * 100.0,
        checkpoints: all.len(),
        pages: of(|checkpoint| checkpoint.pages),
        bytes: of(|checkpoint| checkpoint.bytes),
        pause_ns: of(|checkpoint| checkpoint.pause_ns),
        longest_pause_ns: all.iter().map(|checkpoint| checkpoint.pause_ns).max().unwrap_or(0),
        plain_gap_ns: gap(plain),
        gap_ns: gap(checkpointed),
        until_stored_ns: of(|checkpoint| checkpoint.all_ns),
        cpu_ns: (cpu(checkpointed) - cpu(plain)) / each,
    }
}
