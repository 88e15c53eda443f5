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
//! | 8 | CHECKPOINT with [`FLAG_DURABLE`](crate::FLAG_DURABLE), QUERY of durability | 16: checkpoint u64, 24: level reached u32 (0: none yet; else a [`Level`]) |
//! | 9 | QUERY of the store | 16: newest written u64 (0: none), 24: newest synced u64 (0: none), 32: bytes written u64, 40: bytes queued u64, 48: checkpoints queued u32, 52: level of all u32 (0: of none; else a [`Level`]), 56: the last that failed u64 (0: none), 64: why, an errno u32, 72: checkpoints committed u64 |
//! | 10 | STORED, RECOVER with [`Status::Mismatch`] | 16: checkpoint u64, 24: address u64, 32: length u64, 40: tag u64, 48: name length u8, 49: name, zero-padded to 63 bytes |

use crate::ids::{CheckpointId, MAX_NAME_LEN, NameError, RegionId, RegionName, SessionKey, Span};
use crate::request::Level;
use crate::status::Status;
use crate::wire::{DecodeError, array, exactly, get_bool, get_u16, get_u32, get_u64, put, reserved};

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
    /// How often the guest's CPUs were stopped for requests, of any of its sessions; 0 where nothing is stopped.
    pub pauses: u64,
    /// Nanoseconds that they stood still, all together.
    pub pause_ns: u64,
    /// Nanoseconds of the longest time.
    pub longest_pause_ns: u64,
    /// Nanoseconds that it took to have the guest's memory watched, when regions were registered.
    pub arming_ns: u64,
    /// Pages that changed and had been left writable: faults that were spared.
    pub faults_avoided: u64,
    /// Pages that were written while they were protected.
    pub faults_taken: u64,
    /// Pages that had been left writable and didn't change.
    pub compares_wasted: u64,
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

/// What is known of a checkpoint that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Its id, which means nothing before it's done.
    pub id: CheckpointId,
    /// Whether it's done.
    pub done: bool,
}

/// How far a checkpoint is on its way to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durability {
    /// The checkpoint.
    pub id: CheckpointId,
    /// What it, or a newer one, survives by now.
    pub reached: Option<Level>,
}

/// State of the store, and figures since the guest started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreFigures {
    /// The newest checkpoint that is [written](Level::Written) at least; 0 if there is none.
    pub written: u64,
    /// The newest that is [synced](Level::Synced); 0 if it isn't known of any.
    pub synced: u64,
    /// Checkpoints that were committed.
    pub committed: u64,
    /// Bytes that this took on disk.
    pub bytes_written: u64,
    /// Bytes of the checkpoints that wait to be written, or are just being written.
    pub bytes_queued: u64,
    /// How many these are.
    pub queued: u32,
    /// The level that every checkpoint of the program shall have, if whoever started the guest says so.
    pub level_of_all: Option<Level>,
    /// The last checkpoint that couldn't be stored; 0 if there is none.
    pub failed: u64,
    /// Why: the number of an error of the host's kernel (errno). 0 if it was none of these.
    pub failed_errno: u32,
}

