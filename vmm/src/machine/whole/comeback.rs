//! A program on its way back from a store.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Lock, PAGE_SIZE, Store};
use rangemap::RangeSet;

use super::arrival::{Bringer, Incoming};
use super::files::StoredFiles;
use super::output::{Output, OutputError, OutputFile};
use super::saved::{self, Saved, SavedConfig, SavedError};
use super::session::StoredSession;
use crate::guest::app::cpu::Cpu;
use crate::guest::app::files::Files;
use crate::guest::app::image::ThawError;
use crate::guest::app::process::{Process, Segments};
use crate::guest::app::program::Entry;
use crate::guest::app::space::AddressSpace;
use crate::machine::app::RunError;
use crate::machine::unit::SharedUnit;
use crate::memory::layout::PAGE;
use crate::memory::program::ProgramMemory;
use crate::memory::rights::Rights;
use crate::store::signature::{CheckedSnapshot, Key, Signer, Unsigned};

/// A checkpoint of a whole program.
#[derive(Debug)]
pub(crate) struct Comeback {
    pub(crate) id: CheckpointId,
    /// When it was taken, by the host's clock then.
    pub(crate) taken: SystemTime,
    pub(crate) saved: Saved,
    /// What the file of standard output is to be, if there is one that [goes on](Self::with_output).
    pub(crate) output: Option<Output>,
    store: Store,
    incoming: OnceLock<Arc<Incoming>>,
    pub(crate) snapshot: Arc<CheckedSnapshot>,
    /// Why it isn't known to be the user's.
    pub(crate) unsigned: Option<Unsigned>,
    directory: PathBuf,
}

impl Comeback {
    /// The checkpoint `at` of a store, or the newest. It counts as the user's if it was signed with `key`.
    ///
    /// # Errors
    /// [`RunError::Saved`], [`RunError::NoCheckpoint`].
    pub(crate) fn open(
        directory: &Path,
        at: Option<CheckpointId>,
        key: Option<&Key>,
    ) -> Result<Self, RunError> {
        let store = Store::open(directory).map_err(SavedError::from)?;
        let found = match at {
            Some(at) => store.checkpoints().iter().find(|checkpoint| checkpoint.id == at),
            None => store.checkpoints().last(),
        };
        let newest = found.map(|checkpoint| checkpoint.id);
        let taken = found.map_or(UNIX_EPOCH, |checkpoint| checkpoint.time);
        let id = at.or(newest).ok_or_else(|| RunError::NoCheckpoint { store: directory.to_owned() })?;
        let snapshot = Arc::new(store.snapshot(id).map_err(SavedError::from)?);
        let checked = match key {
            Some(key) => CheckedSnapshot::open(Arc::clone(&snapshot), key).map_err(SavedError::from)?,
            None => Err(Unsigned::NoKey),
        };
        let (snapshot, unsigned) = match checked {
            Ok(checked) => (checked, None),
            Err(why) => (CheckedSnapshot::unchecked(snapshot), Some(why)),
        };
        let saved = Saved::read(id, &snapshot)?;
        Ok(Self {
            id,
            taken,
            saved,
            output: None,
            store,
            incoming: OnceLock::new(),
            snapshot: Arc::new(snapshot),
            unsigned,
            directory: directory.to_owned(),
        })
    }

    /// The same, with what the file of standard output is to be, which the program's run goes on in.
    ///
    /// # Errors
    /// [`RunError::Saved`].
    pub(crate) fn with_output(mut self, key: Option<&Key>) -> Result<Self, RunError> {
        let key = key.filter(|_| self.unsigned.is_none());
        let prefix = self.saved.output.map(|file| file.prefix);
        self.output = prefix.map(|prefix| Output::of(&self.store, self.id, prefix, key)).transpose()?;
        Ok(self)
    }

    /// Keeps every other process from writing to the store, and so from running the program with further checkpoints.
    ///
    /// # Errors
    /// [`RunError::Saved`] when one does.
    pub(crate) fn lock(&self) -> Result<Lock, RunError> {
        Ok(Lock::take(&self.directory).map_err(SavedError::from)?)
    }

    /// Looks whether its store has it still when only the newest `keep` are kept.
    ///
    /// # Errors
    /// [`RunError::NotKept`].
    pub(crate) fn check_kept(&self, keep: NonZeroUsize) -> Result<(), RunError> {
        let newer = self.store.checkpoints().iter().filter(|checkpoint| self.id < checkpoint.id).count();
        let (id, keep) = (self.id.0, keep.get());
        if newer < keep { Ok(()) } else { Err(RunError::NotKept { id, newer, keep }) }
    }

    /// Signs checkpoints that follow, and of which one they are changes: none where this one isn't signed, or output goes
    /// to another file from now on, so that the next one is complete.
    pub(crate) fn signer(&self, key: Option<&Key>) -> (Option<Signer>, Option<CheckpointId>) {
        let has_other_output = self.saved.output.is_some() && self.output.is_none();
        match key {
            _ if has_other_output => (key.cloned().map(Signer::new), None),
            None => (None, Some(self.id)),
            Some(key) if self.snapshot.is_valid() => {
                (Some(Signer::after(key.clone(), Arc::clone(&self.snapshot))), Some(self.id))
            }
            Some(key) => (Some(Signer::new(key.clone())), None),
        }
    }

