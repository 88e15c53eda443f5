//! Who keeps checkpoints: the device, and the engines that do it in this process.

mod device;
mod fork;
mod full_copy;
mod mprotect;
mod resident;
mod runs;
mod sys;
mod tracked;
mod uffd_wp;
mod versions;

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use cairn_abi::reply::{CheckpointFigures, SessionFigures, StoreFigures, StoredRegion};
use cairn_abi::{CheckpointId, Level, RegionId, RegionMode, RegionName};
use cairn_engine::Rule;

use self::device::DeviceEngine;
use self::fork::ForkEngine;
use self::full_copy::FullCopy;
use self::mprotect::MprotectTracker;
use self::tracked::TrackedEngine;
use self::uffd_wp::{Protecting, UffdTracker};

use crate::error::Error;
use crate::kind::EngineKind;
use crate::memory::Block;
use crate::region::Regions;

/// Regions that a session with a user-level engine may have.
const MAX_REGIONS: usize = cairn_engine::MAX_REGIONS;
/// Bytes that they may have together.
const MAX_BYTES: u64 = cairn_engine::MAX_REGION_BYTES;

/// What `cairn` asks of the system.
const NEEDS_DEVICE: &str = "this machine has no checkpoint device: start the program with `cairn run`, or \
     choose a user-level engine (CAIRN_ENGINE=user-compare)";
/// What `fork` asks of the system.
const NEEDS_FORK: &str = "it needs to fork and to read the child's memory (Linux 5.3, /proc/PID/mem); \
     choose another engine";
/// What `uffd-wp` asks of the system.
const NEEDS_USERFAULTFD: &str = "it needs userfaultfd with asynchronous write protection and PAGEMAP_SCAN \
     (Linux 6.7, and no seccomp filter against them); user-compare and mprotect do without";

/// What an engine can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Checkpoints that it retains.
    pub(crate) history: u32,
    /// Regions at once.
    pub(crate) regions: usize,
    /// Bytes of all regions together.
    pub(crate) bytes: u64,
}

/// A checkpoint that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    /// Its id, once it is done.
    pub(crate) id: CheckpointId,
    /// Whether it is.
    pub(crate) done: bool,
}

/// Why an engine refused, in its own terms; the session adds names.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Never was, or was released.
    NoCheckpoint,
    /// Made room for newer ones.
    Evicted,
    /// The region is in the checkpoint or registered now, but not both.
    RegionSet(RegionId),
    /// A stored checkpoint has something else than this region, or has a region that isn't registered.
    Unfit { region: Option<RegionId>, stored: Option<StoredRegion> },
    /// A stored checkpoint can only be the session's first.
    RecoverLate,
    /// The store failed.
    Store(Option<io::Error>),
    /// Anything that needs no names.
    Other(Error),
}

impl Failure {
    /// Whether a rollback that ended so may have changed some bytes of the regions and not others.
    pub(crate) fn may_have_changed_regions(&self) -> bool {
        match self {
            Self::NoCheckpoint | Self::Evicted | Self::RegionSet(_) => false,
            Self::Unfit { .. } | Self::RecoverLate | Self::Store(_) => false,
            // Found before the first byte was read.
            Self::Other(Error::OtherProcess | Error::Lost { source: None, .. }) => false,
            Self::Other(_) => true,
        }
    }
}

/// Keeps the checkpoints of one session.
///
/// The session has checked names, limits and overlaps, and hands in the same regions that it
/// registered.
pub(crate) trait Engine: Debug + Send {
    fn limits(&self) -> Limits;

    /// Watches `block` from now on. A block that is owned is all zeros. `tag` is for the store.
    fn register(
        &mut self,
        name: &RegionName,
        block: &Block,
        mode: RegionMode,
        tag: u64,
    ) -> Result<RegionId, Failure>;

    /// The program writes these pages before the next checkpoint or rollback. The region has them.
    fn hint(&mut self, _region: RegionId, _pages: Range<u64>) {}

    /// Lets go of a region: afterwards its memory is ordinary and writable.
    fn unregister(&mut self, region: RegionId) -> Result<(), Failure>;

    fn checkpoint(&mut self, regions: &Regions) -> Result<CheckpointId, Failure>;

