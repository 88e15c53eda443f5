//! The Linux guest's scenarios: one boot for each kernel and number of CPUs runs them all.
//!
//! Runs wherever KVM can run a kernel: in the nested bed, or directly on a host with VMX or SVM.

pub(crate) mod console;
mod terminal;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bed;
use crate::examples;
use crate::nested::kernels::{Kernel, Series};
use crate::nested::programs::{self, Profile};
use crate::nested::start;
use crate::packages::Installing;
use crate::process;

/// A boot of the guest.
struct Boot {
    kernel: Series,
    cpus: u32,
    memory: &'static str,
    /// Parameters of the guest's kernel.
    append: &'static str,
    /// The scenarios whose names begin so; all if there are none.
    scenarios: &'static [&'static str],
}

/// All boots. CPUs without Meltdown leave page-table isolation off, so one asks for it: then a program's page-table
/// root is another in the kernel. One has little memory, so that a region can be larger than it.
const BOOTS: [Boot; 5] = [
    Boot { kernel: Series::V6_1, cpus: 1, memory: "512M", append: "", scenarios: &[] },
    Boot { kernel: Series::V6_1, cpus: 2, memory: "512M", append: "pti=on", scenarios: &[] },
    Boot { kernel: Series::V6_12, cpus: 1, memory: "512M", append: "", scenarios: &[] },
    Boot { kernel: Series::V6_12, cpus: 2, memory: "512M", append: "", scenarios: &[] },
    Boot { kernel: Series::V6_12, cpus: 2, memory: "160M", append: "", scenarios: &[SMALL] },
];
/// The scenario that needs little memory, and can't be tried in the other boots.
const SMALL: &str = "larger-than-memory";
/// What every boot has: a session for each of two programs, and one to spare.
const OPTIONS: &[&str] = &["--sessions", "3"];
/// The kernel's command line, before a boot's own parameters.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet";
/// The program that runs the scenarios. It prints a line for each, that begins with one of [`VERDICTS`] and its name,
/// and ends with 0 if none failed.
const PROGRAM: &str = "linux-scenarios";
/// It passed; it did not; this guest lacks what it needs.
const VERDICTS: [&str; 3] = ["ok", "FAILED", "not here"];
/// A boot of an emulated machine takes half a minute until the program starts; what takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(200);
/// The archive with the examples, beside the logs.
const EXAMPLES: &str = "examples.cpio";
/// Lines of a boot's log that are shown when it fails.
const LOG_LINES: usize = 60;

/// Where everything is that a boot needs.
#[derive(Debug)]
pub(crate) struct Place {
    /// The `cairn` command.
    pub(crate) cairn: PathBuf,
    /// Programs for guests: statically linked.
    pub(crate) programs: PathBuf,
    /// Unpacked kernels.
    pub(crate) kernels: PathBuf,
    /// Where each boot's log is kept.
    pub(crate) logs: PathBuf,
    /// The store of all boots: each begins with what the one before left there.
    pub(crate) store: PathBuf,
    /// QEMU's TCG is the CPU, which breaks a kernel at times: see [`bed::BROKEN_PATCH`].
    pub(crate) emulated: bool,
}

/// What a boot's output says so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// How many scenarios ended with each of [`VERDICTS`].
    counts: [usize; 3],
    /// The scenario that couldn't be tried though it should have been.
    lacking: Option<String>,
}

/// Builds what the scenarios need and runs them on this machine's KVM, and the console too; true if all passed.
///
/// # Errors
/// Something can't be built or fetched, and as of [`run`].
pub(crate) fn run_here(installing: Installing) -> Result<bool> {
    let (kernels, _) = start::all_kernels(installing)?;
    programs::build(Profile::Debug)?;
    let place = Place {
        cairn: process::built(Profile::Debug.name())?.join("cairn"),
        programs: programs::static_directory(Profile::Debug)?,
        kernels,
        logs: start::directory()?.join("out"),
        store: start::directory()?.join("store"),
        emulated: false,
    };
    Ok(run(&place)? & console::run(&place)?)
}

/// Runs all boots, one after the other; true if every scenario of each passed.
///
/// # Errors
/// A boot couldn't be started or its log not be written.
pub(crate) fn run(place: &Place) -> Result<bool> {
    fs::create_dir_all(&place.logs).with_context(|| format!("creating {}", place.logs.display()))?;
    // One from another day may be another version's.
    match fs::remove_dir_all(&place.store) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("removing the store of an earlier run");
        }
        _ => {}
    }
    examples::pack(&place.programs, &place.logs.join(EXAMPLES))?;
    let mut failed = Vec::new();
    for boot in &BOOTS {
        println!("\n{}", boot.name());
        if !boot.run(place)? {
            failed.push(boot.name());
        }
    }
    println!();
    match failed.as_slice() {
        [] => println!("the Linux guest's scenarios passed in all {} boots", BOOTS.len()),
        failed => println!("the Linux guest's scenarios FAILED in: {}", failed.join("; ")),
    }
    Ok(failed.is_empty())
}

/// So many CPUs, as people read it.
fn cpus(count: u32) -> String {
    if count == 1 { "1 CPU".to_owned() } else { format!("{count} CPUs") }
}

impl Boot {
    /// As people read it.
    fn name(&self) -> String {
        let append = if self.append.is_empty() { String::new() } else { format!(", {}", self.append) };
        format!("kernel {}, {}, {}{append}", self.kernel.name(), cpus(self.cpus), self.memory)
    }

