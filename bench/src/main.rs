//! `cairn-bench`: runs the benchmark and prints its tables.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_bench::budget::{Pace, QUICK};
use cairn_bench::cell::{self, Cell};
use cairn_bench::clock::Rate;
use cairn_bench::driver::{Plan, Progress};
use cairn_bench::engine::{Poll, Programs};
use cairn_bench::host::Host;
use cairn_bench::pattern::Pattern;
use cairn_bench::report::{JsonFile, Report};
use cairn_bench::{table, worker};
use cairn_guest::EngineKind;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Times checkpoint cycles of Cairn and of user-level engines, side by side on this machine.
///
/// The engine `cairn` runs in a VM, all others natively. Every engine's restored bytes are verified before its
/// figures count. Exit code: 0, or 1 if an engine failed, restored wrong bytes, or none could be measured.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Role {
    /// Carry out a driver's orders from standard input.
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        engine: EngineKind,
    },
}

#[derive(Args)]
struct Run {
    /// The cells that tell most, in less than a minute.
    #[arg(long, conflicts_with_all = ["patterns", "region_mib", "seconds"])]
    quick: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these engines.
    #[arg(long, value_name = "ENGINE,...", value_delimiter = ',', default_values_t = EngineKind::ALL)]
    engines: Vec<EngineKind>,
    /// Only these patterns.
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', default_values_t = Pattern::ALL)]
    patterns: Vec<Pattern>,
    /// Regions of these sizes.
    #[arg(long, value_name = "MIB,...", value_delimiter = ',', default_values_t = [64, 1024])]
    region_mib: Vec<u32>,
    /// Seconds for the cycles of each engine in each cell.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// When the VM's host takes requests without an exit.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Poll::Auto)]
    poll: Poll,
    /// The `cairn` command that runs the VM [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    cairn: Option<PathBuf>,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let outcome = match command.role {
        Some(Role::Worker { engine }) => worker::serve(engine, io::stdin().lock(), io::stdout().lock())
            .map(|()| ExitCode::SUCCESS)
            .context("the driver is gone"),
        None => run(command.run),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run(options: Run) -> Result<ExitCode> {
    let json = match &options.json {
        Some(path) => {
            Some(JsonFile::begin(path).with_context(|| format!("{} can't be written", path.display()))?)
        }
        None => None,
    };
    let pace = if options.quick {
        Pace::Until(Instant::now() + QUICK)
    } else {
        Pace::Fixed(Duration::from_secs_f64(options.seconds))
    };
    let cells =
        if options.quick { cell::quick() } else { cell::all(&options.patterns, &options.region_mib)? };
    let rate = Rate::measure().context("the time-stamp counter of this machine does not count evenly")?;
    let programs = Programs::find(options.cairn, options.poll).context("which program this is")?;
    let plan = Plan { cells, engines: distinct(options.engines), pace, programs, rate };

    let mut report = Report::new(Host::look(rate.hz()), options.poll);
    let bar = Bar::new(plan.steps());
    plan.run(&mut report, &bar);
    bar.0.finish_and_clear();

    print!("{}", table::render(&report));
    if let Some(json) = json {
        json.commit(&report).context("writing the figures")?;
    }
    Ok(if report.failed.is_empty() && !report.cells.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The values without repetitions: what is named twice is measured once.
fn distinct<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

fn seconds(text: &str) -> Result<f64, String> {
    const RANGE: std::ops::RangeInclusive<f64> = 0.01..=600.0;
    let seconds = text.parse().map_err(|_| "not a number".to_owned())?;
    if RANGE.contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("not in {} to {}", RANGE.start(), RANGE.end()))
    }
}

/// A progress bar on standard error, if that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(steps: u64) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg} ({eta} left)") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Progress for Bar {
    fn working(&self, cell: Cell, engine: EngineKind) {
        let Cell { pattern, region_mib, dirty_pages } = cell;
        self.0.set_message(format!("{pattern} {dirty_pages} pages of {region_mib} MiB: {engine}"));
    }

    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }
}
