//! Who keeps checkpoints: the device, and the engines that do it in this process.

mod full_copy;
mod versions;

use std::fmt::Debug;

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, RegionId, RegionName};

use crate::error::Error;
use crate::kind::EngineKind;
use crate::memory::Block;
use crate::region::Regions;

/// Regions that a session with a user-level engine may have: bounds its tables.
const MAX_REGIONS: usize = 256;
/// Bytes that they may have together: what the tables of the trackers are sized for.
const MAX_BYTES: u64 = 1 << 40;

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

/// Why an engine refused, in its own terms; the session adds names.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Never was, or was released.
    NoCheckpoint,
    /// Made room for newer ones.
    Evicted,
    /// The region is in the checkpoint or registered now, but not both.
    RegionSet(RegionId),
    /// Anything that needs no names.
    Other(Error),
}

/// Keeps the checkpoints of one session.
///
/// The session has checked names, limits and overlaps, and hands in the same regions that it
/// registered.
pub(crate) trait Engine: Debug + Send {
    fn limits(&self) -> Limits;

    /// Watches `block` from now on. A block that is owned is all zeros.
    fn register(&mut self, name: &RegionName, block: &Block) -> Result<RegionId, Failure>;

    /// Lets go of a region: afterwards its memory is ordinary and writable.
    fn unregister(&mut self, region: RegionId) -> Result<(), Failure>;

    fn checkpoint(&mut self, regions: &Regions) -> Result<CheckpointId, Failure>;

    /// Either every region has the checkpoint's content, or nothing was changed.
    fn rollback(&mut self, regions: &mut Regions, id: CheckpointId) -> Result<(), Failure>;

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure>;

    fn figures(&mut self) -> Result<SessionFigures, Failure>;

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure>;
}

/// Opens that engine.
pub(crate) fn open(kind: EngineKind, history: u32) -> Result<Box<dyn Engine>, Error> {
    match kind {
        EngineKind::FullCopy => Ok(Box::new(full_copy::FullCopy::new(history))),
        _ => {
            Err(Error::Unavailable { engine: kind, reason: String::from("not supported yet"), source: None })
        }
    }
}

/// Opens the device's engine if there is a device, else the best that works here.
pub(crate) fn open_best(history: u32) -> Result<(EngineKind, Box<dyn Engine>), Error> {
    open(EngineKind::FullCopy, history).map(|engine| (EngineKind::FullCopy, engine))
}

/// An engine that watches nothing.
pub(crate) fn inert() -> Box<dyn Engine> {
    Box::new(full_copy::FullCopy::new(1))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}
