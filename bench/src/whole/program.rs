//! The program that is checkpointed, which knows nothing of it: memory, a fixed amount of work, and a clock of its own.

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result, ensure};
use cairn_bench::clock::{Rate, ticks};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Words of a page.
const PAGE_WORDS: usize = 512;
/// Pages of a MiB.
const MIB_PAGES: usize = 256;
/// Rounds in which all pages are written that are dirty between two checkpoints.
pub(super) const WINDOW_ROUNDS: usize = 10;
/// Milliseconds that one is to take.
pub(super) const ROUND_MS: u32 = 10;
/// Looks at the clock in each round: what lasts longer than one of these pieces is seen.
const SLICES: u64 = 500;
/// Nanoseconds between two looks at the clock that count as having stood still: ten times what a piece takes.
const GAP_NS: u64 = 200_000;
/// Gaps that are remembered.
const MOST_GAPS: usize = 100_000;
/// The program's lines.
pub(super) const READY: &str = "ready";
/// What it's told, and what it says when it only goes on.
pub(super) const GO: &str = "go";
/// What [`Mode::Tick`] says again and again.
pub(super) const TICK: &str = "tick";

/// Which pages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Writes {
    /// The same in each round, spread evenly.
    Hot,
    /// A window that moves on by a tenth in each round.
    Sweep,
}

impl Writes {
    /// As the command line has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Sweep => "sweep",
        }
    }
}

/// What the program does when its memory is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// Tells how many turns take a millisecond.
    Calibrate,
    /// Waits for a word, works, and tells how long that took.
    Work,
    /// Says a line each millisecond, without end.
    Tick,
}

impl Mode {
    /// As the command line has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calibrate => "calibrate",
            Self::Work => "work",
            Self::Tick => "tick",
        }
    }
}

/// Its options.
#[derive(Args, Clone, Debug)]
pub(crate) struct Program {
    #[arg(value_enum)]
    pub(super) mode: Mode,
    /// Memory, all of it with content.
    #[arg(long)]
    pub(super) mib: u32,
    /// Hundredths of its pages that are written in ten rounds.
    #[arg(long, default_value_t = 1)]
    pub(super) percent: u32,
    #[arg(long, value_enum, default_value = "hot")]
    pub(super) writes: Writes,
    /// Turns of the loop in a round.
    #[arg(long, default_value_t = 0)]
    pub(super) turns: u64,
    #[arg(long, default_value_t = 0)]
    pub(super) rounds: u32,
    /// The rate of the time-stamp counter.
    #[arg(long)]
    pub(super) hz: u64,
}

/// What it tells at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// How long the work took.
    pub(super) ns: u64,
    /// How long it stood still each time.
    pub(super) gaps_ns: Vec<u64>,
    /// What all its memory comes to: the same in each run.
    pub(super) digest: u64,
}

impl Program {
    /// The words that start it in this mode.
    pub(super) fn arguments(&self) -> Vec<String> {
        let number = |name: &str, value: u64| [format!("--{name}"), value.to_string()];
        let mut words = vec!["program".to_owned(), self.mode.name().to_owned()];
        words.extend(number("mib", self.mib.into()));
        words.extend(number("percent", self.percent.into()));
        words.extend(["--writes".to_owned(), self.writes.name().to_owned()]);
        words.extend(number("turns", self.turns));
        words.extend(number("rounds", self.rounds.into()));
        words.extend(number("hz", self.hz));
        words
    }

