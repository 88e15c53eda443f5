//! What the device wants done, and how that ended.

use cairn_abi::reply::{
    Ask, CheckpointFigures, Durability, Missing, SessionFigures, StoreFigures, StoredRegion,
};
use cairn_abi::{CheckpointId, Hint, Level, RegionId, RegionMode, RegionName, Reply, ReplyBody, Status};

use super::regions::RegionSpan;

/// Whether a request is a new one, or the program has done what [`Outcome::Missing`] asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// It begins anew.
    No,
    /// It goes on.
    Yes,
}

/// What the engine has to do. All or nothing, except where the contract says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Forget all regions and checkpoints: their session is over. Ends with [`Outcome::Done`], also if there
    /// is nothing.
    DropAll,
    /// Find out whether the span can become a region: [`Outcome::Done`], or [`Outcome::Missing`] if pages
    /// must be touched before. It changes nothing.
    PrepareRegion {
        /// Where it is.
        span: RegionSpan,
    },
    /// Make the span a region: [`Outcome::Region`]. Follows a [`PrepareRegion`](Self::PrepareRegion) that was
    /// done.
    AddRegion {
        /// Where it is.
        span: RegionSpan,
        /// What it's called.
        name: RegionName,
        /// Who says what is written in it.
        mode: RegionMode,
        /// The type of what is in it, for the store.
        tag: u64,
    },
    /// End a region that was added: [`Outcome::Done`].
    RemoveRegion(RegionId),
    /// Take a checkpoint: [`Outcome::Checkpoint`], or [`Outcome::Missing`].
    Checkpoint(Again),
    /// Begin a checkpoint: [`Outcome::Ticket`].
    CheckpointAsync,
    /// Tell what became of that: [`Outcome::Ticket`]; done, if the second says so.
    Ticket(CheckpointId, bool),
    /// Take a checkpoint and hand it to the store: [`Outcome::Durability`], or [`Outcome::Missing`].
    CheckpointDurable(Level, Again),
    /// Tell what that has reached, after a while if there is a level to wait for: [`Outcome::Durability`].
    Durability(CheckpointId, Option<Level>),
    /// Tell the state of the store: [`Outcome::Store`].
    StoreFigures,
    /// Make a checkpoint of the store, the newest if none is named, one of the session: [`Outcome::Checkpoint`].
    Recover(Option<CheckpointId>),
    /// Tell what such a checkpoint has under a name: [`Outcome::Stored`].
    Stored(Option<CheckpointId>, RegionName),
    /// Give all regions the content of a checkpoint: [`Outcome::Done`], or [`Outcome::Missing`]. Whether the
    /// id means anything is the engine's to know.
    Rollback(CheckpointId, Again),
    /// Give up a checkpoint: [`Outcome::Done`].
    Release(CheckpointId),
    /// Take note of what the program writes: [`Outcome::Done`]. The region is one of the session's, and the pages
    /// are the region's.
    Hint(Hint),
    /// Tell the session's figures: [`Outcome::Session`].
    SessionFigures,
    /// Tell a checkpoint's figures: [`Outcome::CheckpointFigures`].
    CheckpointFigures(CheckpointId),
    /// Tell the figures of the oldest retained checkpoint after this one: [`Outcome::CheckpointFigures`].
    NextCheckpointFigures(CheckpointId),
}

impl Effect {
    /// Whether the engine may have much to do for it, by what the program wrote and has kept, so that nothing else
    /// should be done in the same exit of a guest whose kernel waits for its CPU.
    #[must_use]
    pub fn may_take_long(self) -> bool {
        match self {
            Self::DropAll
            | Self::AddRegion { .. }
            | Self::RemoveRegion(_)
            | Self::Checkpoint(_)
            | Self::CheckpointAsync
            | Self::Ticket(..)
            | Self::CheckpointDurable(..)
            | Self::Durability(..)
            | Self::Recover(_)
            | Self::Rollback(..)
            | Self::Release(_) => true,
            Self::PrepareRegion { .. }
            | Self::StoreFigures
            | Self::Stored(..)
            | Self::Hint(_)
            | Self::SessionFigures
            | Self::CheckpointFigures(_)
            | Self::NextCheckpointFigures(_) => false,
        }
    }
}

