//! What the device answers, and its bytes.
//!
//! A reply is [`REPLY_SIZE`] bytes, little-endian. Bytes that a table doesn't name are reserved: the device
//! MUST set them to zero, the driver MUST refuse them otherwise.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 2 | status | [`Status`] |
//! | 2 | 2 | body kind | which of the tables below is the body |
//! | 4 | 4 | cursor | with [`Status::Again`]: what the next try carries; else 0 |
//! | 8 | 4 | detail | with [`Status::Again`]: what is to be done, an [`Ask`]; else an id or a number that the status explains, or 0 |
//! | 16 | 256 | body | by body kind |
//!
//! | body kind | answer to | body |
//! |---|---|---|
//! | 0 | UNREGISTER, ROLLBACK, RELEASE, and every error | |
//! | 1 | HELLO | 16: version u32, 20: max regions u32, 24: features u64, 32: key, 16 bytes, 48: history u32, 56: max bytes u64 |
//! | 2 | REGISTER | 16: region u32 |
//! | 3 | CHECKPOINT, RECOVER | 16: checkpoint u64 |
//! | 4 | QUERY of the session | 16: regions u32, 20: retained u32, from 24, 8 bytes each: current, checkpoints, rollbacks, mirror bytes, history bytes, table bytes, pages compared, pages changed, pages protected, pages open, pauses, nanoseconds of all pauses, of the longest pause, of arming, faults avoided, faults taken, compares wasted |
//! | 5 | QUERY of a checkpoint | 16: checkpoint u64, 24: parent u64, 32: pages changed u64, 40: bytes u64, 48: has parent u32 (0: none, and parent is 0; 1) |
//! | 6 | any, with [`Status::Again`] | 16: count u32 (at most 15), from 24, 16 bytes each: address u64, length u64 |
//! | 7 | CHECKPOINT with [`FLAG_ASYNC`](crate::FLAG_ASYNC), QUERY of a ticket | 16: checkpoint u64, 24: done u32 (0, 1) |
//! | 8 | CHECKPOINT with [`FLAG_DURABLE`](crate::FLAG_DURABLE), QUERY of durability | 16: checkpoint u64, 24: level reached u32 (0: none yet; else a [`Level`](crate::Level)) |
//! | 9 | QUERY of the store | 16: newest written u64 (0: none), 24: newest synced u64 (0: none), 32: bytes written u64, 40: bytes queued u64, 48: checkpoints queued u32, 52: level of all u32 (0: of none; else a [`Level`](crate::Level)), 56: the last that failed u64 (0: none), 64: why, an errno u32, 72: checkpoints committed u64 |
//! | 10 | STORED, RECOVER with [`Status::Mismatch`] | 16: checkpoint u64, 24: address u64, 32: length u64, 40: tag u64, 48: name length u8, 49: name, zero-padded to 63 bytes |

mod durable;
mod figures;

use crate::ids::{CheckpointId, RegionId, SessionKey, Span};
use crate::status::Status;
use crate::wire::{DecodeError, array, exactly, get_bool, get_u16, get_u32, get_u64, put, reserved};

pub use durable::{Durability, StoreFigures, StoredRegion};
pub use figures::{CheckpointFigures, SessionFigures};

/// Bytes of a reply.
pub const REPLY_SIZE: usize = 272;

/// Spans that one reply can list.
pub const MAX_MISSING: usize = 15;

/// A response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// How the request ended.
    pub status: Status,
    /// With [`Status::Again`]: what the next try carries.
    pub cursor: u32,
    /// With [`Status::Again`]: the number of an [`Ask`]. Else an id that the status explains (a region's), or
    /// 0.
    pub detail: u32,
    /// What was asked for, if the status is Ok, what is missing if it's Again, and what doesn't fit if it's
    /// Mismatch.
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
    /// Spans to touch or to settle before the request is made again.
    Missing(Missing),
    /// The answer to a CHECKPOINT that needn't be done, or to a QUERY of its ticket.
    Ticket(Ticket),
    /// The answer to a CHECKPOINT for the store, or to a QUERY of its durability.
    Durability(Durability),
    /// QUERY's answer about the store.
    Store(StoreFigures),
    /// What the store has under a name.
    Stored(StoredRegion),
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

/// What is known of a checkpoint that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Its id, which means nothing before it's done.
    pub id: CheckpointId,
    /// Whether it's done.
    pub done: bool,
}

/// Spans that something must be done about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    len: u8,
    spans: [Span; MAX_MISSING],
}

