//! `cairn stats`: what the sessions of running guests have done.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::exit;
use crate::guests;
use crate::size::readable as size;
use cairn_vmm::tell;

/// Options of `cairn stats`.
#[derive(Args, Debug)]
#[command(max_term_width = 100)]
pub(crate) struct Stats {
    /// Only this guest, by its name or the id of its process [default: all].
    name: Option<String>,
    /// Print names and plain numbers, for programs.
    #[arg(long)]
    raw: bool,
}

impl Stats {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let guests = match &self.name {
            Some(name) => vec![guests::find(name)?],
            None => guests::running()?,
        };
        for guest in &guests {
            print_guest(guest.pid, &guest.status, self.raw);
        }
        if guests.is_empty() {
            tell!("cairn: no guest of yours is running");
            return Ok(ExitCode::from(exit::OTHER));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_guest(pid: u32, status: &str, raw: bool) {
    say!("pid {pid}");
    for line in status.lines() {
        if raw {
            say!("{line}");
        } else {
            say!("{}", readable(line));
        }
    }
    say!("");
}

/// A line of a status with its value in a unit that people read.
fn readable(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let (name, value) = line.trim_start().split_once(' ').unwrap_or((line, ""));
    // The unit of a size says nothing about what else of the same name is counted, as that of a time does.
    let (name, value) = match (value.parse::<u64>(), name.strip_suffix("_ns")) {
        (Ok(ns), Some(name)) => (name, time(ns)),
        (Ok(bytes), None) if name.ends_with("_bytes") => (name, size(bytes)),
        _ => (name, value.to_owned()),
    };
    let name = name.replace('_', " ");
    // A session's figures are in a column; what is said of the guest is not.
    if indent == 0 { format!("{name} {value}") } else { format!("  {name:<16} {value:>12}") }
}

/// A time in a unit that people read.
pub(crate) fn time(ns: u64) -> String {
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
        assert_eq!(readable("  mirror_bytes 1610612736"), "  mirror bytes          1.5 GiB");
        assert_eq!(readable("whole_newest 14"), "whole newest 14");
        assert_eq!(readable("whole_newest_bytes 12700"), "whole newest bytes 12.4 KiB");
        assert_eq!(readable("  pages_open 12"), "  pages open                 12");
        assert_eq!(readable("  longest_pause_ns 950"), "  longest pause          950 ns");
        assert_eq!([size(0), size(1024), size(u64::MAX)], ["0 B", "1.0 KiB", "17179869183.9 GiB"]);
    }
}