/// How an [`Effect`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As wished, and there is nothing to tell.
    Done,
    /// Nothing is done yet: the program must do something about its memory, then the same effect comes again.
    Missing {
        /// What is to be done about them.
        ask: Ask,
        /// Where they are.
        missing: Missing,
    },
    /// The region's id.
    Region(RegionId),
    /// The checkpoint's id.
    Checkpoint(CheckpointId),
    /// The checkpoint's id, and whether it's done.
    Ticket {
        /// Which it is, or will be.
        id: CheckpointId,
        /// Whether it is one.
        done: bool,
    },
    /// The session's figures.
    Session(SessionFigures),
    /// The checkpoint's figures.
    CheckpointFigures(CheckpointFigures),
    /// How durable the checkpoint is.
    Durability(Durability),
    /// The state of the store.
    Store(StoreFigures),
    /// What the store has.
    Stored(StoredRegion),
    /// Not at all.
    Failed(Failure),
}

/// Why an [`Effect`] failed. Nothing was changed by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The span isn't memory that the program may write.
    #[error("the span is not memory that the program may write")]
    NotMapped,
    /// There is no such region.
    #[error("there is no such region")]
    NoRegion,
    /// There never was such a checkpoint, or it was released.
    #[error("there is no such checkpoint")]
    NoCheckpoint,
    /// The checkpoint was evicted.
    #[error("the checkpoint was evicted")]
    Evicted,
    /// The checkpoint's regions aren't today's: this one is in one set and not in the other.
    #[error("region {0} is not in both today's set and the checkpoint's")]
    RegionSet(RegionId),
    /// The engine has a limit of its own.
    #[error("a limit of the engine is reached")]
    Limit,
    /// The host has no memory.
    #[error("the host has no memory")]
    NoMemory,
    /// The host failed otherwise; whoever noticed has logged it.
    #[error("the host failed")]
    Host,
    /// The store failed, with this errno or 0; whoever noticed has logged it.
    #[error("the store failed")]
    Store(u32),
    /// Something is still under way: to be asked again.
    #[error("something is still under way")]
    Busy,
    /// The stored checkpoint's regions aren't today's.
    #[error("the stored checkpoint's regions are not today's")]
    Mismatch {
        /// A region that doesn't fit, if it is one of today's.
        region: Option<RegionId>,
        /// What the checkpoint has in its place, if anything.
        stored: Option<StoredRegion>,
    },
    /// A checkpoint of the store can only become the first.
    #[error("the session has a checkpoint already")]
    NotFresh,
}

impl Failure {
    /// What the program is told.
    #[must_use]
    pub fn reply(self) -> Reply {
        let (status, detail) = match self {
            Self::NotMapped => (Status::NotMapped, 0),
            Self::NoRegion => (Status::NoRegion, 0),
            Self::NoCheckpoint => (Status::NoCheckpoint, 0),
            Self::Evicted => (Status::Evicted, 0),
            Self::RegionSet(region) => (Status::RegionSet, region.0),
            Self::Limit => (Status::Limit, 0),
            Self::NoMemory => (Status::NoMemory, 0),
            Self::Host => (Status::Host, 0),
            Self::Store(errno) => (Status::Store, errno),
            Self::Busy => (Status::Busy, 0),
            Self::Mismatch { region, .. } => (Status::Mismatch, region.map_or(0, |region| region.0)),
            Self::NotFresh => (Status::NotFresh, 0),
        };
        let refusal = Reply::refusal(status, detail);
        match self {
            Self::Mismatch { stored: Some(stored), .. } => {
                Reply { body: ReplyBody::Stored(stored), ..refusal }
            }
            _ => refusal,
        }
    }
}