/// What the driver does about memory that is missing: the detail of [`Status::Again`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Ask {
    /// Touch every page: read a byte, and for ROLLBACK write it back.
    Touch = 0,
    /// Have the guest's kernel finish what it has in hand, by one system call over each span that takes its
    /// locks of the memory map and the page tables. No page need be touched.
    Settle = 1,
}

impl Ask {
    /// What this number on the wire asks for, if anything.
    #[must_use]
    pub const fn from_u32(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Touch),
            1 => Some(Self::Settle),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self as u32
    }
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

impl Reply {
    /// A reply that is only a status.
    #[must_use]
    pub const fn refusal(status: Status, detail: u32) -> Self {
        Self { status, cursor: 0, detail, body: ReplyBody::Empty }
    }

    /// The reply of a request that is done.
    #[must_use]
    pub const fn done(body: ReplyBody) -> Self {
        Self { status: Status::Ok, cursor: 0, detail: 0, body }
    }

    /// The reply of a request that must be made again.
    #[must_use]
    pub const fn again(cursor: u32, ask: Ask, missing: Missing) -> Self {
        Self { status: Status::Again, cursor, detail: ask.to_u32(), body: ReplyBody::Missing(missing) }
    }

    /// What is to be done about the spans that are missing: with [`Status::Again`] only.
    #[must_use]
    pub const fn ask(&self) -> Option<Ask> {
        match self.status {
            Status::Again => Ask::from_u32(self.detail),
            _ => None,
        }
    }

    /// The reply's bytes; every byte of `out` is written.
    pub fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        *out = [0; REPLY_SIZE];
        put(out, STATUS, self.status.to_u16().to_le_bytes());
        put(out, KIND, self.body.kind().to_le_bytes());
        put(out, CURSOR, self.cursor.to_le_bytes());
        put(out, DETAIL, self.detail.to_le_bytes());
        self.body.encode(out);
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// [`DecodeError`], by the tables of this module. That the body fits the request is for the caller to
    /// check.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: &[u8; REPLY_SIZE] = exactly(bytes)?;
        let number = get_u16(bytes, STATUS);
        let status = Status::from_u16(number).ok_or(DecodeError::UnknownStatus(number))?;
        reserved(bytes, DETAIL + 4..BODY)?;
        let body = ReplyBody::decode(get_u16(bytes, KIND), bytes)?;
        let detail = get_u32(bytes, DETAIL);
        if status == Status::Again && Ask::from_u32(detail).is_none() {
            return Err(DecodeError::BadField { offset: DETAIL, value: detail.into() });
        }
        Ok(Self { status, cursor: get_u32(bytes, CURSOR), detail, body })
    }
}

// The header.
const STATUS: usize = 0;
const KIND: usize = 2;
const CURSOR: usize = 4;
const DETAIL: usize = 8;
// The body, by kind.
const BODY: usize = 16;
const HELLO_VERSION: usize = BODY;
const HELLO_MAX_REGIONS: usize = 20;
const HELLO_FEATURES: usize = 24;
const HELLO_KEY: usize = 32;
const HELLO_HISTORY: usize = 48;
const HELLO_MAX_BYTES: usize = 56;
const HELLO_END: usize = 64;
const TICKET_ID: usize = BODY;
const TICKET_DONE: usize = 24;
const TICKET_END: usize = 28;
const MISSING_COUNT: usize = BODY;
const MISSING_SPANS: usize = 24;
const SPAN_SIZE: usize = 16;

const _: () = assert!(MISSING_SPANS + MAX_MISSING * SPAN_SIZE <= REPLY_SIZE);

const KIND_EMPTY: u16 = 0;
const KIND_HELLO: u16 = 1;
const KIND_REGION: u16 = 2;
const KIND_CHECKPOINT: u16 = 3;
const KIND_SESSION: u16 = 4;
const KIND_FIGURES: u16 = 5;
const KIND_MISSING: u16 = 6;
const KIND_TICKET: u16 = 7;
const KIND_DURABILITY: u16 = 8;
const KIND_STORE: u16 = 9;
const KIND_STORED: u16 = 10;

