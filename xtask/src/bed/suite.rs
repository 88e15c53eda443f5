//! What `nested test` runs inside the bed: a check of the emulator, the app guest's tests, and the Linux guest's
//! scenarios.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::emulator;
use crate::linux_guest::{self, Place, console};
use crate::outcome::Failures;
use crate::process;
use crate::skips::Skips;

/// The command of this program that runs [`run`].
pub(crate) const COMMAND: &str = "in-bed";
/// How often tests there kill what has to come back: each start takes a second, and the emulated CPU goes through
/// first touches and exits ten times as slowly.
const KILLS: &str = "3";
/// What one test target may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What doesn't run in the bed: of a target one test, or all of them, and why. It runs wherever there is a /dev/kvm.
const LEFT_OUT: &[(&str, Option<&str>, &str)] = &[
    (
        "kvm_asynchronous",
        Some("whatever_happens_meanwhile_with_calls_by_exits"),
        "minutes; with_posted_calls runs",
    ),
    (
        "kvm_attacks",
        Some("a_program_exhausts_what_it_was_given_and_no_more"),
        "thousands of checkpoints take minutes",
    ),
    ("kvm_command", Some("elf_headers_with_every_byte_changed"), "a hundred starts take a minute"),
    ("kvm_contract", Some("while_the_host_polls"), "a minute; by_both polls as well"),
    ("kvm_contract", Some("with_another_history"), "takes minutes"),
    ("kvm_control", None, "dozens of machines one after the other"),
    ("kvm_files_back", None, "about files more than about KVM, and minutes"),
    ("kvm_fork_point", None, "dozens of machines one after the other"),
    (
        "kvm_regions",
        Some("regions_hold_under_system_calls_and_mappings"),
        "takes minutes and 4 GiB of memory",
    ),
    ("kvm_resume", Some("mappings_of_files_show_what_is_written_to_them"), "about files, not about KVM"),
    (
        "kvm_resume",
        Some("memory_that_comes_and_goes_is_what_it_was"),
        "a minute; memory_that_is_not_all_there_yet is the like",
    ),
    ("kvm_resume", Some("programs_that_replace_each_other_go_on"), "dozens of programs"),
    ("kvm_resume", Some("sqlite_goes_on_with_a_mapped_database"), "about files, not about KVM"),
    ("kvm_resume_programs", None, "kvm_resume has the like"),
    (
        "kvm_resume_sessions",
        Some("a_session_that_does_nothing_costs_next_to_nothing"),
        "its program has ended before the third checkpoint",
    ),
    ("kvm_resume_sessions", Some("every_checkpoint_of_the_whole_can_be_gone_on_from"), "dozens of machines"),
    (
        "kvm_resume_sessions",
        Some("sessions_go_on_where_either_may_be"),
        "a minute; by exits and by polling they run",
    ),
    ("kvm_stdout", None, "about files, not about KVM; the bed has no /dev/stdout"),
    (
        "kvm_trackers",
        Some("regions_hold_under_system_calls_and_mappings"),
        "takes minutes and 4 GiB of memory",
    ),
    (
        "kvm_trackers",
        Some("the_contract_holds_while_the_host_polls"),
        "takes minutes; by notifications it runs",
    ),
    ("kvm_trust", None, "about files, not about KVM"),
];

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A guest on the emulated CPUs, while another of them is at what broke guests once
    Emulator,
    /// The Linux guest's scenarios
    Linux,
    /// A shell on the Linux guest's console, and its disks
    Console,
    /// The app guest's tests
    App,
}

impl Part {
    /// In the order in which they run.
    pub(crate) const ALL: [Self; 4] = [Self::Emulator, Self::Linux, Self::Console, Self::App];

    /// As the command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Emulator => "emulator",
            Self::Linux => "linux",
            Self::Console => "console",
            Self::App => "app",
        }
    }
}

/// Runs the parts; true if everything passed.
///
/// # Errors
/// Something couldn't be started.
pub(crate) fn run(parts: &[Part]) -> Result<bool> {
    let mut passed = true;
    for part in parts {
        passed &= match part {
            Part::Emulator => emulator::run()?,
            Part::Linux => linux_guest::run(&place())?,
            Part::Console => console::run(&place())?,
            Part::App => app_guest()?,
        };
    }
    Ok(passed)
}

