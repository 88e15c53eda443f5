//! Running scenarios: each in a process of its own, with a deadline.

use std::env;
use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::process;

/// What this program is started with to play a scenario.
pub(crate) const FLAG: &str = "--scenario";

/// How a scenario ends: with its figures, or with why it failed or can't be tried ([`NotHere`]).
pub(crate) type Outcome = Result<String>;

/// Something that a guest's program, its kernel and others do together.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// After so many seconds it hangs. Generous: the slowest guest runs on an emulated CPU.
    pub(crate) seconds: u64,
    pub(crate) run: fn() -> Outcome,
}

/// This machine lacks what a scenario needs.
#[derive(Debug)]
pub(crate) struct NotHere(pub(crate) String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

/// For `?`: what is lacking.
pub(crate) fn not_here(what: impl fmt::Display) -> anyhow::Error {
    NotHere(what.to_string()).into()
}

const HELD: u8 = 0;
const FAILED: u8 = 1;
const NOT_HERE: u8 = 77;

/// Plays one scenario in this process; prints its figures or its trouble.
pub(crate) fn play(mut all: impl Iterator<Item = &'static Scenario>, args: &[String]) -> ExitCode {
    process::die_with_parent();
    let Some(scenario) = all.find(|scenario| args == [scenario.name]) else {
        println!("there is no scenario {args:?}");
        return ExitCode::from(FAILED);
    };
    match (scenario.run)() {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::from(HELD)
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::from(if error.is::<NotHere>() { NOT_HERE } else { FAILED })
        }
    }
}

/// Runs all scenarios whose names begin with one of `wanted`, or all; prints a line for each.
pub(crate) fn run_all(all: impl Iterator<Item = &'static Scenario>, wanted: &[String]) -> ExitCode {
    let chosen: Vec<&Scenario> = all
        .filter(|scenario| wanted.is_empty() || wanted.iter().any(|name| scenario.name.starts_with(name)))
        .collect();
    if chosen.is_empty() {
        eprintln!("no scenario is called {}; --list lists them", wanted.join(" or "));
        return ExitCode::from(2);
    }
    let mut failed = 0;
    for scenario in chosen {
        let started = Instant::now();
        let (verdict, text) = run_apart(scenario).unwrap_or_else(|error| ("FAILED", format!("{error:#}")));
        let seconds = started.elapsed().as_secs_f64();
        match verdict {
            "ok" => println!("ok {} ({text}; {seconds:.1} s)", scenario.name),
            _ => println!("{verdict} {}: {text}", scenario.name),
        }
        failed += u32::from(verdict == "FAILED");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a scenario in a process group of its own, of which nobody is left afterwards.
fn run_apart(scenario: &Scenario) -> Result<(&'static str, String)> {
    let mut child = Command::new(process::ITSELF)
        .args([FLAG, scenario.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", env::args().next().unwrap_or_default()))?;
    let ended = process::wait_until_ended(child.id(), Duration::from_secs(scenario.seconds));
    process::kill_group(child.id());
    let status = child.wait().context("waiting for the scenario")?;
    let said = output_of(&mut child);
    if !ended? {
        return Ok(("FAILED", format!("still running after {} s; {said}", scenario.seconds)));
    }
    Ok(match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(HELD) => ("ok", said),
        Some(NOT_HERE) => ("not here", said),
        Some(FAILED) => ("FAILED", said),
        _ => ("FAILED", format!("ended with {status}; standard error says more {said}")),
    })
}

/// What it printed, in one line. Less than a pipe holds, so that nobody had to read it before.
fn output_of(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(output) = &mut child.stdout {
        // What isn't text is not a verdict, and the exit status says what happened.
        let _ = output.read_to_string(&mut said);
    }
    said.trim().replace('\n', "; ")
}
