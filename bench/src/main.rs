//! `cairn-bench`: runs the benchmark and prints its tables.

mod options;
mod progress;
mod whole;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_bench::budget::{Pace, QUICK};
use cairn_bench::cell;
use cairn_bench::clock::Rate;
use cairn_bench::driver::{Plan, Progress};
use cairn_bench::engine::{Poll, Programs, Tracker};
use cairn_bench::file::OutputFile;
use cairn_bench::host::Host;
use cairn_bench::linux_guest::boot::{self, LinuxGuest};
use cairn_bench::linux_guest::console;
use cairn_bench::report::Report;
use cairn_bench::{budget, command, html, table, worker};
use clap::Parser;

use crate::options::{Command, Guest, Role, Run, What};
use crate::progress::{Bar, Lines};

fn main() -> ExitCode {
    let command = Command::parse();
    let outcome = match command.role {
        Some(Role::Worker { engine }) => worker::serve(engine, io::stdin().lock(), io::stdout().lock())
            .map(|()| ExitCode::SUCCESS)
            .context("the driver is gone"),
        Some(Role::Guest { what }) => run_in_guest(what),
        Some(Role::Whole(options)) => whole::run(options),
        Some(Role::Program(program)) => program.run().map(|()| ExitCode::SUCCESS),
        None => run(command.run),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run(options: Run) -> Result<ExitCode> {
    let json = options.json.as_deref().map(begin).transpose()?;
    let html = options.html.as_deref().map(begin).transpose()?;
    let report = match &options.from {
        Some(record) => {
            Report::read(record).with_context(|| format!("{} is no record of a run", record.display()))?
        }
        None => Report { command: Some(command::typed(std::env::args_os())), ..measured(options)? },
    };
    print!("{}", table::render(&report));
    if let Some(json) = json {
        json.commit(&report.to_json()?).context("writing the figures")?;
    }
    if let Some(html) = html {
        html.commit(html::page(&report).as_bytes()).context("writing the report")?;
    }
    Ok(ExitCode::from(report.status()))
}

fn begin(path: &Path) -> Result<OutputFile> {
    OutputFile::begin(path).with_context(|| format!("{} can't be written", path.display()))
}

/// Runs what the options ask for, here or in a guest.
fn measured(options: Run) -> Result<Report> {
    if options.guest.linux_guest {
        return boot_guest(options);
    }
    let programs =
        Programs::find(options.cairn, options.poll, options.tracker).context("which program this is")?;
    measure(options.what, programs, |plan| {
        let left_out = budget::too_large(&plan.cells, &plan.engines, budget::usable_mib())?;
        for (engine, cells, needed_mib) in left_out {
            eprintln!(
                "{engine} will be left out of {cells} cells for want of memory: it needs up to {needed_mib} MiB"
            );
        }
        Ok(Bar::new(plan.steps()))
    })
}

/// Runs the plan on this machine, once `begin` has agreed to it.
fn measure<P: Progress>(
    what: What,
    programs: Programs,
    begin: impl FnOnce(&Plan) -> Result<P>,
) -> Result<Report> {
    let pace = if what.quick {
        Pace::Until(Instant::now() + QUICK)
    } else {
        Pace::Fixed(Duration::from_secs_f64(what.seconds))
    };
    let cells = if what.quick { cell::quick() } else { cell::all(&what.patterns, &what.region_mib)? };
    let rate = measure_rate()?;
    let mut report = Report::new(Host::look(rate.hz()), programs.poll, programs.tracker);
    let plan = Plan { cells, engines: distinct(what.engines), pace, programs, rate };
    let progress = begin(&plan)?;
    plan.run(&mut report, &progress);
    Ok(report)
}

/// Boots a guest that runs the plan.
fn boot_guest(options: Run) -> Result<Report> {
    // Before minutes are spent in a guest on what makes no sense.
    cell::all(&options.what.patterns, &options.what.region_mib)?;
    let Guest { kernel, modules, memory, cpus, guest_program, .. } = options.guest;
    let kernel = kernel.context("--linux-guest needs a kernel: --kernel VMLINUZ, a distribution's own")?;
    let programs =
        Programs::find(options.cairn, Poll::Never, Tracker::Auto).context("which program this is")?;
    let cairn = programs.cairn.context("there is no cairn command")?;
    let program = boot::program(guest_program)?;
    let guest = LinuxGuest { cairn, kernel, modules, memory, cpus, program };
    let report = guest.run(&options.what.arguments(), |line| eprintln!("{line}"))?;
    Ok(report.of_linux_guest(Host::look(measure_rate()?.hz())))
}

/// What the guest's program does: measures, and writes the report to the console.
fn run_in_guest(what: What) -> Result<ExitCode> {
    if let Err(error) = console::quiet() {
        eprintln!("the kernel's messages may damage the figures: they can't be turned down: {error}");
    }
    let programs = Programs::in_guest().context("which program this is")?;
    let report = measure(what, programs, |_| Ok(Lines::default()))?;
    console::write(&mut io::stdout(), &report).context("writing the figures to the console")?;
    Ok(ExitCode::from(report.status()))
}

fn measure_rate() -> Result<Rate> {
    Rate::measure().context("the time-stamp counter of this machine does not count evenly")
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
