//! How soon a program is back: from the start of `cairn restore` to the first line that the program writes, and until
//! all of its memory is there.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use cairn_bench::stats::median;
use serde::{Deserialize, Serialize};

use super::Bench;
use super::program::{Mode, Program, READY, TICK, Writes};
use super::running::{Event, Running, Scratch};

/// Checkpoints of which the last is brought back: the first has all memory, the others little.
const BEFORE: u32 = 4;

/// What was found for one size.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Restored {
    pub(super) mib: u32,
    pub(super) runs: usize,
    /// The program's first line: the median and the longest.
    pub(super) first_line_ns: u64,
    pub(super) longest_first_line_ns: u64,
    /// All memory is there, the median.
    pub(super) all_there_ns: u64,
}

/// Measures one size.
pub(super) fn measure(bench: &Bench, mib: u32) -> Result<Restored> {
    let scratch = Scratch::new(&bench.options.disk)?;
    let store = scratch.at("store");
    let program = Program {
        mode: Mode::Tick,
        mib,
        percent: 1,
        writes: Writes::Hot,
        turns: 0,
        rounds: 0,
        hz: bench.rate.hz(),
    };
    let options = ["-v", "--store", &store.to_string_lossy(), "--every", "100ms"];
    let mut running = Running::start(bench.cairn_run(&options).arg(&bench.own).args(program.arguments()))?;
    running.line(READY)?;
    running.checkpoints(BEFORE)?;
    running.kill()?;
    let (mut firsts, mut alls) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.runs {
        let mut command = Command::new(&bench.cairn);
        command.args(["restore", "-v"]).arg(&store);
        let mut running = Running::start(&mut command)?;
        let begun = running.begun;
        let since = |at: Instant| u64::try_from((at - begun).as_nanos()).unwrap_or(u64::MAX);
        let mut all_there = None;
        let (first, ()) = running.wait(|event| {
            if *event == Event::AllThere {
                all_there = Some(Instant::now());
            }
            (*event == Event::Line(TICK.to_owned())).then_some(())
        })?;
        firsts.push(since(first));
        let all_there = match all_there {
            Some(at) => at,
            None => running.wait(|event| (*event == Event::AllThere).then_some(()))?.0,
        };
        alls.push(since(all_there));
        running.kill()?;
    }
    Ok(Restored {
        mib,
        runs: firsts.len(),
        longest_first_line_ns: firsts.iter().copied().max().unwrap_or(0),
        first_line_ns: median(firsts),
        all_there_ns: median(alls),
    })
}
