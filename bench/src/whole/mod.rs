//! `cairn bench whole`: what checkpoints of whole programs cost, how soon a program is back, and whether it is the same.

mod criu;
mod kills;
mod program;
mod restore;
mod running;
mod slowdown;
mod table;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use cairn_bench::clock::Rate;
use cairn_bench::command;
use cairn_bench::engine::{Poll, Programs, Tracker};
use cairn_bench::host::Host;
use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use program::Program;

use criu::Compared;
use kills::Killed;
use program::Writes;
use restore::Restored;
use slowdown::Slowdown;

/// The version of the JSON's layout.
const SCHEMA: u32 = 1;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// A program with a checkpoint every 100 ms beside the same without.
    Slowdown,
    /// From the start of `cairn restore` to the program's first line.
    Restore,
    /// sqlite3 and python3, killed again and again and brought back.
    Kills,
    /// CRIU beside Cairn, on the same program; it wants root, and a kernel that CRIU knows.
    Criu,
}

/// Options of `cairn bench whole`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these measurements.
    #[arg(long, value_name = "PART,...", value_delimiter = ',', value_enum, default_values_t = [Part::Slowdown, Part::Restore, Part::Kills])]
    pub(crate) only: Vec<Part>,
    /// Memory of the program that is slowed down.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16384))]
    mib: u32,
    /// Hundredths of its pages that it writes between two checkpoints.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    percent: u32,
    /// How long its work is to take.
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How often each is done.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Memory of the programs that are brought back.
    #[arg(long, value_name = "MIB,...", value_delimiter = ',', default_values_t = [64, 256, 1024])]
    restore_mib: Vec<u32>,
    /// How often a program is killed.
    #[arg(long, value_name = "N", default_value_t = 20)]
    kills: u32,
    /// What the moments are drawn with [default: another one each time].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the stores are: on the disk in question.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The `cairn` command that runs the programs [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    cairn: Option<PathBuf>,
}

/// What a measurement needs.
struct Bench {
    options: Options,
    cairn: PathBuf,
    own: PathBuf,
    rate: Rate,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
struct Report {
    schema: u32,
    host: Host,
    command: String,
    slowdown: Vec<Slowdown>,
    restore: Vec<Restored>,
    kills: Vec<Killed>,
    criu: Option<Compared>,
}

impl Bench {
    /// `cairn run` with these options; the program and its arguments are to follow.
    fn cairn_run(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&self.cairn);
        command.arg("run").args(options).arg("--").env_remove("RUST_LOG");
        command
    }
}

/// Measures, prints the tables and writes the file.
///
/// # Errors
/// Something couldn't be measured. What came out different is no error but the exit code 1.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    let json = options.json.as_deref().map(crate::begin).transpose()?;
    let programs =
        Programs::find(options.cairn.clone(), Poll::Auto, Tracker::Auto).context("which program this is")?;
    let cairn = programs.cairn.context("there is no cairn command")?;
    let bench = Bench { cairn, own: programs.bench, rate: crate::measure_rate()?, options };
    let mut report = Report {
        schema: SCHEMA,
        host: Host::look(bench.rate.hz()),
        command: command::typed(std::env::args_os()),
        slowdown: Vec::new(),
        restore: Vec::new(),
        kills: Vec::new(),
        criu: None,
    };
    for part in &bench.options.only {
        match part {
            Part::Slowdown => {
                for writes in [Writes::Hot, Writes::Sweep] {
                    eprintln!("slowdown, {}", writes.name());
                    report.slowdown.push(slowdown::measure(&bench, writes).context("the slowdown")?);
                }
            }
            Part::Restore => {
                for mib in &bench.options.restore_mib {
                    eprintln!("restore, {mib} MiB");
                    let restored = restore::measure(&bench, *mib).context("the way back")?;
                    report.restore.push(restored);
                }
            }
            Part::Criu => {
                eprintln!("CRIU");
                report.criu = Some(criu::measure(&bench).context("CRIU beside Cairn")?);
            }
            Part::Kills => report.kills.extend(kills::measure(&bench).context("killing and bringing back")?),
        }
    }
    print!("{}", table::render(&report));
    if let Some(json) = json {
        json.commit(&serde_json::to_vec_pretty(&report)?).context("writing the figures")?;
    }
    Ok(ExitCode::from(u8::from(report.kills.iter().any(|killed| !killed.is_same))))
}
