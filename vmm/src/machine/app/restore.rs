//! A program on its way back from a store, in a process of its own.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_abi::CheckpointId;

use super::{AppConfig, Overlay, Published, RunError, build, lives};
use crate::kvm::system::System;
use crate::machine::end::Ended;
use crate::machine::name::GuestName;
use crate::machine::state::UserState;
use crate::machine::storing::StoreConfig;
use crate::machine::whole::{Comeback, Consent, Untrusted, WholeConfig};
use crate::store::signature::Unsigned;

/// A checkpoint of a program, of which it's not known yet whether the program gets what it asks for.
#[derive(Debug)]
pub struct Restore {
    comeback: Comeback,
    store: PathBuf,
    state: UserState,
}

/// A program that is about to be brought back, with what its user lets it do.
#[derive(Debug)]
pub struct Trusted {
    comeback: Comeback,
    config: AppConfig,
}

/// The file of standard output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputTo {
    /// It has what the program had written, and maybe more.
    GoesOn(PathBuf),
    /// It isn't there yet, and gets what the program writes from now on.
    New(PathBuf),
}

impl Restore {
    /// The checkpoint `at` of a store, or the newest.
    ///
    /// # Errors
    /// [`RunError::NoCheckpoint`], [`RunError::Saved`].
    pub fn open(store: &Path, at: Option<CheckpointId>, state: UserState) -> Result<Self, RunError> {
        let comeback = Comeback::open(store, at, state.key.as_ref())?;
        Ok(Self { comeback, store: store.to_owned(), state })
    }

    /// Why it isn't known to be this user's, if it isn't.
    #[must_use]
    pub fn unsigned(&self) -> Option<&Unsigned> {
        self.comeback.unsigned.as_ref()
    }

    /// The program, if it's this user's, or the user agrees to what it asks for.
    ///
    /// # Errors
    /// [`RunError::Untrusted`], [`RunError::NoRecords`].
    pub fn trust(self, consent: &Consent) -> Result<Trusted, RunError> {
        let Self { comeback, store, state } = self;
        let mut config = comeback.saved.config.config()?;
        if let Some(why) = &comeback.unsigned {
            let missing = comeback.saved.config.rights()?.beyond(consent);
            if !missing.is_empty() {
                let untrusted = Untrusted { store, id: comeback.id.0, why: why.clone(), missing };
                return Err(RunError::Untrusted(Box::new(untrusted)));
            }
            if let Some(overlay) = &mut config.overlay {
                // What is recorded there is done to the directories: not what anybody has written.
                overlay.records = state.directory.clone().ok_or(RunError::NoRecords)?;
            }
        }
        config.state = state;
        Ok(Trusted { comeback, config })
    }
}

impl Trusted {
    /// The file that standard output went to, and how many bytes it had.
    #[must_use]
    pub fn stdout(&self) -> Option<(PathBuf, u64)> {
        self.comeback.saved.stdout()
    }

    /// How often checkpoints were taken; None where only those were that were asked for.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        self.comeback.saved.config.every()
    }

    /// Its store at `directory`, of which as much is kept as before, or `keep` checkpoints.
    #[must_use]
    pub fn store(&self, directory: PathBuf, keep: Option<NonZeroUsize>) -> StoreConfig {
        self.comeback.saved.config.store(directory, keep)
    }

    /// Runs the program to its end, with further checkpoints where `further` says. Its standard output goes to the file
    /// `output`, if it was a file; it's called `name`, or as it was.
    ///
    /// # Errors
    /// [`RunError`]: what is wrong and what to do.
    pub fn run(
        self,
        further: Option<(StoreConfig, WholeConfig)>,
        output: Option<OutputTo>,
        name: Option<GuestName>,
    ) -> Result<Ended, RunError> {
        let Self { comeback, config } = self;
        let keep = further.as_ref().and_then(|(store, _)| store.options.keep);
        keep.map_or(Ok(()), |keep| comeback.check_kept(keep))?;
        let kvm = System::open()?;
        let (store, whole) = further.unzip();
        let (stdout, goes_on) = match output {
            Some(OutputTo::GoesOn(path)) => (Some(path), true),
            Some(OutputTo::New(path)) => (Some(path), false),
            None => (None, false),
        };
        let name = name.unwrap_or_else(|| config.name.clone());
        let config = AppConfig { name, store, whole, stdout, ..config };
        // Output is cut back and changes are applied: not while another process runs the program and does so.
        let changes_files = config.stdout.is_some() || config.overlay.is_some();
        let _alone = (changes_files && config.store.is_none()).then(|| comeback.lock()).transpose()?;
        let comeback = if goes_on { comeback.with_output(config.state.key.as_ref())? } else { comeback };
        lives::run(&kvm, &config, Some(comeback), None)
    }

    /// Applies what the program had changed in its directories, as its end would have, and doesn't run it. None if it
    /// has no overlay.
    ///
    /// # Errors
    /// [`RunError::Publish`], and whatever keeps its files from coming back.
    pub fn commit_files(self) -> Result<Option<Published>, RunError> {
        let Self { comeback, config } = self;
        let Some(Overlay { records, .. }) = &config.overlay else { return Ok(None) };
        let _alone = comeback.lock()?;
        let mut files = build::files(&config, Vec::new(), None)?;
        comeback.files(&mut files)?;
        Ok(Some(files.publish(records)?))
    }
}
