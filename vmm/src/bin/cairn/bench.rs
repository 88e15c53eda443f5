//! `cairn bench`: hands over to the benchmark, a program of its own beside this one.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

/// The benchmark's file name.
const PROGRAM: &str = "cairn-bench";

/// Options of `cairn bench`: the benchmark's own.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Bench {
    /// --quick, --json FILE, --html FILE and more: `cairn bench --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let own = std::env::current_exe().context("the cairn program can't tell where it is")?;
        let program = own.parent().unwrap_or(Path::new("")).join(PROGRAM);
        let error = Command::new(&program).args(self.arguments).arg("--cairn").arg(&own).exec();
        Err(error).with_context(|| {
            format!(
                "{} could not be started; build it beside cairn: cargo build --release -p cairn-bench",
                program.display()
            )
        })
    }
}
