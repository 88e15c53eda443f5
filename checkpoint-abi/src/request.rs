//! What a program asks.

use crate::ids::{CheckpointId, RegionId, RegionName, SessionKey, Span};

/// A request and what it carries whatever its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The session's key; all zeros in HELLO.
    pub key: SessionKey,
    /// 0 at first; the reply's cursor when it asked to ask again.
    pub cursor: u32,
    /// The request itself.
    pub request: Request,
}

/// The requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Opens the session: ends the one before it on this device.
    Hello {
        /// The newest protocol version that the program speaks.
        version: u32,
        /// The optional features that it wants.
        features: u64,
    },
    /// Registers a page-aligned span of the program's memory as a region.
    Register {
        /// Where it is.
        span: Span,
        /// What it's called.
        name: RegionName,
    },
    /// Ends a region. Checkpoints that hold it can't be rolled back to afterwards.
    Unregister {
        /// Which.
        region: RegionId,
    },
    /// Takes a checkpoint of all regions.
    Checkpoint,
    /// Gives all regions the content of a checkpoint.
    Rollback {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Gives up a checkpoint.
    Release {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Asks for figures.
    Query {
        /// About one checkpoint, or else about the session.
        checkpoint: Option<CheckpointId>,
    },
}
