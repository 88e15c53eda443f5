//! What a checkpoint takes from a program that stands still.

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use rangemap::RangeMap;

use super::checkpointer::Failed;
use super::door::{Door, Gone};
use super::files::TakenFiles;
use super::pages::Pages;
use super::tracker::{Backing, Changes, Tracker};
use crate::guest::app::files::{FilesImage, ImageError};
use crate::guest::app::image::{FreezeError, FrozenCpu, FrozenProcess};
use crate::guest::app::mapping::{Content, FileBytes};
use crate::guest::app::space::{AddressSpace, UnfreezableError};
use crate::kvm::slots::SlotError;
use crate::machine::calls::SharedCalls;
use crate::memory::layout::WINDOW_SIZE;

/// Why there is no checkpoint now. The program goes on, and the next one has all that this one would have had.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    /// Something that the process has.
    #[error(transparent)]
    Process(#[from] FreezeError),
    /// Something that it has open, or its files.
    #[error(transparent)]
    Files(#[from] ImageError),
    /// KVM's log.
    #[error("what the program wrote can't be told")]
    Log(#[from] SlotError),
    /// Memory of a program that was brought back.
    #[error("the memory that the program had can't be read")]
    Arrival(#[source] Errno),
    /// The file of standard output.
    #[error("where standard output stands can't be told")]
    Stdout(#[source] Errno),
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
    /// Where the file of standard output stands.
    pub(super) stdout: Option<u64>,
}

/// Why nothing was taken, and the buffer back.
#[derive(Debug)]
pub(super) struct Untaken {
    pub(super) error: TakeError,
    pub(super) pages: Pages,
}

/// What is asked when the program stands still.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) calls: Arc<SharedCalls>,
    pub(super) tracker: Tracker,
    /// Whether standard output is a file that goes back with the program.
    pub(super) has_stdout: bool,
}

impl Source {
    /// Follows all memory from now on; answers what is mapped. The program runs, but for moments.
    ///
    /// # Errors
    /// [`Failed::Gone`], and what [`TakeError`] says of the memory.
    pub(super) fn begin(self: &Arc<Self>, door: &Door) -> Result<RangeMap<u64, Backing>, Failed> {
        // What isn't there yet would be taken for zeros.
        if let Some(arriving) = self.ask(door, AddressSpace::arriving)? {
            arriving.hasten(&(0..WINDOW_SIZE)).map_err(TakeError::Arrival)?;
        }
        self.tracker.begin().map_err(TakeError::from)?;
        // What is mapped from now on counts as changed.
        Ok(self.ask(door, backing)?)
    }

    /// What the address space says. At the door, because a call that waits has the process for as long.
    fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        door: &Door,
        question: impl FnOnce(&AddressSpace) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let source = Arc::clone(self);
        let (answer, _) = door.at_stop(move |_| source.calls.with(|process| question(&process.space)))?;
        Ok(answer)
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
    ) -> Result<Taken, Box<Untaken>> {
        let taken = self.calls.with(|process| {
            let frozen = process.freeze()?;
            if self.tracker.has_regions() {
                return Err(FreezeError::from(UnfreezableError::Device).into());
            }
            let failed = |source| ImageError::Host { what: "what changed of a file".to_owned(), source };
            process.space.mark_changed_files().map_err(failed)?;
            let image = process.files.image(&process.space.own_files(), &mut files)?;
            let stdout = if self.has_stdout { Some(position()?) } else { None };
            let pending = process.space.arriving().map(|arriving| arriving.pending()).unwrap_or_default();
            let changes = self.tracker.changes(&backing(&process.space), &pending)?;
            pages.take(self.tracker.memory(), self.tracker.pagemap(), &changes.content);
            pages.blank(&changes.zeros);
            Ok((frozen, image, changes, stdout))
        });
        match taken {
            Ok((process, image, changes, stdout)) => {
                Ok(Taken { cpu: cpu.clone(), process, image, files, pages, changes, stdout })
            }
            Err(error) => Err(Box::new(Untaken { error, pages })),
        }
    }
}

/// Where standard output stands; all that the program wrote is before that.
fn position() -> Result<u64, TakeError> {
    let position = lseek(std::io::stdout(), 0, Whence::SeekCur).map_err(TakeError::Stdout)?;
    u64::try_from(position).map_err(|_| TakeError::Stdout(Errno::EOVERFLOW))
}

/// What the pages of each mapping are.
fn backing(space: &AddressSpace) -> RangeMap<u64, Backing> {
    let of = |(range, mapping): (&Range<u64>, &crate::guest::app::mapping::Mapping)| {
        let backing = match mapping.content {
            Content::Device { .. } => return None,
            _ if mapping.shows().is_some() => Backing::Shown,
            Content::File { bytes: FileBytes::Private | FileBytes::Shared, .. } => Backing::File,
            _ => Backing::Memory,
        };
        Some((range.clone(), backing))
    };
    space.mappings().filter_map(of).collect()
}