    fn command(&self, place: &Place) -> Command {
        let kernel = Kernel::below(&place.kernels, self.kernel);
        let mut command = Command::new(&place.cairn);
        command.arg("boot").arg("--kernel").arg(kernel.image).arg("--modules").arg(kernel.modules);
        command.args(["--cpus", &self.cpus.to_string(), "--memory", self.memory, "--append"]);
        command.arg(format!("{COMMAND_LINE} {}", self.append).trim_end()).args(OPTIONS);
        command.arg("--store").arg(&place.store);
        command.arg("--initrd").arg(place.logs.join(EXAMPLES));
        command.arg("--program").arg(place.programs.join(PROGRAM)).args(self.scenarios);
        command
    }

    /// True if it ended well and on time, and its scenarios all passed.
    fn run(&self, place: &Place) -> Result<bool> {
        for _ in 0..bed::TRIES {
            if let Some(passed) = self.attempt(place)? {
                return Ok(passed);
            }
            println!("  QEMU broke the guest's kernel while it started; once more");
        }
        println!("  FAILED: QEMU broke the guest's kernel {} times", bed::TRIES);
        Ok(false)
    }

    /// As [`Boot::run`]; none if QEMU broke the guest's kernel in the way of [`bed::BROKEN_PATCH`], and no scenario had
    /// failed.
    fn attempt(&self, place: &Place) -> Result<Option<bool>> {
        let path = place.logs.join(format!("linux-{}-{}cpu.log", self.kernel.name(), self.cpus));
        let mut log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let mut command = self.command(place);
        writeln!(log, "{}", process::shown(&command))?;
        command.stdin(Stdio::null()).stderr(log.try_clone().context("sharing the log")?);
        let (mut tally, mut line) = (Tally::default(), Vec::new());
        let started = Instant::now();
        let status = process::follow(&mut command, LIMIT, &mut |chunk| {
            log.write_all(chunk).with_context(|| format!("writing {}", path.display()))?;
            for byte in chunk {
                if *byte == b'\n' {
                    tally.read(&String::from_utf8_lossy(&std::mem::take(&mut line)));
                } else {
                    line.push(*byte);
                }
            }
            Ok(())
        })?;
        let [passed, failed, not_here] = tally.counts;
        let broken = process::last_lines(&path, usize::MAX).contains(bed::BROKEN_PATCH);
        if place.emulated && broken && failed == 0 {
            return Ok(None);
        }
        let problem = match status {
            None => Some(format!("did not end within {} s and was ended", LIMIT.as_secs())),
            Some(status) if !status.success() => Some(format!("cairn boot ended with {status}")),
            Some(_) if passed == 0 => Some("no scenario ran".to_owned()),
            Some(_) if tally.lacking.is_some() => {
                tally.lacking.take().map(|name| format!("{name} could not be tried"))
            }
            Some(_) if 0 < failed => Some("scenarios failed, and yet it ended with success".to_owned()),
            Some(_) => None,
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("  {passed} passed, {failed} failed, {not_here} could not be tried; {seconds:.0} s");
        if let Some(problem) = &problem {
            println!("  FAILED: {problem}. The end of its log ({}):", path.display());
            println!("{}", process::last_lines(&path, LOG_LINES));
        }
        Ok(Some(problem.is_none()))
    }
}

impl Tally {
    /// Counts and shows a line that is a scenario's; the console has others.
    fn read(&mut self, line: &str) {
        let line = line.trim();
        for (verdict, count) in VERDICTS.iter().zip(&mut self.counts) {
            if let Some(rest) = line.strip_prefix(verdict).and_then(|rest| rest.strip_prefix(' ')) {
                *count += 1;
                println!("  {line}");
                if *verdict == VERDICTS[2] && !rest.starts_with(SMALL) {
                    self.lacking = Some(rest.to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn place(directory: &Path, cairn: &str) -> Place {
        fs::write(directory.join("cairn"), format!("#!/bin/sh\n{cairn}\n")).unwrap();
        let mut executable = Command::new("chmod");
        assert!(executable.arg("+x").arg(directory.join("cairn")).status().unwrap().success());
        Place {
            cairn: directory.join("cairn"),
            programs: "/programs".into(),
            kernels: "/kernels".into(),
            logs: directory.into(),
            store: directory.join("store"),
            emulated: true,
        }
    }

    #[test]
    fn only_scenarios_lines_count() {
        let mut tally = Tally::default();
        let lines = [
            "ok wordfreq\r",
            "[    0.1] ok boot",
            "FAILED heat: no device",
            "okay",
            "not here swap: none",
            "  ok kv",
        ];
        lines.iter().for_each(|line| tally.read(line));
        assert_eq!(tally, Tally { counts: [2, 1, 1], lacking: Some("swap: none".to_owned()) });
    }

    #[test]
    fn a_boot_passes_only_with_scenarios_and_success() {
        let directory = std::env::temp_dir().join(format!("cairn-boots-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for (cairn, passes) in [
            ("echo noise; printf 'ok one\\r\\nok two\\n'", true),
            ("echo ok one; exit 1", false),
            ("echo ok one; echo FAILED two: because", false),
            ("echo Oops: int3: 0000; exit 122", false),
            ("echo nothing ran", false),
        ] {
            assert_eq!(BOOTS[1].run(&place(&directory, cairn)).unwrap(), passes, "{cairn}");
        }
        let log = fs::read_to_string(directory.join("linux-6.1-2cpu.log")).unwrap();
        assert!(log.contains("quiet pti=on") && log.contains("/kernels/6.1/vmlinuz"), "{log}");
        assert!(log.ends_with("nothing ran\n"), "{log}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
