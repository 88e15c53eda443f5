//! What a checkpoint takes from a program that stands still.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use cairn_engine::EngineError;
use nix::errno::Errno;
use rangemap::RangeMap;

use super::checkpointer::Failed;
use super::door::{Door, Gone};
use super::files::TakenFiles;
use super::output::OutputSource;
use super::pages::Pages;
use super::tracker::{Backing, Changes, Tracker};
use crate::checkpoint::SessionBytes;
use crate::guest::app::files::{FilesImage, ImageError};
use crate::guest::app::image::{FreezeError, FrozenCpu, FrozenProcess};
use crate::guest::app::mapping::Content;
use crate::guest::app::process::Process;
use crate::guest::app::space::AddressSpace;
use crate::kvm::slots::SlotError;
use crate::machine::calls::SharedCalls;
use crate::machine::unit::{SharedUnit, Unit, UnitState};
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
    /// Its own checkpoints.
    #[error("the program's own checkpoints can't be told")]
    Session(#[from] EngineError),
    /// KVM's log.
    #[error("what the program wrote can't be told")]
    Log(#[from] SlotError),
    /// Memory of a program that was brought back.
    #[error("the memory that the program had can't be read")]
    Arrival(#[source] Errno),
    /// The file of standard output.
    #[error("where standard output stands can't be told")]
    Stdout(#[source] Errno),
    /// What it has.
    #[error("the file of standard output can't be read")]
    Output(#[source] io::Error),
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
    pub(super) session: UnitState,
    /// What of the session is new.
    pub(super) session_bytes: SessionBytes,
    /// Bytes that the file of standard output has, if it is one.
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
    /// Where the program's own session is.
    pub(super) unit: Arc<SharedUnit>,
    pub(super) tracker: Tracker,
    /// Standard output, if it is a file that goes back with the program.
    pub(super) output: Option<OutputSource>,
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
        self.unit.with(|_| self.tracker.begin()).map_err(TakeError::from)?;
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

    /// Takes what changed, in addition to `pages`, which were taken before. With `anew` all of the program's own
    /// session counts as changed; what is taken of that counts once it is [kept](Self::told).
    ///
    /// # Errors
    /// [`TakeError`]; nothing has been taken then.
    pub(super) fn take(
        &self,
        cpu: &FrozenCpu,
        anew: bool,
        mut pages: Pages,
        mut files: TakenFiles,
    ) -> Result<Taken, Box<Untaken>> {
        // No request is half done: whoever serves one has the unit.
        let taken = self.calls.with(|process| {
            self.unit.with(|unit| {
                let taken = self.take_from(process, unit, anew, &mut pages, &mut files);
                taken.inspect_err(|_| unit.told(false))
            })
        });
        match taken {
            Ok(Values { process, image, changes, session, session_bytes, stdout }) => {
                let cpu = cpu.clone();
                Ok(Taken { cpu, process, image, files, pages, changes, session, session_bytes, stdout })
            }
            Err(error) => Err(Box::new(Untaken { error, pages })),
        }
    }

    fn take_from(
        &self,
        process: &mut Process,
        unit: &mut Unit,
        anew: bool,
        pages: &mut Pages,
        files: &mut TakenFiles,
    ) -> Result<Values, TakeError> {
        let frozen = process.freeze()?;
        // First, as an asynchronous checkpoint that is finished here lets go of pages.
        let mut session_bytes = SessionBytes::default();
        let session = unit.state(anew, &mut session_bytes)?;
        let failed = |source| ImageError::Host { what: "what changed of a file".to_owned(), source };
        process.space.mark_changed_files().map_err(failed)?;
        let image = process.files.image(&process.space.own_files(), files)?;
        let stdout = self.output.as_ref().map(OutputSource::position).transpose()?;
        let pending = process.space.arriving().map(|arriving| arriving.pending()).unwrap_or_default();
        let changes = self.tracker.changes(&backing(&process.space), &pending)?;
        pages.take(self.tracker.memory(), self.tracker.pagemap(), &changes.content);
        pages.blank(&changes.zeros);
        Ok(Values { process: frozen, image, changes, session, session_bytes, stdout })
    }

    /// What was taken of the program's session, and of its output, is in the store now, or isn't.
    pub(super) fn told(&self, kept: bool) {
        self.unit.with(|unit| unit.told(kept));
        if let (Some(output), true) = (&self.output, kept) {
            output.commit();
        }
    }
}

/// What is taken beside pages.
struct Values {
    process: FrozenProcess,
    image: FilesImage,
    changes: Changes,
    session: UnitState,
    session_bytes: SessionBytes,
    stdout: Option<u64>,
}

/// What the pages of each mapping are.
fn backing(space: &AddressSpace) -> RangeMap<u64, Backing> {
    let of = |(range, mapping): (&Range<u64>, &crate::guest::app::mapping::Mapping)| {
        let backing = match mapping.content {
            Content::Device { .. } => return None,
            _ if mapping.shows().is_some() => Backing::Shown,
            _ if mapping.is_of_host_file() => Backing::File,
            _ => Backing::Memory,
        };
        Some((range.clone(), backing))
    };
    space.mappings().filter_map(of).collect()
}
