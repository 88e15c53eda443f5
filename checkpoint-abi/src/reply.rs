//! What the device answers.

use crate::ids::{CheckpointId, RegionId, SessionKey, Span};
use crate::status::Status;

/// Spans that one reply can list.
pub const MAX_MISSING: usize = 15;

/// A response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// How the request ended.
    pub status: Status,
    /// With [`Status::Again`]: what the next try carries.
    pub cursor: u32,
    /// An id that the status explains (a region's), or 0.
    pub detail: u32,
    /// What was asked for, if the status is Ok, and what is missing if it's Again.
    pub body: ReplyBody,
}

/// The part of a response that depends on the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyBody {
    /// Nothing more to say.
    Empty,
    /// HELLO's answer.
    Hello(Hello),
    /// REGISTER's answer.
    Region(RegionId),
    /// CHECKPOINT's answer.
    Checkpoint(CheckpointId),
    /// QUERY's answer about the session.
    Session(SessionFigures),
    /// QUERY's answer about a checkpoint.
    CheckpointFigures(CheckpointFigures),
    /// Spans to touch before the request is made again.
    Missing(Missing),
}

/// What HELLO agrees on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The protocol version both sides speak from now on.
    pub version: u32,
    /// The features both sides have.
    pub features: u64,
    /// The new session's key.
    pub key: SessionKey,
    /// Regions that the session may have at once.
    pub max_regions: u32,
    /// Checkpoints that are retained.
    pub history: u32,
    /// Bytes that all regions may have together.
    pub max_bytes: u64,
}

/// Figures of a session since HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionFigures {
    /// Registered regions.
    pub regions: u32,
    /// Retained checkpoints.
    pub retained: u32,
    /// The checkpoint that memory derives from; 0 before the first.
    pub current: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Rollbacks done.
    pub rollbacks: u64,
    /// Resident bytes of the mirror.
    pub mirror_bytes: u64,
    /// Bytes of the history.
    pub history_bytes: u64,
    /// Bytes of the engine's tables.
    pub table_bytes: u64,
    /// Pages compared with the mirror.
    pub pages_compared: u64,
    /// Of these, pages that had changed.
    pub pages_changed: u64,
    /// Pages that were write-protected again.
    pub pages_protected: u64,
    /// Pages that are writable and compared at every checkpoint.
    pub pages_open: u64,
}

/// Figures of one checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointFigures {
    /// The checkpoint.
    pub id: CheckpointId,
    /// The checkpoint that it came after, if any.
    pub parent: Option<CheckpointId>,
    /// Pages that changed since its parent.
    pub pages_changed: u64,
    /// Bytes that the host keeps for it alone.
    pub bytes: u64,
}

/// Spans that must be touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    len: u8,
    spans: [Span; MAX_MISSING],
}

impl Missing {
    /// Holds the first [`MAX_MISSING`] of `spans`.
    #[must_use]
    pub fn new(spans: &[Span]) -> Self {
        let mut missing = Self { len: 0, spans: [Span { address: 0, len: 0 }; MAX_MISSING] };
        for (slot, span) in missing.spans.iter_mut().zip(spans) {
            *slot = *span;
            missing.len += 1;
        }
        missing
    }

    /// The spans.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans[..usize::from(self.len)]
    }
}
