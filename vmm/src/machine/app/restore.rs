//! A program on its way back from a store, in a process of its own.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_abi::CheckpointId;

use super::{AppConfig, RunError, lives};
use crate::kvm::system::System;
use crate::machine::end::Ended;
use crate::machine::name::GuestName;
use crate::machine::storing::StoreConfig;
use crate::machine::whole::{Comeback, WholeConfig};

/// A program that is about to be brought back.
#[derive(Debug)]
pub struct Restore(Comeback);

impl Restore {
    /// The checkpoint `at` of a store, or the newest.
    ///
    /// # Errors
    /// [`RunError::NoCheckpoint`], [`RunError::Saved`].
    pub fn open(store: &Path, at: Option<CheckpointId>) -> Result<Self, RunError> {
        Comeback::open(store, at).map(Self)
    }

    /// The file that standard output went to, and how many bytes it had.
    #[must_use]
    pub fn stdout(&self) -> Option<(PathBuf, u64)> {
        self.0.saved.stdout()
    }

    /// How often checkpoints were taken; None where only those were that were asked for.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        self.0.saved.config.every()
    }

    /// Its store at `directory`, of which as much is kept as before, or `keep` checkpoints.
    #[must_use]
    pub fn store(&self, directory: PathBuf, keep: Option<NonZeroUsize>) -> StoreConfig {
        self.0.saved.config.store(directory, keep)
    }

    /// Runs the program to its end, with further checkpoints where `further` says. Its standard output goes on in the
    /// file `stdout`, if it was a file; it's called `name`, or as its program.
    ///
    /// # Errors
    /// [`RunError`]: what is wrong and what to do.
    pub fn run(
        self,
        further: Option<(StoreConfig, WholeConfig)>,
        stdout: Option<PathBuf>,
        name: Option<GuestName>,
    ) -> Result<Ended, RunError> {
        let Self(comeback) = self;
        let kvm = System::open()?;
        let (store, whole) = further.unzip();
        let before = comeback.saved.config.config()?;
        let name = name.unwrap_or_else(|| before.name.clone());
        let config = AppConfig { name, store, whole, stdout, ..before };
        // Output is cut back and changes are applied: not while another process runs the program and does so.
        let changes_files = config.stdout.is_some() || config.overlay.is_some();
        let _alone = (changes_files && config.store.is_none()).then(|| comeback.lock()).transpose()?;
        lives::run(&kvm, &config, Some(comeback))
    }
}
