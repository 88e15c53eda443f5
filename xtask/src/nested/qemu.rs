//! QEMU around the bed: its command line, its three serial ports, its end.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::emulator::Emulator;
use super::kernels::Kernel;
use crate::bed;
use crate::bed::job::Terminal;
use crate::bed::report::{self, Report};
use crate::process;

/// Lines of the console that are shown when the bed fails.
const CONSOLE_LINES: usize = 40;

/// A machine to be started.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) emulator: &'a Emulator,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    /// For the job; the machine has one more: [`bed::KEPT_CPU`].
    pub(crate) cpus: u32,
    /// In MiB.
    pub(crate) memory: u32,
    /// More parameters for the kernel.
    pub(crate) append: &'a str,
    pub(crate) terminal: Terminal,
    /// How long it may run; a machine with an interactive terminal has no limit.
    pub(crate) limit: Duration,
    /// Where the console's output and the report are left.
    pub(crate) directory: &'a Path,
}

impl Machine<'_> {
    /// Runs it until it turns itself off. What its job prints goes to standard output as it comes. None if QEMU broke
    /// its kernel before the job began.
    ///
    /// # Errors
    /// It couldn't be started, ended without a report, or took longer than its limit; then it was ended.
    pub(crate) fn run(&self) -> Result<Option<Report>> {
        for stale in [self.console(), self.report()] {
            // QEMU truncates them, but only once it is up.
            File::create(&stale).with_context(|| format!("creating {}", stale.display()))?;
        }
        let mut command = self.command();
        let status = match self.terminal {
            Terminal::Interactive => command.status().context("cannot start QEMU")?,
            Terminal::Raw => {
                let followed = process::follow(command.stdin(Stdio::null()), self.limit, &mut |chunk| {
                    let mut out = std::io::stdout().lock();
                    out.write_all(chunk).and_then(|()| out.flush()).context("writing to standard output")
                });
                followed?.with_context(|| {
                    let seconds = self.limit.as_secs();
                    format!("the bed did not end within {seconds} s and was ended.{}", self.last_words())
                })?
            }
        };
        ensure!(status.success(), "QEMU ended with {status}; its output above says why");
        let bytes = fs::read(self.report()).context("reading the report")?;
        let report = report::read(&bytes).context("the bed's report is garbled")?;
        if report.is_none() && !(bytes.is_empty() && self.is_broken()) {
            bail!("the bed ended without a report.{}", self.last_words());
        }
        Ok(report)
    }

    /// Whether the kernel said that QEMU broke it.
    fn is_broken(&self) -> bool {
        let said = fs::read(self.console()).unwrap_or_default();
        String::from_utf8_lossy(&said).contains(bed::BROKEN_PATCH)
    }

    fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    fn report(&self) -> PathBuf {
        self.directory.join("report")
    }

    fn command(&self) -> Command {
        // QEMU has no way of its own to end with its parent; util-linux, which every Debian has, lends one.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).args(self.emulator.command_line());
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt"]);
        command.args(["-smp", &(self.cpus + 1).to_string(), "-m", &self.memory.to_string()]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        command.args(["-append", &format!("console=ttyS0 panic=-1 {}", self.append)]);
        command.arg("-serial").arg(format!("file:{}", self.console().display()));
        let signals = match self.terminal {
            Terminal::Interactive => "off",
            Terminal::Raw => "on",
        };
        command.args(["-chardev", &format!("stdio,id=terminal,signal={signals}")]);
        command.args(["-serial", "chardev:terminal"]);
        command.arg("-serial").arg(format!("file:{}", self.report().display()));
        command
    }

    /// The end of the console's output, where a kernel says what troubles it.
    fn last_words(&self) -> String {
        let console = self.console();
        let last = process::last_lines(&console, CONSOLE_LINES);
        format!(" The last lines of its console ({}):\n{}", console.display(), last)
    }
}