    /// Does it.
    pub(crate) fn run(&self) -> Result<()> {
        let rate = Rate::new(self.hz).context("no clock has this rate")?;
        ensure!(self.mib != 0 && (1..=100).contains(&self.percent), "no pages are written");
        let pages = self.mib as usize * MIB_PAGES;
        let mut table: Vec<u64> = (0..pages * PAGE_WORDS).map(|at| mixed(at as u64)).collect();
        match self.mode {
            Mode::Calibrate => say(&calibrate(rate).to_string()),
            Mode::Tick => {
                say(READY)?;
                let turns = calibrate(rate);
                let mut state = 1;
                loop {
                    state = std::hint::black_box(spin(state, turns));
                    say(TICK)?;
                }
            }
            Mode::Work => {
                say(READY)?;
                io::stdin().lock().read_line(&mut String::new())?;
                say(&serde_json::to_string(&self.work(&mut table, rate))?)?;
                // Whoever measures looks at the process before it ends.
                io::stdin().lock().read_line(&mut String::new())?;
                Ok(())
            }
        }
    }

    fn work(&self, table: &mut [u64], rate: Rate) -> Told {
        let pages = table.len() / PAGE_WORDS;
        let dirty = (pages * self.percent as usize / 100).max(WINDOW_ROUNDS);
        let mut watch = Watch::new(rate);
        let mut state = 1;
        let begun = ticks();
        for round in 0..self.rounds as usize {
            let count = if self.writes == Writes::Hot { dirty } else { dirty / WINDOW_ROUNDS };
            for at in 0..count {
                let page = match self.writes {
                    Writes::Hot => at * (pages / dirty),
                    Writes::Sweep => (round * count + at) % pages,
                };
                table[page * PAGE_WORDS + (round + at) % PAGE_WORDS] ^= state;
                watch.look();
            }
            for _ in 0..SLICES {
                state = spin(state, self.turns / SLICES);
                watch.look();
            }
        }
        let ns = rate.ns(ticks() - begun);
        let digest = table.iter().fold(state, |digest, word| mixed(digest ^ word));
        Told { ns, gaps_ns: watch.gaps.into_iter().map(|gap| rate.ns(gap)).collect(), digest }
    }
}

/// Sees when the program stood still.
struct Watch {
    last: u64,
    least: u64,
    gaps: Vec<u64>,
}

impl Watch {
    fn new(rate: Rate) -> Self {
        let least = rate.hz() / 1_000_000 * GAP_NS / 1000;
        Self { last: ticks(), least, gaps: Vec::with_capacity(MOST_GAPS) }
    }

    fn look(&mut self) {
        let now = ticks();
        let gap = now.saturating_sub(self.last);
        if self.least < gap && self.gaps.len() < MOST_GAPS {
            self.gaps.push(gap);
        }
        self.last = now;
    }
}

/// Turns of [`spin`] that take a millisecond: the most of some tries, as others take time too.
fn calibrate(rate: Rate) -> u64 {
    const TURNS: u64 = 1_000_000;
    let tried = (0..20).map(|_| {
        let begun = ticks();
        std::hint::black_box(spin(1, TURNS));
        TURNS * 1_000_000 / rate.ns(ticks() - begun).max(1)
    });
    tried.max().unwrap_or(TURNS)
}

/// Work in registers.
fn spin(mut state: u64, turns: u64) -> u64 {
    for _ in 0..turns {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state
}

/// Bits that don't compress (the finalizer of SplitMix64).
fn mixed(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("nobody listens any more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_writes_as_many_pages_as_it_says() {
        let rate = Rate::measure().unwrap();
        for (writes, expected) in [(Writes::Hot, 51), (Writes::Sweep, 100)] {
            let program = Program {
                mode: Mode::Work,
                mib: 10,
                percent: 2,
                writes,
                turns: SLICES,
                rounds: 20,
                hz: rate.hz(),
            };
            let mut table = vec![0; 10 * MIB_PAGES * PAGE_WORDS];
            let told = program.work(&mut table, rate);
            let dirty = table.chunks(PAGE_WORDS).filter(|page| page.iter().any(|word| *word != 0)).count();
            assert_eq!(dirty, expected, "{writes:?}");
            let mut again = vec![0; table.len()];
            assert_eq!(program.work(&mut again, rate).digest, told.digest);
        }
    }
}