/// A region as a checkpoint of the store has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredRegion {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// What it's called.
    pub name: RegionName,
    /// Where it was, and its bytes.
    pub span: Span,
    /// The tag that it was registered with.
    pub tag: u64,
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
const SESSION_REGIONS: usize = BODY;
const SESSION_RETAINED: usize = 20;
const SESSION_CURRENT: usize = 24;
const SESSION_CHECKPOINTS: usize = 32;
const SESSION_ROLLBACKS: usize = 40;
const SESSION_MIRROR_BYTES: usize = 48;
const SESSION_HISTORY_BYTES: usize = 56;
const SESSION_TABLE_BYTES: usize = 64;
const SESSION_PAGES_COMPARED: usize = 72;
const SESSION_PAGES_CHANGED: usize = 80;
const SESSION_PAGES_PROTECTED: usize = 88;
const SESSION_PAGES_OPEN: usize = 96;
const SESSION_PAUSES: usize = 104;
const SESSION_PAUSE_NS: usize = 112;
const SESSION_LONGEST_PAUSE_NS: usize = 120;
const SESSION_ARMING_NS: usize = 128;
const SESSION_FAULTS_AVOIDED: usize = 136;
const SESSION_FAULTS_TAKEN: usize = 144;
const SESSION_COMPARES_WASTED: usize = 152;
const SESSION_END: usize = 160;
const FIGURES_ID: usize = BODY;
const FIGURES_PARENT: usize = 24;
const FIGURES_PAGES_CHANGED: usize = 32;
const FIGURES_BYTES: usize = 40;
const FIGURES_HAS_PARENT: usize = 48;
const FIGURES_END: usize = 52;
const TICKET_ID: usize = BODY;
const TICKET_DONE: usize = 24;
const TICKET_END: usize = 28;
const DURABILITY_ID: usize = BODY;
const DURABILITY_LEVEL: usize = 24;
const DURABILITY_END: usize = 28;
const STORE_WRITTEN: usize = BODY;
const STORE_SYNCED: usize = 24;
const STORE_BYTES_WRITTEN: usize = 32;
const STORE_BYTES_QUEUED: usize = 40;
const STORE_QUEUED: usize = 48;
const STORE_LEVEL_OF_ALL: usize = 52;
const STORE_FAILED: usize = 56;
const STORE_ERRNO: usize = 64;
const STORE_ERRNO_END: usize = 68;
const STORE_COMMITTED: usize = 72;
const STORE_END: usize = 80;
const STORED_ID: usize = BODY;
const STORED_ADDRESS: usize = 24;
const STORED_LEN: usize = 32;
const STORED_TAG: usize = 40;
const STORED_NAME_LEN: usize = 48;
const STORED_NAME: usize = 49;
const STORED_END: usize = STORED_NAME + MAX_NAME_LEN;
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
            Self::Durability(durability) => {
                put(out, DURABILITY_ID, durability.id.0.to_le_bytes());
                put(out, DURABILITY_LEVEL, level_to_u32(durability.reached).to_le_bytes());
            }
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
            KIND_SESSION => (Self::Session(SessionFigures::decode(bytes)), SESSION_END),
            KIND_FIGURES => (Self::CheckpointFigures(CheckpointFigures::decode(bytes)?), FIGURES_END),
            KIND_TICKET => {
                let id = CheckpointId(get_u64(bytes, TICKET_ID));
                (Self::Ticket(Ticket { id, done: get_bool(bytes, TICKET_DONE)? }), TICKET_END)
            }
            KIND_DURABILITY => {
                let id = CheckpointId(get_u64(bytes, DURABILITY_ID));
                let reached = get_level(bytes, DURABILITY_LEVEL)?;
                (Self::Durability(Durability { id, reached }), DURABILITY_END)
            }
            KIND_STORE => (Self::Store(StoreFigures::decode(bytes)?), STORE_END),
            KIND_STORED => (Self::Stored(StoredRegion::decode(bytes)?), STORED_END),
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

impl SessionFigures {
    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, SESSION_REGIONS, self.regions.to_le_bytes());
        put(out, SESSION_RETAINED, self.retained.to_le_bytes());
        put(out, SESSION_CURRENT, self.current.to_le_bytes());
        put(out, SESSION_CHECKPOINTS, self.checkpoints.to_le_bytes());
        put(out, SESSION_ROLLBACKS, self.rollbacks.to_le_bytes());
        put(out, SESSION_MIRROR_BYTES, self.mirror_bytes.to_le_bytes());
        put(out, SESSION_HISTORY_BYTES, self.history_bytes.to_le_bytes());
        put(out, SESSION_TABLE_BYTES, self.table_bytes.to_le_bytes());
        put(out, SESSION_PAGES_COMPARED, self.pages_compared.to_le_bytes());
        put(out, SESSION_PAGES_CHANGED, self.pages_changed.to_le_bytes());
        put(out, SESSION_PAGES_PROTECTED, self.pages_protected.to_le_bytes());
        put(out, SESSION_PAGES_OPEN, self.pages_open.to_le_bytes());
        put(out, SESSION_PAUSES, self.pauses.to_le_bytes());
        put(out, SESSION_PAUSE_NS, self.pause_ns.to_le_bytes());
        put(out, SESSION_LONGEST_PAUSE_NS, self.longest_pause_ns.to_le_bytes());
        put(out, SESSION_ARMING_NS, self.arming_ns.to_le_bytes());
        put(out, SESSION_FAULTS_AVOIDED, self.faults_avoided.to_le_bytes());
        put(out, SESSION_FAULTS_TAKEN, self.faults_taken.to_le_bytes());
        put(out, SESSION_COMPARES_WASTED, self.compares_wasted.to_le_bytes());
    }

    fn decode(bytes: &[u8; REPLY_SIZE]) -> Self {
        Self {
            regions: get_u32(bytes, SESSION_REGIONS),
            retained: get_u32(bytes, SESSION_RETAINED),
            current: get_u64(bytes, SESSION_CURRENT),
            checkpoints: get_u64(bytes, SESSION_CHECKPOINTS),
            rollbacks: get_u64(bytes, SESSION_ROLLBACKS),
            mirror_bytes: get_u64(bytes, SESSION_MIRROR_BYTES),
            history_bytes: get_u64(bytes, SESSION_HISTORY_BYTES),
            table_bytes: get_u64(bytes, SESSION_TABLE_BYTES),
            pages_compared: get_u64(bytes, SESSION_PAGES_COMPARED),
            pages_changed: get_u64(bytes, SESSION_PAGES_CHANGED),
            pages_protected: get_u64(bytes, SESSION_PAGES_PROTECTED),
            pages_open: get_u64(bytes, SESSION_PAGES_OPEN),
            pauses: get_u64(bytes, SESSION_PAUSES),
            pause_ns: get_u64(bytes, SESSION_PAUSE_NS),
            longest_pause_ns: get_u64(bytes, SESSION_LONGEST_PAUSE_NS),
            arming_ns: get_u64(bytes, SESSION_ARMING_NS),
            faults_avoided: get_u64(bytes, SESSION_FAULTS_AVOIDED),
            faults_taken: get_u64(bytes, SESSION_FAULTS_TAKEN),
            compares_wasted: get_u64(bytes, SESSION_COMPARES_WASTED),
        }
    }
}