    /// Puts all that the checkpoint has into `batch`, which was begun on top of it: as if nothing had changed since,
    /// in a machine of this configuration. What standard output has now, and will lose, goes along; it still has `kept`
    /// bytes of the store's newest checkpoint.
    ///
    /// # Errors
    /// [`SavedError`].
    pub(super) fn repeat(
        &self,
        batch: &mut Batch,
        config: &SavedConfig,
        kept: u64,
    ) -> Result<(), SavedError> {
        let file = self.output.as_ref().map(|output| OutputFile { kept, ..output.file() });
        saved::repeat(batch, config, &self.snapshot, file)?;
        self.output.iter().try_for_each(|output| output.note(batch))
    }

    /// Looks whether its output can be had from a file that still has `kept` bytes of the store's newest checkpoint.
    ///
    /// # Errors
    /// [`OutputError::Lost`].
    pub(super) fn check_output(&self, kept: u64) -> Result<(), SavedError> {
        match &self.output {
            Some(output) if kept < output.start => Err(OutputError::Lost(self.id.0).into()),
            _ => Ok(()),
        }
    }

    /// Waits until all of its memory is there, in a machine that doesn't run yet.
    ///
    /// # Errors
    /// [`SavedError`]: it can't be read.
    pub(super) fn wait(&self) -> Result<(), SavedError> {
        self.incoming.get().map_or(Ok(()), |incoming| Ok(incoming.wait()?))
    }

    /// Makes the program's mappings; answers where a vCPU may be started that gets its registers later. Their content
    /// comes when it's touched, and behind that by [`Incoming`]; or at once, where the host has no way to do that.
    ///
    /// # Errors
    /// [`RunError::Thaw`], [`RunError::Saved`].
    pub(crate) fn map(&self, space: &mut AddressSpace) -> Result<Entry, RunError> {
        space.thaw(&self.saved.process.space)?;
        let mappings = self.saved.process.space.mappings.iter();
        let spans = mappings.map(|mapping| mapping.start..mapping.end).collect();
        match Incoming::new(space.memory(), &self.snapshot, self.saved.memory, &spans) {
            Ok(incoming) => {
                let incoming = self.incoming.get_or_init(|| Arc::new(incoming));
                space.set_arriving(Arc::<Incoming>::clone(incoming));
            }
            Err(error) => {
                tracing::info!(%error, "no userfaultfd for faults of the kernel: all memory is read first");
                self.read_all(space.memory())?;
            }
        }
        Ok(Entry { instruction: 0, stack: 0 })
    }

    fn read_all(&self, memory: &ProgramMemory) -> Result<(), RunError> {
        let host = |source: nix::errno::Errno| RunError::Host { what: "memory", source: source.into() };
        let present = self.snapshot.present(self.saved.memory).map_err(SavedError::from)?;
        let present: RangeSet<u64> = present.into_iter().collect();
        let mut bytes = [0; PAGE_SIZE];
        for mapping in self.saved.process.space.mappings.iter().filter(|mapping| !mapping.is_device()) {
            let range = mapping.start..mapping.end;
            let pages = range.start / PAGE..range.end / PAGE;
            let [read, write, execute] = mapping.rights;
            memory.window().protect(&range, Rights::DATA.host()).map_err(host)?;
            for run in present.overlapping(&pages) {
                for page in run.start.max(pages.start)..run.end.min(pages.end) {
                    self.snapshot.read_page(self.saved.memory, page, &mut bytes).map_err(SavedError::from)?;
                    memory.write_bytes(page * PAGE, &bytes).map_err(host)?;
                }
            }
            memory.window().protect(&range, Rights { read, write, execute }.host()).map_err(host)?;
        }
        Ok(())
    }

    /// Starts to bring the content that isn't there yet. Before anybody touches it.
    ///
    /// # Errors
    /// [`RunError::Host`].
    pub(crate) fn bring(&self) -> Result<Option<Bringer>, RunError> {
        self.incoming.get().map(|incoming| Bringer::start(Arc::clone(incoming))).transpose()
    }

    /// The program's own files and its changes to the host's, in files that were built from the same grants.
    ///
    /// # Errors
    /// [`RunError::Image`].
    pub(crate) fn files(&self, files: &mut Files) -> Result<(), RunError> {
        Ok(files.restore_trees(self.saved.files.clone(), &StoredFiles(&self.snapshot))?)
    }

    /// The program's own session, once its memory is mapped. `kept` says that further checkpoints are changes to this
    /// one.
    ///
    /// # Errors
    /// [`RunError::Session`].
    pub(crate) fn session(&self, unit: &SharedUnit, kept: bool) -> Result<(), RunError> {
        let source = StoredSession(&self.snapshot);
        Ok(unit.with(|unit| unit.bring_back(&self.saved.session, &source, kept))?)
    }

    /// The process, with its memory, in files that were built from the same grants; the vCPU gets its registers.
    ///
    /// # Errors
    /// [`RunError::Thaw`], [`RunError::Image`].
    pub(crate) fn process(
        &self,
        space: AddressSpace,
        files: Files,
        cpu: &mut Cpu,
    ) -> Result<Process, RunError> {
        let mut clock = cpu.clock();
        clock.thaw(&self.saved.process.clock).map_err(ThawError::Clock)?;
        cpu.thaw(&self.saved.cpu)?;
        let [fs, gs] = self.saved.cpu.bases;
        let mut process = Process::thaw(space, files, clock, Segments { fs, gs }, &self.saved.process);
        let (files, facts) = process.files_and_facts();
        let pages = StoredFiles(&self.snapshot);
        let mapped = files.restore(&facts, self.saved.files.clone(), &pages, self.id)?;
        process.space.show_own_files(&self.saved.process.space, &mapped)?;
        Ok(process)
    }
}
