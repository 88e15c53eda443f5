//! What the tests of the whole share: finding the built programs, running them natively and in a guest, and what
//! hostile guest programs are made of.

pub mod control;
pub mod driver;
pub mod nonsense;
pub mod pages;
pub mod place;
pub mod random;
pub mod registers;
pub mod resume;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

/// Environment variable for a place without cargo, such as the nested bed: the directory of all built programs.
const PREBUILT: &str = "CAIRN_BUILT";

/// A program that this workspace builds, brought up to date: cargo builds the programs of a test's own package
/// before the test, and not those of others. Where there is no cargo, `CAIRN_BUILT` names a directory of programs that
/// are taken as they are.
///
/// # Panics
/// When it can't be built.
#[must_use]
pub fn built(package: &str, name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let directory = directory();
    if std::env::var_os(PREBUILT).is_some() {
        return directory.join(name);
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(name) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", package, "--bin", name]);
        if directory.file_name() == Some(OsStr::new("release")) {
            command.arg("--release");
        }
        assert!(command.status().is_ok_and(|status| status.success()), "{package}'s {name} can't be built");
        built.insert(name.to_owned());
    }
    directory.join(name)
}

/// A program of tests/guests.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    directory().join(name)
}

/// Where the built programs are: where `CAIRN_BUILT` says, or where cargo puts those of the running test's profile.
fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os(PREBUILT) {
        return directory.into();
    }
    let own = std::env::current_exe().expect("a test knows where it is");
    own.parent().and_then(Path::parent).expect("a test is in target/PROFILE/deps").to_owned()
}

/// How often a test kills what has to come back: `usual`, if the environment variable CAIRN_KILLS doesn't say another
/// number.
#[must_use]
pub fn kills(usual: u32) -> u32 {
    std::env::var("CAIRN_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(usual)
}

/// `cairn run` with these options, to which a program is to be added.
#[must_use]
pub fn cairn_run(options: &[&str]) -> Command {
    let mut command = Command::new(built("cairn-vmm", "cairn"));
    command.arg("run").args(options).arg("--");
    command.env_remove("RUST_LOG");
    command
}

/// Runs a command with `input`, and returns what it printed and how it ended.
///
/// # Errors
/// When it can't be started or fed.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let mut stdin = child.stdin.take().context("a piped standard input")?;
    std::thread::scope(|scope| {
        // Beside reading, so that neither side waits for the other with a full pipe. A program may end
        // without reading all of it.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().context("waiting for the program")
    })
}

/// What a program printed, and its exit status: what must be the same natively and in a guest.
#[derive(Clone, PartialEq, Eq)]
pub struct Printed {
    /// Exit status, or none if a signal killed it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: Vec<u8>,
}

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        Self { status: output.status.code(), out: output.stdout, err: output.stderr }
    }
}

impl Printed {
    /// What differs, in as many words as a person can read: a report of tests is cut when it is long.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        format!(
            "status {:?} and {:?}\nstdout: {}\nstderr: {}",
            self.status,
            other.status,
            first_difference(&self.out, &other.out),
            first_difference(&self.err, &other.err)
        )
    }
}

/// The place where two outputs part, with the line of each.
fn first_difference(one: &[u8], other: &[u8]) -> String {
    if one == other {
        return "the same".to_owned();
    }
    let alike = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let line = |bytes: &[u8]| {
        let start = bytes[..alike].iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
        String::from_utf8_lossy(&bytes[start..bytes.len().min(alike + 400)]).into_owned()
    };
    format!(
        "{} and {} bytes, different from byte {alike}: {:?} and {:?}",
        one.len(),
        other.len(),
        line(one),
        line(other)
    )
}

impl std::fmt::Debug for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
        write!(
            f,
            "status {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            text(&self.out),
            text(&self.err)
        )
    }
}

/// Runs `program` natively and under `cairn run`, once with all system calls as exits and once with as many polled
/// for as can be, in `directory` with `input`, and checks that all print the same and end alike.
///
/// # Errors
/// When they differ, or can't be run.
pub fn same_in_guest(program: &str, args: &[&str], directory: &Path, input: &[u8]) -> Result<Printed> {
    let environment = [("PATH", "/usr/bin:/bin"), ("HOME", "/"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")];
    let prepare = |command: &mut Command| {
        command.current_dir(directory).env_clear().envs(environment);
    };
    let mut native = Command::new(program);
    prepare(native.args(args));
    let native = Printed::from(run(&mut native, input)?);
    for poll in ["never", "always"] {
        let mut guest = cairn_run(&["--poll", poll]);
        prepare(guest.arg(program).args(args));
        let guest = Printed::from(run(&mut guest, input)?);
        ensure!(
            native == guest,
            "{program} {args:?}, natively and in the guest, polling {poll}: {}",
            native.difference(&guest)
        );
    }
    Ok(native)
}
