//! An app guest from its configuration to its end.

mod build;
mod error;
mod front;
mod lives;
mod load;
mod machine;
mod restore;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use error::{DeviceError, RunError};
pub use restore::{OutputTo, Restore, Trusted};

pub use crate::guest::app::files::{Grant, Published};
use crate::kvm::system::System;
use crate::machine::end::Ended;
use crate::machine::name::GuestName;
use crate::machine::poll_policy::PollMode;
use crate::machine::script;
use crate::machine::state::UserState;
use crate::machine::storing::StoreConfig;
use crate::machine::tracking::TrackerMode;
use crate::machine::whole::WholeConfig;

/// The smallest memory that a guest can be given: its stack, and a little more.
pub const LEAST_MEMORY: u64 = 16 << 20;
/// The memory that a guest has unless told otherwise. It costs the host what the program touches.
pub const DEFAULT_MEMORY: u64 = 8 << 30;

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// What it's called.
    pub name: GuestName,
    /// The program on the host.
    pub program: PathBuf,
    /// argv, the program's name included.
    pub arguments: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// Bytes of private memory.
    pub memory: u64,
    /// Directories that the program sees beside the system's and the working directory.
    pub grants: Vec<Grant>,
    /// The working directory, which the program sees read-only.
    pub directory: PathBuf,
    /// Whether what the program changes in writable grants stays in memory at first, and what becomes of it.
    pub overlay: Option<Overlay>,
    /// When a host thread polls for requests, and for system calls where they can be posted.
    pub poll: PollMode,
    /// Checkpoints that are retained.
    pub history: NonZeroUsize,
    /// How its writes are found.
    pub tracker: TrackerMode,
    /// Entries of the dirty ring, where that is used.
    pub ring_entries: Option<u32>,
    /// Bytes that they may have together, beside the newest's own copy; by default as many as `memory`.
    pub history_memory: Option<u64>,
    /// Threads that work on a large checkpoint; by default [as many as are of use](crate::machine::helpers::start).
    pub threads: Option<NonZeroUsize>,
    /// What the monitor keeps for its user.
    pub state: UserState,
    /// Whether checkpoints of the whole program go there.
    pub whole: Option<WholeConfig>,
    /// Where checkpoints go that shall survive.
    pub store: Option<StoreConfig>,
    /// The file that standard output goes to, and goes back with the program. Without it, standard output is this
    /// process's.
    pub stdout: Option<PathBuf>,
}

/// Writable directories that change only when the program has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlay {
    /// Whether the changes are applied to the directories if the program ends by itself with status 0. Otherwise
    /// they are forgotten.
    pub commit: bool,
    /// A directory of the monitor's own for the record of changes that are being applied. What an earlier run left
    /// there about a granted directory is finished before the program starts.
    pub records: PathBuf,
}

/// Runs a program to its end.
///
/// # Errors
/// [`RunError`]: what is wrong and what to do.
pub fn run(config: &AppConfig) -> Result<Ended, RunError> {
    let kvm = System::open()?;
    let interpreted = script::interpreter(config)?;
    let script = interpreted.as_ref().map(|_| config.program.as_path());
    lives::run(&kvm, interpreted.as_ref().unwrap_or(config), None, script)
}

/// Opens the program, or a script, on the host.
pub(super) fn open_program(path: &Path) -> Result<File, RunError> {
    open_file(path).map_err(|source| RunError::Open { program: path.to_string_lossy().into_owned(), source })
}

/// Opens a file of the host to read it. A pipe isn't waited for.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let is_file = file.metadata()?.is_file();
    if is_file { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}
