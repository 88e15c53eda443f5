//! What a checkpoint takes from a program that stands still.

use std::ops::Range;
use std::sync::Arc;

use rangemap::RangeMap;

use super::files::TakenFiles;
use super::pages::Pages;
use super::tracker::{Backing, Changes, Tracker};
use crate::guest::app::files::{FilesImage, ImageError};
use crate::guest::app::image::{FreezeError, FrozenCpu, FrozenProcess};
use crate::guest::app::mapping::Content;
use crate::guest::app::space::{AddressSpace, UnfreezableError};
use crate::kvm::slots::SlotError;
use crate::machine::calls::SharedCalls;

/// Why there is no checkpoint now. The program goes on, and the next one has all that this one would have had.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Something that the process has.
    #[error(transparent)]
    Process(#[from] FreezeError),
    /// Something that it has open, or its files.
    #[error(transparent)]
    Files(#[from] ImageError),
    /// KVM's log.
    #[error("what the program wrote can't be told")]
    Log(#[from] SlotError),
}

/// A program as it is between two instructions: all but the pages that didn't change.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) cpu: FrozenCpu,
    pub(super) process: FrozenProcess,
    pub(super) image: FilesImage,
    pub(super) files: TakenFiles,
    pub(super) pages: Pages,
    pub(super) changes: Changes,
}

/// What is asked when the program stands still.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) calls: Arc<SharedCalls>,
    pub(super) tracker: Tracker,
}

impl Source {
    /// Follows all memory from now on; answers what is mapped.
    ///
    /// # Errors
    /// [`TakeError::Log`].
    pub(super) fn begin(&self) -> Result<RangeMap<u64, Backing>, TakeError> {
        // The process's lock first: no system call writes meanwhile.
        self.calls.with(|process| {
            self.tracker.begin()?;
            Ok(backing(&process.space))
        })
    }

    /// Takes what changed, in addition to `pages`, which were taken before.
    ///
    /// # Errors
    /// [`TakeError`]; nothing has been taken then.
    pub(super) fn take(
        &self,
        cpu: &FrozenCpu,
        mut pages: Pages,
        mut files: TakenFiles,
    ) -> Result<Taken, (TakeError, Pages, TakenFiles)> {
        let taken = self.calls.with(|process| {
            let frozen = process.freeze()?;
            if self.tracker.has_regions() {
                return Err(FreezeError::from(UnfreezableError::Device).into());
            }
            let image = process.files.image(&mut files)?;
            let changes = self.tracker.changes(&backing(&process.space))?;
            pages.take(self.tracker.memory(), self.tracker.pagemap(), &changes.content);
            pages.blank(&changes.zeros);
            Ok((frozen, image, changes))
        });
        match taken {
            Ok((process, image, changes)) => {
                Ok(Taken { cpu: cpu.clone(), process, image, files, pages, changes })
            }
            Err(error) => Err((error, pages, files)),
        }
    }
}

/// What the pages of each mapping are.
fn backing(space: &AddressSpace) -> RangeMap<u64, Backing> {
    let of = |(range, mapping): (&Range<u64>, &crate::guest::app::mapping::Mapping)| {
        let backing = match mapping.content {
            Content::Device { .. } => return None,
            Content::File { .. } if !space.files_are_copies() => Backing::File,
            _ => Backing::Memory,
        };
        Some((range.clone(), backing))
    };
    space.mappings().filter_map(of).collect()
}