impl ReplyBody {
    const fn kind(&self) -> u16 {
        match self {
            Self::Empty => KIND_EMPTY,
            Self::Hello(_) => KIND_HELLO,
            Self::Region(_) => KIND_REGION,
            Self::Checkpoint(_) => KIND_CHECKPOINT,
            Self::Session(_) => KIND_SESSION,
            Self::CheckpointFigures(_) => KIND_FIGURES,
            Self::Missing(_) => KIND_MISSING,
            Self::Ticket(_) => KIND_TICKET,
            Self::Durability(_) => KIND_DURABILITY,
            Self::Store(_) => KIND_STORE,
            Self::Stored(_) => KIND_STORED,
        }
    }

    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        match self {
            Self::Empty => {}
            Self::Hello(hello) => hello.encode(out),
            Self::Region(region) => put(out, BODY, region.0.to_le_bytes()),
            Self::Checkpoint(checkpoint) => put(out, BODY, checkpoint.0.to_le_bytes()),
            Self::Session(figures) => figures.encode(out),
            Self::CheckpointFigures(figures) => figures.encode(out),
            Self::Missing(missing) => missing.encode(out),
            Self::Ticket(ticket) => {
                put(out, TICKET_ID, ticket.id.0.to_le_bytes());
                put(out, TICKET_DONE, u32::from(ticket.done).to_le_bytes());
            }
            Self::Durability(durability) => durability.encode(out),
            Self::Store(figures) => figures.encode(out),
            Self::Stored(region) => region.encode(out),
        }
    }

    fn decode(kind: u16, bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        let (body, end) = match kind {
            KIND_EMPTY => (Self::Empty, BODY),
            KIND_HELLO => (Self::Hello(Hello::decode(bytes)?), HELLO_END),
            KIND_REGION => (Self::Region(RegionId(get_u32(bytes, BODY))), BODY + 4),
            KIND_CHECKPOINT => (Self::Checkpoint(CheckpointId(get_u64(bytes, BODY))), BODY + 8),
            KIND_SESSION => (Self::Session(SessionFigures::decode(bytes)), figures::SESSION_END),
            KIND_FIGURES => {
                (Self::CheckpointFigures(CheckpointFigures::decode(bytes)?), figures::FIGURES_END)
            }
            KIND_TICKET => {
                let id = CheckpointId(get_u64(bytes, TICKET_ID));
                (Self::Ticket(Ticket { id, done: get_bool(bytes, TICKET_DONE)? }), TICKET_END)
            }
            KIND_DURABILITY => (Self::Durability(Durability::decode(bytes)?), durable::DURABILITY_END),
            KIND_STORE => (Self::Store(StoreFigures::decode(bytes)?), durable::STORE_END),
            KIND_STORED => (Self::Stored(StoredRegion::decode(bytes)?), durable::STORED_END),
            KIND_MISSING => {
                let missing = Missing::decode(bytes)?;
                (Self::Missing(missing), MISSING_SPANS + missing.spans().len() * SPAN_SIZE)
            }
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        };
        reserved(bytes, end..REPLY_SIZE)?;
        Ok(body)
    }
}

impl Hello {
    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, HELLO_VERSION, self.version.to_le_bytes());
        put(out, HELLO_MAX_REGIONS, self.max_regions.to_le_bytes());
        put(out, HELLO_FEATURES, self.features.to_le_bytes());
        put(out, HELLO_KEY, self.key.0);
        put(out, HELLO_HISTORY, self.history.to_le_bytes());
        put(out, HELLO_MAX_BYTES, self.max_bytes.to_le_bytes());
    }

    fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        reserved(bytes, HELLO_HISTORY + 4..HELLO_MAX_BYTES)?;
        Ok(Self {
            version: get_u32(bytes, HELLO_VERSION),
            features: get_u64(bytes, HELLO_FEATURES),
            key: SessionKey(array(bytes, HELLO_KEY)),
            max_regions: get_u32(bytes, HELLO_MAX_REGIONS),
            history: get_u32(bytes, HELLO_HISTORY),
            max_bytes: get_u64(bytes, HELLO_MAX_BYTES),
        })
    }
}

impl Missing {
    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, MISSING_COUNT, u32::from(self.len).to_le_bytes());
        for (index, span) in self.spans().iter().enumerate() {
            let at = MISSING_SPANS + index * SPAN_SIZE;
            put(out, at, span.address.to_le_bytes());
            put(out, at + 8, span.len.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        let count = get_u32(bytes, MISSING_COUNT);
        let out_of_range = DecodeError::BadField { offset: MISSING_COUNT, value: count.into() };
        let len = u8::try_from(count).map_err(|_| out_of_range)?;
        let mut missing = Self { len, spans: [Span { address: 0, len: 0 }; MAX_MISSING] };
        let spans = missing.spans.get_mut(..usize::from(len)).ok_or(out_of_range)?;
        for (index, span) in spans.iter_mut().enumerate() {
            let at = MISSING_SPANS + index * SPAN_SIZE;
            *span = Span { address: get_u64(bytes, at), len: get_u64(bytes, at + 8) };
        }
        reserved(bytes, MISSING_COUNT + 4..MISSING_SPANS)?;
        Ok(missing)
    }
}
