//! What can go wrong, for the program and for the person who reads the message.

use std::io;

use cairn_abi::CheckpointId;
use cairn_abi::ids::NameError;
use cairn_engine::EngineError;
use cairn_shim::ShimError;

use crate::arena::Full;
use crate::kind::{ENGINE_VARIABLE, EngineKind, UnknownEngine};

/// Why a call on a session failed. Nothing was changed then, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment variable [`ENGINE_VARIABLE`] names no engine.
    #[error("{ENGINE_VARIABLE} is set wrongly: {0}")]
    UnknownEngine(UnknownEngine),
    /// The engine that was asked for doesn't work here.
    #[error("the engine {engine} doesn't work here: {reason}")]
    Unavailable {
        /// The engine.
        engine: EngineKind,
        /// What is missing, and what to do.
        reason: &'static str,
        /// What the system said.
        #[source]
        source: Option<io::Error>,
    },
    /// The number of checkpoints to retain is out of range.
    #[error("a history of {asked} checkpoints was asked for: it is 1 to {limit}")]
    History {
        /// What was asked for.
        asked: u32,
        /// The most that is allowed.
        limit: u32,
    },
    /// The text can't be a region's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A region of this session has that name.
    #[error("this session has a region {name:?} already: give each region its own name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A region without elements was asked for.
    #[error("the region {name:?} would have no bytes: give it at least one element")]
    Empty {
        /// Its name.
        name: String,
    },
    /// A region's size is no number of bytes, or more than the session may still have.
    #[error(
        "the region {name:?} of {elements} elements of {element_bytes} bytes is too large: a session may have {limit} bytes"
    )]
    TooLarge {
        /// Its name.
        name: String,
        /// Elements asked for.
        elements: usize,
        /// Bytes of one.
        element_bytes: usize,
        /// Bytes that all regions of the session may have together.
        limit: u64,
    },
    /// The session has all the regions that it may have.
    #[error("the region {name:?} is one too many: a session may have {limit} regions, drop one first")]
    TooManyRegions {
        /// Its name.
        name: String,
        /// Regions that a session may have.
        limit: usize,
    },
    /// Memory to adopt begins or ends within a page.
    #[error(
        "the memory for region {name:?} ({len} bytes at {address:#x}) is not whole pages: address and length must be multiples of 4096"
    )]
    Unaligned {
        /// The region's name.
        name: String,
        /// Where the memory begins.
        address: usize,
        /// Its bytes.
        len: usize,
    },
    /// Memory to adopt belongs to a region already.
    #[error("the memory for region {name:?} overlaps the region {other:?}")]
    Overlap {
        /// The new region's name.
        name: String,
        /// The region that it overlaps.
        other: String,
    },
    /// No retained checkpoint of this session has that id.
    #[error("this session has no checkpoint {id}: it was released, or the id is another session's")]
    NoCheckpoint {
        /// The id.
        id: CheckpointId,
    },
    /// The checkpoint made room for newer ones.
    #[error(
        "checkpoint {id} is gone: the session retains {history} checkpoints and took that many after it; ask for a longer history"
    )]
    Evicted {
        /// The id.
        id: CheckpointId,
        /// Checkpoints that the session retains.
        history: u32,
    },
    /// The checkpoint's regions aren't today's.
    #[error("can't roll back to checkpoint {id}: the region {region:?} {}", Difference(*.registered))]
    RegionSet {
        /// The checkpoint.
        id: CheckpointId,
        /// A region that is in one of the two sets and not in the other.
        region: String,
        /// Whether it is a region now, and so not in the checkpoint.
        registered: bool,
    },
    /// A region whose hints are checked ([`RegionMode::Checked`](crate::RegionMode::Checked)) was written where
    /// nothing was hinted: here and perhaps elsewhere. Hint it and try again.
    #[error(
        "the region {region:?} was written without a hint: its page at byte {offset:#x} has changed; call \
         Session::hint for what is written"
    )]
    NotHinted {
        /// The region.
        region: String,
        /// Where the first such page begins, in bytes from the region's start.
        offset: usize,
    },
    /// The process that held the checkpoint's memory (engine `fork`) is gone: somebody killed it. If
    /// that happened while it was read, regions may have been rolled back in part.
    #[error("checkpoint {id} is lost: the process that held its memory was killed; roll back to another one")]
    Lost {
        /// The checkpoint.
        id: CheckpointId,
        /// What the system said, if that process went while it was read.
        #[source]
        source: Option<io::Error>,
    },
    /// A rollback failed after it may have changed some regions and not others; a checkpoint of that
    /// would hold a state that never was.
    #[error("a rollback failed halfway: roll back to another checkpoint first")]
    Torn,
    /// An arena is too small for what is to be in it.
    #[error(transparent)]
    Full(#[from] Full),
    /// Nothing can be put on disk: the engine keeps checkpoints in memory, or the guest was started without a
    /// store.
    #[error(
        "there is no store for checkpoints: start {} with cairn run --store DIR, and without --every, with which \
         the store has checkpoints of the whole program",
        Start { engine: *.engine, device: *.device }
    )]
    NoStore {
        /// The session's engine.
        engine: EngineKind,
        /// Whether it could have one.
        device: bool,
    },
    /// The checkpoint was taken and can be rolled back to, but it isn't on disk. The checkpoints before it are
    /// as they were, and the next one that is stored has all that it had.
    #[error("checkpoint {id} couldn't be stored; those that were stored before stand")]
    NotStored {
        /// The checkpoint.
        id: CheckpointId,
        /// What the host said.
        #[source]
        source: Option<io::Error>,
    },
    /// The store can't be read, or belongs to another session of the guest (EBUSY).
    #[error("the store can't be used; cairn's messages say more")]
    StoreFailed {
        /// What the host said.
        #[source]
        source: Option<io::Error>,
    },
    /// A region isn't what a stored checkpoint has under its name.
    #[error("the stored checkpoint doesn't fit: the region {region:?} {}", Both(.wanted.as_deref(), *.stored))]
    Unfit {
        /// Its name.
        region: String,
        /// What the program has; nothing if it has no such region.
        wanted: Option<String>,
        /// What the store has; nothing if it has no such region.
        stored: Option<Stored>,
    },
    /// An arena can't be where it was: addresses in it mean something.
    #[error(
        "the arena {name:?} was stored at {stored:#x} and is at {address:#x}: something else was there when it was \
         made; make arenas as early as the run before did"
    )]
    ArenaElsewhere {
        /// Its name.
        name: String,
        /// Where it was.
        stored: u64,
        /// Where it is.
        address: u64,
    },
    /// The session has a checkpoint already.
    #[error("recover() comes before the first checkpoint of a session")]
    RecoverLate,
    /// Nobody takes checkpoints of the whole program.
    #[error(
        "nobody takes checkpoints of this whole program: start it with cairn run --store DIR --every never (or a \
         time); outside of cairn run, and in a Linux guest, there are none"
    )]
    NoWholeCheckpoints {
        /// What the system said to opening [`cairn_abi::fork_point::PATH`].
        #[source]
        source: io::Error,
    },
    /// The checkpoint of the whole program that was asked for isn't there. Those before stand.
    #[error("there is no checkpoint of the program: {reason}")]
    NotTaken {
        /// What the host says.
        reason: String,
    },
    /// The session was made before a fork, and this is the child.
    #[error(
        "this session belongs to the process that opened it, and this is a child of it: open a session of its own"
    )]
    OtherProcess,
    /// The checkpoint device is there and can't be used, or refuses or fails in a way that has no
    /// variant of its own.
    #[error("the checkpoint device failed; CAIRN_ENGINE=user-compare does without it")]
    Device(#[source] Box<ShimError>),
    /// The engine in this process has no memory, or the kernel refused to tell what was written.
    #[error("the user-level engine failed")]
    Engine(#[source] Box<EngineError>),
    /// The system refused something that the engine needs.
    #[error("{what} failed")]
    System {
        /// What was tried, and for whom.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried when the system said no.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}

/// A region as a store has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// All of it.
    pub bytes: u64,
    /// One element, or an arena's root.
    pub element_bytes: u64,
    /// Whether the elements are of the same type as the program's region of that name.
    pub same_type: bool,
}

/// Says what to start.
struct Start {
    engine: EngineKind,
    device: bool,
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.device {
            true => f.write_str("the guest"),
            false => {
                write!(f, "the program (whose engine now is {}, which keeps them in memory)", self.engine)
            }
        }
    }
}

/// Says what a region is, here and in the store.
struct Both<'a>(Option<&'a str>, Option<Stored>);

impl std::fmt::Display for Both<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self(Some(wanted), Some(stored)) => write!(f, "is {wanted} here and {stored} in the store"),
            Self(Some(wanted), None) => write!(f, "is {wanted} here and not in the store"),
            Self(None, Some(stored)) => {
                write!(f, "is in the store with {} bytes and not in the session", stored.bytes)
            }
            Self(None, None) => f.write_str("is none of the session's"),
        }
    }
}

/// As in "the region is ... in the store".
impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, element_bytes, same_type } = self;
        match same_type {
            true => write!(f, "{bytes} bytes of the same"),
            false => write!(f, "{bytes} bytes of another type ({element_bytes} bytes each)"),
        }
    }
}

/// Says on which side the region is missing.
struct Difference(bool);

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0 {
            "was registered after it; drop the region first"
        } else {
            "has been dropped since"
        })
    }
}
