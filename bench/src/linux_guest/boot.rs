//! Booting the guest, and what comes out of it.

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::linux_guest::console::{self, Unreadable};
use crate::report::Report;
use crate::worker::HISTORY;

/// Where the static build is looked for, from this program's directory.
const STATIC: &str = "static/cairn-bench";
/// The word that makes a build of this program the one of a guest.
pub const ROLE: &str = "guest";
/// Its checkpoint devices: `cairn`, `cairn-hinted` and `cairn-async` have a session each, at the same time.
const SESSIONS: &str = "3";

/// A Linux guest that is to be booted.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    /// The `cairn` command.
    pub cairn: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// Modules to load before, if there are.
    pub modules: Option<PathBuf>,
    /// Its memory, as `cairn boot` takes it.
    pub memory: String,
    /// Its CPUs.
    pub cpus: u8,
    /// The static build of this program.
    pub program: PathBuf,
}

/// Why a guest has no figures.
#[derive(Debug, thiserror::Error)]
pub enum NoFigures {
    /// The system doesn't say which program this is.
    #[error("which program this is")]
    Own(#[source] io::Error),
    /// There is no build for a guest.
    #[error(
        "{path} isn't there. A guest has no libraries, so it needs a static build of this program: \
         RUSTFLAGS='-C target-feature=+crt-static' cargo build --release -p cairn-bench --target \
         x86_64-unknown-linux-gnu --target-dir target/static; then --guest-program \
         target/static/x86_64-unknown-linux-gnu/release/cairn-bench, or put it there",
        path = path.display()
    )]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The kernel isn't there.
    #[error("there is no kernel {path}: --kernel takes a distribution's vmlinuz", path = path.display())]
    NoKernel {
        /// Where it should be.
        path: PathBuf,
    },
    /// The command isn't there, or can't be executed.
    #[error("{path} can't be started", path = path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest's figures can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The guest's monitor can't be waited for.
    #[error("cairn boot could not be waited for")]
    Wait(#[source] io::Error),
    /// The guest ended otherwise than its program would end it.
    #[error("the guest has no figures that count: cairn boot ended with {0}, and what it said is above")]
    Ended(ExitStatus),
}

/// The static build: `named`, or else the one beside this program.
///
/// # Errors
/// [`NoFigures::NoProgram`], which says how to make it.
pub fn program(named: Option<PathBuf>) -> Result<PathBuf, NoFigures> {
    let own = std::env::current_exe().map_err(NoFigures::Own)?;
    let path = named.unwrap_or_else(|| own.parent().unwrap_or(Path::new("/")).join(STATIC));
    if path.is_file() { Ok(path) } else { Err(NoFigures::NoProgram { path }) }
}

impl LinuxGuest {
    /// Boots it with the program and its `arguments`, waits for its end, and answers the report that came out. What
    /// else the console says goes to `others`, line by line.
    ///
    /// # Errors
    /// [`NoFigures`]; a guest that dies after its report is an error too.
    pub fn run(&self, arguments: &[OsString], others: impl FnMut(&str)) -> Result<Report, NoFigures> {
        if !self.kernel.is_file() {
            return Err(NoFigures::NoKernel { path: self.kernel.clone() });
        }
        follow(&mut self.command(arguments), others)
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.cairn);
        command.arg("boot").arg("--kernel").arg(&self.kernel);
        if let Some(modules) = &self.modules {
            command.arg("--modules").arg(modules);
        }
        command.args(["--memory", &self.memory, "--cpus", &self.cpus.to_string()]);
        command.args(["--history", &HISTORY.to_string(), "--sessions", SESSIONS]);
        command.arg("--program").arg(&self.program).arg(ROLE).args(arguments);
        command
    }
}

/// Runs a monitor to its guest's end.
fn follow(command: &mut Command, others: impl FnMut(&str)) -> Result<Report, NoFigures> {
    // Without a terminal: keys are for this program.
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let start = |source| NoFigures::Start { path: command.get_program().into(), source };
    let mut monitor = Monitor(child.map_err(start)?);
    let report = match monitor.0.stdout.take() {
        Some(stdout) => console::read(&mut BufReader::new(stdout), others)?,
        None => None,
    };
    let status = monitor.0.wait().map_err(NoFigures::Wait)?;
    match report {
        Some(report) if status.code() == Some(report.status().into()) => Ok(report),
        _ => Err(NoFigures::Ended(status)),
    }
}

/// `cairn boot`, which doesn't outlive the run.
struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        // Both fail only if the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::{Poll, Tracker};
    use crate::host::Host;

    fn guest(directory: &Path) -> LinuxGuest {
        let kernel = directory.join("vmlinuz");
        fs::write(&kernel, "").unwrap();
        LinuxGuest {
            cairn: "/no/such/cairn".into(),
            kernel,
            modules: Some("/m".into()),
            memory: "2G".to_owned(),
            cpus: 2,
            program: "/b/static/cairn-bench".into(),
        }
    }

    /// A monitor that is this script, and what its guest says beside figures.
    fn run(script: &str) -> (Result<Report, NoFigures>, Vec<String>) {
        let mut others = Vec::new();
        let run = follow(Command::new("sh").args(["-c", script]), |line| others.push(line.to_owned()));
        (run, others)
    }

    /// A report's line in a file that a script can print.
    fn line(directory: &Path) -> (Report, String) {
        let report = Report::new(Host::look(1), Poll::Never, Tracker::Auto);
        let (path, mut line) = (directory.join("line"), Vec::new());
        console::write(&mut line, &report).unwrap();
        fs::write(&path, line).unwrap();
        (report, path.display().to_string())
    }

    #[test]
    fn the_guest_gets_the_program_with_its_arguments() {
        let directory = tempfile::tempdir().unwrap();
        let guest = guest(directory.path());
        let command = guest.command(&["--quick".into()]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let kernel = guest.kernel.display();
        assert_eq!(
            words.join(" "),
            format!(
                "boot --kernel {kernel} --modules /m --memory 2G --cpus 2 --history 2 --sessions 3 --program \
                 /b/static/cairn-bench guest --quick"
            )
        );
    }

    #[test]
    fn the_report_of_a_guest_that_ends_as_it_should_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (report, line) = line(directory.path());
        // A report without figures is a failure, and the guest's program says so.
        let (run, others) = run(&format!("echo starting; cat {line}; exit 1"));
        assert_eq!(run.unwrap(), report);
        assert_eq!(others, ["starting"]);
    }

    #[test]
    fn a_guest_that_dies_has_no_figures() {
        let directory = tempfile::tempdir().unwrap();
        let (_, line) = line(directory.path());
        for script in [
            "exit 122".to_owned(),
            "exit 0".to_owned(),
            format!("cat {line}; exit 122"),
            format!("cat {line}; kill -9 $$"),
        ] {
            assert!(matches!(run(&script).0, Err(NoFigures::Ended(_))), "{script}");
        }
        assert!(matches!(run(&format!("head -c 60 {line}")).0, Err(NoFigures::Unreadable(_))));
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let named = directory.path().join("cairn-bench");
        let missing = program(Some(named.clone())).unwrap_err().to_string();
        assert!(missing.contains("cargo build") && missing.contains("--guest-program"), "{missing}");
        fs::write(&named, "").unwrap();
        assert_eq!(program(Some(named.clone())).unwrap(), named);

        let mut guest = guest(directory.path());
        assert!(matches!(guest.run(&[], |_| ()), Err(NoFigures::Start { .. })));
        guest.kernel = "/no/such/vmlinuz".into();
        assert!(guest.run(&[], |_| ()).unwrap_err().to_string().contains("--kernel"));
    }
}
