//! A directory for all that `cairn run` and `cairn restore` make: what the tests of whole programs share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{built, cairn_run};

/// A directory with a store, the file of standard output, the monitor's own state, and the sockets of its guests.
#[derive(Debug)]
pub struct Place(tempfile::TempDir);

impl Place {
    /// A new one, on a disk.
    ///
    /// # Panics
    /// Where there can be none.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        Self(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    /// The directory; programs run in it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    /// What is called so in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The directory of the monitor's state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The file of standard output, of those who ask for one.
    #[must_use]
    pub fn output_file(&self) -> PathBuf {
        self.path("out")
    }

    /// What was printed there so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(self.output_file()).unwrap_or_default()
    }

    /// Has a command run in it, and keep there what is its user's.
    pub fn within<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(self.directory());
        command.env("XDG_RUNTIME_DIR", self.directory()).env("XDG_STATE_HOME", self.state())
    }

    /// `cairn` with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("cairn-vmm", "cairn"));
        self.within(command.args(arguments).env_remove("RUST_LOG"));
        command
    }

    /// `cairn run` with a checkpoint every `every`, to which a program is to be added.
    ///
    /// # Panics
    /// Where the directory's name is no text.
    #[must_use]
    pub fn run(&self, every: &str, options: &[&str]) -> Command {
        let store = self.store();
        let mut all = vec!["--store", store.to_str().unwrap(), "--every", every];
        all.extend(options);
        let mut command = cairn_run(&all);
        self.within(&mut command);
        command
    }

    /// `cairn restore`, to which further options may be added.
    #[must_use]
    pub fn restore(&self, options: &[&str]) -> Command {
        let mut command = self.command(&["restore"]);
        command.args(options).arg(self.store());
        command
    }
}
