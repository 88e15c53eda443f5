//! `cargo xtask`: the commands of the set-up, `demo` and `test`, and the `nested` bed.

mod bed;
mod checks;
mod demo;
mod examples;
mod kvm;
mod linux_guest;
mod nested;
mod outcome;
mod packages;
mod process;
mod skips;
mod targets;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::checks::Nested;
use crate::packages::Installing;

/// Everything that is done with this workspace beside building it.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct CommandLine {
    /// Never install a Debian package; only name the command that would
    #[arg(long, global = true)]
    no_install: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build all, then show Cairn at work: doctor, an example that repairs itself, the quick benchmark
    Demo,
    /// Run every check: fmt, clippy, build, tests, doc tests, tidy, and the nested bed's tests
    Test {
        /// Leave out what needs a KVM that runs kernels and isn't on this machine
        #[arg(long)]
        no_nested: bool,
    },
    /// Run things in a machine with true kvm-amd, emulated by QEMU: works everywhere, about ten times slower
    #[command(subcommand)]
    Nested(nested::Action),
    /// What `nested test` runs in the bed
    #[command(hide = true, name = bed::suite::COMMAND)]
    InBed { parts: Vec<bed::suite::Part> },
}

fn main() -> ExitCode {
    if std::process::id() == 1 && std::env::args_os().next().is_some_and(|program| program == bed::INIT) {
        bed::init::run()
    }
    let line = CommandLine::parse();
    match run(&line) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the command; a failure means that it ran and found something wrong.
fn run(line: &CommandLine) -> Result<ExitCode> {
    let installing = if line.no_install { Installing::Never } else { Installing::WhenRoot };
    let passed = match &line.command {
        Command::Demo => demo::run(installing)?,
        Command::Test { no_nested: false } => checks::run(installing, Nested::Run)?,
        Command::Test { no_nested: true } => checks::run(installing, Nested::LeaveOut)?,
        Command::InBed { parts } => bed::suite::run(parts)?,
        Command::Nested(action) => return Ok(ExitCode::from(nested::run(action, installing)?)),
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn options_are_read_in_any_order() {
        for words in [&["xtask", "test", "--no-install"], &["xtask", "--no-install", "test"]] {
            let line = CommandLine::try_parse_from(*words).unwrap();
            assert!(
                line.no_install && matches!(line.command, Command::Test { no_nested: false }),
                "{words:?}"
            );
        }
        for bad in
            [&["xtask"][..], &["xtask", "deploy"], &["xtask", "test", "now"], &["xtask", "nested", "run"]]
        {
            assert!(CommandLine::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
