//! Running programs that `cairn ps`, `checkpoint` and `rollback` speak to: what the tests of that share.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::place::Place;
use crate::{Printed, cairn_run, run};

/// How long anything is waited for that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that runs.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub child: Child,
    /// Its standard input.
    pub input: Option<ChildStdin>,
}

impl Place {
    /// Starts a command there.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn start(&self, command: &mut Command) -> Running {
        let mut child = self.within(command).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let input = child.stdin.take();
        Running { child, input }
    }

    /// Starts a program with a checkpoint whenever one is asked for, and its standard output in the file.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn start_program(&self, options: &[&str], program: &[&str]) -> Running {
        let mut all = vec!["--store", "store", "--every", "never", "--stdout", "out"];
        all.extend(options);
        self.start(cairn_run(&all).args(program))
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// When it doesn't come.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "{what} doesn't come; printed so far: {}", self.output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs `cairn` there.
    ///
    /// # Panics
    /// Where it can't be started.
    #[must_use]
    pub fn cairn(&self, arguments: &[&str]) -> Printed {
        Printed::from(run(&mut self.command(arguments), b"").unwrap())
    }

    /// What a command prints that does what it's asked.
    ///
    /// # Panics
    /// When it doesn't.
    #[must_use]
    pub fn told(&self, arguments: &[&str]) -> String {
        let printed = self.cairn(arguments);
        assert_eq!(printed.status, Some(0), "{arguments:?}: {printed:?}");
        String::from_utf8(printed.out).unwrap()
    }

    /// What a command says on standard error that doesn't.
    ///
    /// # Panics
    /// When it does.
    #[must_use]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let printed = self.cairn(arguments);
        assert_eq!(printed.status, Some(1), "{arguments:?}: {printed:?}");
        String::from_utf8(printed.err).unwrap()
    }

    /// Takes a checkpoint of a guest; its number.
    ///
    /// # Panics
    /// When there is none.
    pub fn checkpoint(&self, name: &str) -> u64 {
        self.told(&["checkpoint", name]).trim().parse().unwrap()
    }

    /// Rolls a guest back.
    ///
    /// # Panics
    /// When it isn't.
    pub fn rollback(&self, name: &str, to: u64) {
        let told = self.told(&["rollback", name, &to.to_string()]);
        assert!(told.starts_with(&format!("rolled back to {to} in ")) && told.ends_with(" ms\n"), "{told}");
    }

    /// Where a guest is asked.
    #[must_use]
    pub fn socket(&self, of: &Running) -> PathBuf {
        self.path("cairn").join(format!("{}.sock", of.child.id()))
    }
}

impl Running {
    /// Ends its input, and waits for its end.
    ///
    /// # Panics
    /// Where the host fails.
    pub fn end(mut self) -> Option<i32> {
        drop(self.input.take());
        self.child.wait().unwrap().code()
    }

    /// Kills it.
    ///
    /// # Panics
    /// Where the host fails.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How many there are of what /proc lists about its process.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        fs::read_dir(format!("/proc/{}/{what}", self.child.id())).unwrap().count()
    }
}
