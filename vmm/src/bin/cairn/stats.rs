//! `cairn stats`: what the sessions of running guests have done.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use cairn_vmm::machine::control::{self, SUFFIX};
use clap::Args;

use crate::exit;
use crate::size::readable as size;

/// How long a guest may take to answer: longer than any request of its program keeps it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read at most: far more than all sessions of a guest take.
const MOST_BYTES: u64 = 1 << 20;

/// Options of `cairn stats`.
#[derive(Args, Debug)]
#[command(max_term_width = 100)]
pub(crate) struct Stats {
    /// Only the guest of this `cairn` process.
    pid: Option<u32>,
    /// Print names and plain numbers, for programs.
    #[arg(long)]
    raw: bool,
}

impl Stats {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let directory = control::directory();
        let guests =
            guests(&directory, self.pid).with_context(|| format!("{} can't be read", directory.display()))?;
        let mut told = 0;
        for (pid, path) in guests {
            match ask(&path) {
                Ok(status) => {
                    print_guest(pid, &status, self.raw);
                    told += 1;
                }
                // It ended just now, or was killed and left its socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => eprintln!("cairn: the guest of process {pid} doesn't answer: {error}"),
            }
        }
        if told == 0 {
            match self.pid {
                Some(pid) => eprintln!("cairn: process {pid} runs no guest of yours"),
                None => eprintln!("cairn: no guest of yours is running"),
            }
            return Ok(ExitCode::from(exit::OTHER));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The sockets there are, by process id.
fn guests(directory: &Path, only: Option<u32>) -> io::Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut guests = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(|name| name.strip_suffix(SUFFIX)).and_then(|pid| pid.parse().ok());
        guests.extend(pid.filter(|pid| only.is_none_or(|only| only == *pid)).map(|pid| (pid, path)));
    }
    guests.sort_unstable();
    Ok(guests)
}

fn ask(socket: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut status = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut status)?;
    Ok(status)
}

fn print_guest(pid: u32, status: &str, raw: bool) {
    println!("pid {pid}");
    for line in status.lines() {
        if raw {
            println!("{line}");
        } else {
            println!("{}", readable(line));
        }
    }
    println!();
}

/// A line of a status with its value in a unit that people read.
fn readable(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let (name, value) = line.trim_start().split_once(' ').unwrap_or((line, ""));
    let (name, value) = match (value.parse::<u64>(), name.strip_suffix("_ns"), name.strip_suffix("_bytes")) {
        (Ok(ns), Some(name), _) => (name, time(ns)),
        (Ok(bytes), _, Some(name)) => (name, size(bytes)),
        _ => (name, value.to_owned()),
    };
    let name = name.replace('_', " ");
    // A session's figures are in a column; what is said of the guest is not.
    if indent == 0 { format!("{name} {value}") } else { format!("  {name:<16} {value:>12}") }
}

fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{}.{} us", ns / 1_000, ns / 100 % 10),
        1_000_000..1_000_000_000 => format!("{}.{} ms", ns / 1_000_000, ns / 100_000 % 10),
        _ => format!("{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_units() {
        assert_eq!(readable("program a b"), "program a b");
        assert_eq!(readable("up_ns 1250000000"), "up 1.2 s");
        assert_eq!(readable("  mirror_bytes 1610612736"), "  mirror                1.5 GiB");
        assert_eq!(readable("  pages_open 12"), "  pages open                 12");
        assert_eq!(readable("  longest_pause_ns 950"), "  longest pause          950 ns");
        assert_eq!([size(0), size(1024), size(u64::MAX)], ["0 B", "1.0 KiB", "17179869183.9 GiB"]);
    }
}
