//! Why the engine refused.

use std::collections::TryReserveError;

use cairn_abi::{CheckpointId, RegionId, RegionName};
use thiserror::Error;

use crate::TrackError;

/// Why the engine refused. Whatever it is, every retained checkpoint is as valid as before.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No live region has this id.
    #[error("no region has id {0}")]
    NoRegion(RegionId),
    /// No checkpoint ever had this id here, or it was released.
    #[error("no checkpoint has id {0}")]
    NoCheckpoint(CheckpointId),
    /// More checkpoints than are retained, or than the history has room for, were taken after this one. Also said of a released id that would have been evicted by now.
    #[error(
        "checkpoint {id} was evicted, the oldest that is retained is {oldest}; retain more to reach further back"
    )]
    Evicted {
        /// The id that was asked for.
        id: CheckpointId,
        /// The oldest retained id, or 0 if none is.
        oldest: CheckpointId,
    },
    /// The checkpoint's region set isn't today's.
    #[error("checkpoint {checkpoint} can't be restored: region \"{name}\" (id {region}) {side}")]
    RegionSet {
        /// The checkpoint that was asked for.
        checkpoint: CheckpointId,
        /// A region that is in one set and not in the other.
        region: RegionId,
        /// Its name.
        name: RegionName,
        /// In which set it is.
        side: SetSide,
    },
    /// A live region has this name.
    #[error("a region named \"{0}\" exists already")]
    NameTaken(RegionName),
    /// The memory is part of a live region.
    #[error("the memory overlaps region {0}")]
    Overlap(RegionId),
    /// The region has no pages.
    #[error("a region needs at least one page")]
    EmptyRegion,
    /// As many regions as are allowed exist.
    #[error("there are {max} regions, no more are allowed")]
    TooManyRegions {
        /// The limit.
        max: usize,
    },
    /// The regions would be too large together.
    #[error("the regions would have {bytes} bytes together, at most {max} are allowed")]
    TooManyBytes {
        /// What it would be.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Pages that the operation needs aren't in memory, or can't be written. Only scattered memory has such pages.
    #[error("pages of the regions are not in memory; let the program touch them and ask again")]
    Absent,
    /// A checkpoint can be imported before there is any, and as pages that the regions have.
    #[error(
        "a checkpoint can't be imported: there is one already, or it has a page that the region doesn't have"
    )]
    NoImport,
    /// The host has no memory, or the history may have no more.
    #[error("no memory for the checkpoint data of the host")]
    NoMemory,
    /// The tracker failed.
    #[error("written pages are not known")]
    Track(#[from] TrackError),
}

/// Which set a region is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetSide {
    /// In the checkpoint's set: it was dropped since.
    Checkpoint,
    /// In today's set: it was registered since.
    Today,
}

impl std::fmt::Display for SetSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "was dropped since",
            Self::Today => "was registered since",
        })
    }
}

impl From<TryReserveError> for EngineError {
    fn from(_: TryReserveError) -> Self {
        Self::NoMemory
    }
}
