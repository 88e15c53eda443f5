//! A program on its way back from a store.

use std::path::Path;

use cairn_abi::CheckpointId;
use cairn_store::{Snapshot, Store};

use super::files::StoredFiles;
use super::saved::{Saved, SavedError};
use crate::guest::app::cpu::Cpu;
use crate::guest::app::files::Files;
use crate::guest::app::image::ThawError;
use crate::guest::app::process::{Process, Segments};
use crate::guest::app::space::AddressSpace;
use crate::machine::app::RunError;
use crate::memory::layout::PAGE;
use crate::memory::rights::Rights;

/// A checkpoint of a whole program.
#[derive(Debug)]
pub(crate) struct Comeback {
    pub(crate) id: CheckpointId,
    pub(crate) saved: Saved,
    snapshot: Snapshot,
}

impl Comeback {
    /// The checkpoint `at` of a store, or the newest.
    ///
    /// # Errors
    /// [`RunError::Saved`], [`RunError::NoCheckpoint`].
    pub(crate) fn open(directory: &Path, at: Option<CheckpointId>) -> Result<Self, RunError> {
        let store = Store::open(directory).map_err(SavedError::from)?;
        let newest = store.checkpoints().last().map(|checkpoint| checkpoint.id);
        let id = at.or(newest).ok_or_else(|| RunError::NoCheckpoint { store: directory.to_owned() })?;
        let snapshot = store.snapshot(id).map_err(SavedError::from)?;
        let saved = Saved::read(id, &snapshot)?;
        Ok(Self { id, saved, snapshot })
    }

    /// Makes the program's mappings with their content; answers where a vCPU may be started that gets its registers
    /// later.
    ///
    /// # Errors
    /// [`RunError::Thaw`], [`RunError::Saved`].
    pub(crate) fn map(&self, space: &mut AddressSpace) -> Result<(u64, u64), RunError> {
        space.thaw(&self.saved.process.space)?;
        let mut bytes = [0; 4096];
        let memory = space.memory();
        for mapping in &self.saved.process.space.mappings {
            let range = mapping.start..mapping.end;
            let [read, write, execute] = mapping.rights;
            let rights = Rights { read, write, execute };
            let host = |source: nix::errno::Errno| RunError::Host { what: "memory", source: source.into() };
            memory.window().protect(&range, Rights::DATA.host()).map_err(host)?;
            for run in self.snapshot.present(self.saved.memory) {
                let start = run.start.max(range.start / PAGE);
                let end = run.end.min(range.end / PAGE);
                for page in start..end {
                    self.snapshot.read_page(self.saved.memory, page, &mut bytes).map_err(SavedError::from)?;
                    memory.write_bytes(page * PAGE, &bytes).map_err(host)?;
                }
            }
            memory.window().protect(&range, rights.host()).map_err(host)?;
        }
        Ok((0, 0))
    }

    /// The process, with its memory, in files that were built from the same grants; the vCPU gets its registers.
    ///
    /// # Errors
    /// [`RunError::Thaw`], [`RunError::Image`].
    pub(crate) fn process(
        &self,
        space: AddressSpace,
        mut files: Files,
        cpu: &mut Cpu,
    ) -> Result<Process, RunError> {
        files.restore(self.saved.files.clone(), &StoredFiles(&self.snapshot))?;
        let mut clock = cpu.clock();
        clock.thaw(&self.saved.process.clock).map_err(ThawError::Clock)?;
        cpu.thaw(&self.saved.cpu)?;
        let [fs, gs] = self.saved.cpu.bases;
        Ok(Process::thaw(space, files, clock, Segments { fs, gs }, &self.saved.process))
    }
}