/// Where a Linux guest's things are in the bed.
fn place() -> Place {
    Place {
        cairn: Path::new(super::BUILT).join("cairn"),
        programs: super::STATIC.into(),
        kernels: super::KERNELS.into(),
        logs: super::OUT.into(),
        store: super::STORE.into(),
        emulated: true,
    }
}

/// Runs a test target; what failed, if anything did or it took too long.
fn failures_of(target: &Path, name: &str, skips: &Skips) -> Result<Option<String>> {
    let started = Instant::now();
    println!("\n{name}");
    let mut failures = Failures::of(name);
    let mut command = tests_of(target, name);
    skips.tell(&mut command);
    let ended = process::follow(command.stdin(Stdio::null()), LIMIT, &mut |chunk| {
        failures.read(chunk);
        let mut out = std::io::stdout().lock();
        out.write_all(chunk).and_then(|()| out.flush()).context("writing to standard output")
    })?;
    println!("{name}: {:.0} s", started.elapsed().as_secs_f64());
    if ended.is_none() {
        println!("{name}: not done within {} s, and ended", LIMIT.as_secs());
        end_guests();
    }
    let passed = ended.is_some_and(|status| status.success());
    let names = failures.names();
    Ok((!passed).then_some(if names.is_empty() { name.to_owned() } else { names }))
}

/// What doesn't run in the bed, for a person.
pub(crate) fn left_out() -> String {
    let targets = targets_left_out();
    format!("{} tests and all of {targets} targets (listed above)", LEFT_OUT.len() - targets)
}

/// How many targets don't run at all.
fn targets_left_out() -> usize {
    LEFT_OUT.iter().filter(|(_, test, _)| test.is_none()).count()
}

/// Ends what a target left that was ended itself: a guest that stands still takes a CPU.
fn end_guests() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_guest = fs::read(entry.path().join("comm")).is_ok_and(|name| name == b"cairn\n");
        if let (true, Some(id)) = (is_guest, entry.file_name().to_str().and_then(|id| id.parse().ok())) {
            // One that has ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Runs every test target with all tests but those of [`LEFT_OUT`].
fn app_guest() -> Result<bool> {
    let listing = fs::read_dir(super::TESTS).with_context(|| format!("listing {}", super::TESTS))?;
    let mut targets = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    targets.sort();
    let skips = Skips::begin(Path::new(super::OUT))?;
    let mut failed = Vec::new();
    for target in &targets {
        let name = target.file_name().context("a test without a name")?.to_string_lossy().into_owned();
        let is_left_out = LEFT_OUT.iter().any(|(target, test, _)| *target == name && test.is_none());
        if !is_left_out && let Some(names) = failures_of(target, &name, &skips)? {
            failed.push(names);
        }
    }
    println!();
    skips.print()?;
    for (target, test, why) in LEFT_OUT {
        let test = test.map(|test| format!(" {test}")).unwrap_or_default();
        println!("not run in the bed: {target}{test}: {why}");
    }
    match failed.as_slice() {
        [] => println!("the app guest's tests passed: {} targets", targets.len() - targets_left_out()),
        failed => println!("the app guest's tests FAILED in: {}", failed.join("; ")),
    }
    Ok(failed.is_empty())
}

fn tests_of(target: &Path, name: &str) -> Command {
    let mut command = Command::new(target);
    command.arg("--exact").env("CAIRN_KILLS", KILLS);
    for (_, test, _) in LEFT_OUT.iter().filter(|(target, ..)| *target == name) {
        command.args(test.iter().flat_map(|test| ["--skip", test]));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_not_to_run_exists() {
        let tests = process::workspace_root().unwrap().join("tests");
        for (target, test, _) in LEFT_OUT {
            let source = fs::read_to_string(tests.join(target).with_extension("rs"));
            let source = source.unwrap_or_else(|error| panic!("{target}: {error}"));
            let is_there = test.is_none_or(|test| source.contains(&format!("fn {test}()")));
            assert!(is_there, "{target} has no {}", test.unwrap_or_default());
        }
    }
}
