//! `cargo xtask`: the two commands of the set-up, `demo` and `test`.

mod checks;
mod demo;
mod kvm;
mod packages;
mod process;
mod targets;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::packages::Installing;

const USAGE: &str = "\
cargo xtask demo [--no-install]   build all, then show Cairn at work: doctor, an example that repairs itself, the quick benchmark
cargo xtask test [--no-install]   run every check: fmt, clippy, build, tests, doc tests, tidy

--no-install   never install a Debian package; only name the command that would";

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Demo(Installing),
    Test(Installing),
    Help,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the command; false means that it ran and found something wrong.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Demo(installing) => demo::run(installing),
        Command::Test(installing) => checks::run(installing),
        Command::Help => {
            println!("{USAGE}");
            Ok(true)
        }
    }
}

fn parse(args: impl Iterator<Item = String>) -> Result<Command> {
    let mut name = None;
    let mut installing = Installing::WhenRoot;
    for arg in args {
        match arg.as_str() {
            "--no-install" => installing = Installing::Never,
            "-h" | "--help" | "help" => return Ok(Command::Help),
            _ if name.is_none() && !arg.starts_with('-') => name = Some(arg),
            _ => bail!("unexpected argument {arg:?}\n{USAGE}"),
        }
    }
    match name.as_deref() {
        Some("demo") => Ok(Command::Demo(installing)),
        Some("test") => Ok(Command::Test(installing)),
        Some(other) => bail!("no such command: {other:?}\n{USAGE}"),
        None => bail!("a command is missing\n{USAGE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn commands_and_their_option_are_read_in_any_order() {
        assert_eq!(parsed(&["demo"]).unwrap(), Command::Demo(Installing::WhenRoot));
        assert_eq!(parsed(&["test", "--no-install"]).unwrap(), Command::Test(Installing::Never));
        assert_eq!(parsed(&["--no-install", "demo"]).unwrap(), Command::Demo(Installing::Never));
        assert_eq!(parsed(&["--help"]).unwrap(), Command::Help);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bad in [&[][..], &["deploy"], &["test", "now"], &["test", "--fast"]] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