impl CheckpointFigures {
    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, FIGURES_ID, self.id.0.to_le_bytes());
        put(out, FIGURES_PARENT, self.parent.map_or(0, |parent| parent.0).to_le_bytes());
        put(out, FIGURES_PAGES_CHANGED, self.pages_changed.to_le_bytes());
        put(out, FIGURES_BYTES, self.bytes.to_le_bytes());
        put(out, FIGURES_HAS_PARENT, u32::from(self.parent.is_some()).to_le_bytes());
    }

    fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        let parent = if get_bool(bytes, FIGURES_HAS_PARENT)? {
            Some(CheckpointId(get_u64(bytes, FIGURES_PARENT)))
        } else {
            reserved(bytes, FIGURES_PARENT..FIGURES_PAGES_CHANGED)?;
            None
        };
        Ok(Self {
            id: CheckpointId(get_u64(bytes, FIGURES_ID)),
            parent,
            pages_changed: get_u64(bytes, FIGURES_PAGES_CHANGED),
            bytes: get_u64(bytes, FIGURES_BYTES),
        })
    }
}

fn level_to_u32(level: Option<Level>) -> u32 {
    level.map_or(0, Level::to_u32)
}

fn get_level(bytes: &[u8; REPLY_SIZE], offset: usize) -> Result<Option<Level>, DecodeError> {
    match get_u32(bytes, offset) {
        0 => Ok(None),
        value => match Level::from_u32(value) {
            Some(level) => Ok(Some(level)),
            None => Err(DecodeError::BadField { offset, value: value.into() }),
        },
    }
}

impl StoreFigures {
    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, STORE_WRITTEN, self.written.to_le_bytes());
        put(out, STORE_SYNCED, self.synced.to_le_bytes());
        put(out, STORE_BYTES_WRITTEN, self.bytes_written.to_le_bytes());
        put(out, STORE_BYTES_QUEUED, self.bytes_queued.to_le_bytes());
        put(out, STORE_QUEUED, self.queued.to_le_bytes());
        put(out, STORE_LEVEL_OF_ALL, level_to_u32(self.level_of_all).to_le_bytes());
        put(out, STORE_FAILED, self.failed.to_le_bytes());
        put(out, STORE_ERRNO, self.failed_errno.to_le_bytes());
        put(out, STORE_COMMITTED, self.committed.to_le_bytes());
    }

    fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        reserved(bytes, STORE_ERRNO_END..STORE_COMMITTED)?;
        Ok(Self {
            written: get_u64(bytes, STORE_WRITTEN),
            synced: get_u64(bytes, STORE_SYNCED),
            committed: get_u64(bytes, STORE_COMMITTED),
            bytes_written: get_u64(bytes, STORE_BYTES_WRITTEN),
            bytes_queued: get_u64(bytes, STORE_BYTES_QUEUED),
            queued: get_u32(bytes, STORE_QUEUED),
            level_of_all: get_level(bytes, STORE_LEVEL_OF_ALL)?,
            failed: get_u64(bytes, STORE_FAILED),
            failed_errno: get_u32(bytes, STORE_ERRNO),
        })
    }
}

impl StoredRegion {
    fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, STORED_ID, self.checkpoint.0.to_le_bytes());
        put(out, STORED_ADDRESS, self.span.address.to_le_bytes());
        put(out, STORED_LEN, self.span.len.to_le_bytes());
        put(out, STORED_TAG, self.tag.to_le_bytes());
        let (len, name) = self.name.as_wire();
        put(out, STORED_NAME_LEN, [len]);
        put(out, STORED_NAME, *name);
    }

    fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        let len = usize::from(bytes[STORED_NAME_LEN]);
        let name = bytes[STORED_NAME..STORED_END].get(..len);
        let name = name.ok_or(DecodeError::BadName(NameError::TooLong(len)))?;
        reserved(bytes, STORED_NAME + len..STORED_END)?;
        Ok(Self {
            checkpoint: CheckpointId(get_u64(bytes, STORED_ID)),
            name: RegionName::new(name).map_err(DecodeError::BadName)?,
            span: Span { address: get_u64(bytes, STORED_ADDRESS), len: get_u64(bytes, STORED_LEN) },
            tag: get_u64(bytes, STORED_TAG),
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