    /// Begins a checkpoint of what the regions hold now. An engine that has nobody to copy beside the program is
    /// done when this returns.
    fn checkpoint_async(&mut self, regions: &Regions) -> Result<Started, Failure> {
        self.checkpoint(regions).map(|id| Started { id, done: true })
    }

    /// Whether a checkpoint that was begun, and wasn't done then, is done; if `wait`, when it is.
    fn is_done(&mut self, _id: CheckpointId, _wait: bool) -> Result<bool, Failure> {
        Ok(true)
    }

    /// Either every region has the checkpoint's content, or nothing was changed, unless
    /// [`Failure::may_have_changed_regions`] says otherwise.
    fn rollback(&mut self, regions: &mut Regions, id: CheckpointId) -> Result<(), Failure>;

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure>;

    fn figures(&mut self) -> Result<SessionFigures, Failure>;

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure>;

    /// Figures of all retained checkpoints, ascending.
    fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Failure>;

    /// The way to a store, if there is one.
    fn durable(&mut self) -> Option<&mut dyn Durable> {
        None
    }
}

/// Puts checkpoints of a session on disk.
pub(crate) trait Durable {
    /// Takes one, which goes to the disk beside the program.
    fn checkpoint(&mut self, level: Level) -> Result<CheckpointId, Failure>;

    /// Whether it has reached `level`; if `wait`, when it has.
    fn is_durable(&mut self, id: CheckpointId, level: Level, wait: bool) -> Result<bool, Failure>;

    /// What a stored checkpoint, the newest if none is named, has under a name.
    fn stored(
        &mut self,
        id: Option<CheckpointId>,
        name: &RegionName,
    ) -> Result<Option<StoredRegion>, Failure>;

    /// Makes a stored checkpoint one of the session, without a change to the regions.
    fn recover(&mut self, id: Option<CheckpointId>) -> Result<CheckpointId, Failure>;

    fn figures(&mut self) -> Result<StoreFigures, Failure>;
}

/// Opens that engine.
pub(crate) fn open(kind: EngineKind, history: u32) -> Result<Box<dyn Engine>, Error> {
    match kind {
        EngineKind::Cairn => match DeviceEngine::open()? {
            Some(engine) => Ok(Box::new(engine)),
            None => Err(Error::Unavailable { engine: kind, reason: NEEDS_DEVICE, source: None }),
        },
        EngineKind::FullCopy => Ok(Box::new(FullCopy::new(history))),
        EngineKind::Mprotect => {
            Ok(Box::new(TrackedEngine::new(MprotectTracker::new(), Rule::Always, history)))
        }
        EngineKind::Fork => {
            let engine = ForkEngine::new(history).map_err(unavailable(kind, NEEDS_FORK))?;
            Ok(Box::new(engine))
        }
        EngineKind::UffdWp => {
            let tracker =
                UffdTracker::new(Protecting::AtCollect).map_err(unavailable(kind, NEEDS_USERFAULTFD))?;
            Ok(Box::new(TrackedEngine::new(tracker, Rule::Always, history)))
        }
        EngineKind::UserCompare => Ok(match UffdTracker::new(Protecting::AsTold) {
            Ok(tracker) => Box::new(TrackedEngine::new(tracker, Rule::Model, history)),
            Err(_) => Box::new(TrackedEngine::new(MprotectTracker::new(), Rule::Model, history)),
        }),
    }
}

/// Opens the device's engine if there is a device, else the best that works here.
pub(crate) fn open_best(history: u32) -> Result<(EngineKind, Box<dyn Engine>), Error> {
    if let Some(engine) = DeviceEngine::open()? {
        return Ok((EngineKind::Cairn, Box::new(engine)));
    }
    // It needs no more than mprotect and signals, so there is nothing to fall back to.
    let kind = EngineKind::UserCompare;
    open(kind, history).map(|engine| (kind, engine))
}

fn unavailable(engine: EngineKind, reason: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Unavailable { engine, reason, source: Some(source) }
}

/// An engine that watches nothing.
pub(crate) fn inert() -> Box<dyn Engine> {
    Box::new(FullCopy::new(1))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}
