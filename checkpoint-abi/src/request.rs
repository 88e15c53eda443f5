//! What a program asks, and its bytes.
//!
//! A request is [`REQUEST_SIZE`] bytes, little-endian. Bytes that a table doesn't name are reserved: the
//! driver MUST set them to zero, the device MUST refuse them otherwise ([`Status::Malformed`]).
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 2 | kind | which of the tables below is the body |
//! | 2 | 2 | flags | [`FLAG_ASYNC`] or [`FLAG_DURABLE`] in CHECKPOINT, if that feature was agreed on; else 0 |
//! | 4 | 4 | cursor | 0 at first; the reply's cursor when it said [`Status::Again`] |
//! | 8 | 16 | key | the session's key; the driver MUST set zeros in HELLO, where the device MUST ignore it |
//! | 24 | 104 | body | by kind |
//!
//! | kind | request | body |
//! |---|---|---|
//! | 1 | HELLO | 24: version u32, 32: features u64 |
//! | 2 | REGISTER | 24: address u64, 32: length u64, 40: name length u8 (1 to 63), 41: name, zero-padded to 63 bytes, 104: mode u32, a [`RegionMode`], 112: tag u64 |
//! | 3 | UNREGISTER | 24: region u32 |
//! | 4 | CHECKPOINT | with [`FLAG_DURABLE`] 24: a [`Level`] u32; else nothing |
//! | 5 | ROLLBACK | 24: checkpoint u64 |
//! | 6 | RELEASE | 24: checkpoint u64 |
//! | 7 | QUERY | 24: checkpoint u64, 32: subject u32 (0: the session, and checkpoint is 0; 1: the checkpoint; 2: the oldest that is newer than the checkpoint; 3: its ticket; 4: its ticket, when it's done; 5: its durability; 6: the store, and checkpoint is 0), with subject 5 36: a [`Level`] u32 to wait for, or 0 |
//! | 8 | HINTS | 24: address of the [hint table](crate::hint) u64 |
//! | 9 | RECOVER | 24: checkpoint u64 (0: the newest that the store has) |
//! | 10 | STORED | 24: checkpoint u64 (0: the newest that the store has), 40: name length u8 (1 to 63), 41: name, zero-padded to 63 bytes |

use crate::ids::{CheckpointId, RegionId, RegionName, SessionKey, Span};
#[cfg(doc)]
use crate::status::Status;
use crate::wire::{DecodeError, array, exactly, get_u16, get_u32, get_u64, put, reserved};

/// Bytes of a request.
pub const REQUEST_SIZE: usize = 128;

/// HELLO feature: the program says what it writes, by HINTS and by the mode of a region.
pub const FEATURE_HINT: u64 = 1 << 0;
/// HELLO feature: a checkpoint can be put in a store on disk, where it survives the program and the host.
pub const FEATURE_DURABLE: u64 = 1 << 1;
/// HELLO feature: CHECKPOINT can be answered with a ticket before it's done.
pub const FEATURE_ASYNC: u64 = 1 << 2;
/// Every HELLO feature that this version of the contract can serve.
pub const OFFERED_FEATURES: u64 = FEATURE_HINT | FEATURE_DURABLE | FEATURE_ASYNC;

/// Request flag of [`FEATURE_DURABLE`].
pub const FLAG_DURABLE: u16 = 1 << 1;
/// Request flag of [`FEATURE_ASYNC`].
pub const FLAG_ASYNC: u16 = 1 << 2;

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
        /// Who says what is written in it.
        mode: RegionMode,
        /// The type of what is in it, by a number of the program's own: a checkpoint of the store is only given
        /// back to a region with the same. 0 without [`FEATURE_DURABLE`].
        tag: u64,
    },
    /// Ends a region. Checkpoints that hold it can't be rolled back to afterwards.
    Unregister {
        /// Which.
        region: RegionId,
    },
    /// Takes a checkpoint of all regions.
    Checkpoint,
    /// Begins one, CHECKPOINT with [`FLAG_ASYNC`]: it is copied while the program runs.
    CheckpointAsync,
    /// Takes one and hands it to the store, CHECKPOINT with [`FLAG_DURABLE`].
    CheckpointDurable {
        /// What it's to survive.
        level: Level,
    },
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
    /// Asks what became of a checkpoint that was begun, a QUERY of its ticket.
    Ticket {
        /// Which.
        checkpoint: CheckpointId,
        /// Whether the answer waits until it's done.
        wait: bool,
    },
    /// Asks for the figures of the oldest retained checkpoint that is newer than this one: the way through all
    /// of them, from 0 on.
    QueryNext {
        /// After which.
        after: CheckpointId,
    },
    /// Asks how durable a checkpoint is.
    Durability {
        /// Which.
        checkpoint: CheckpointId,
        /// The answer may wait for a while until this is reached.
        wait: Option<Level>,
    },
    /// Asks for the state of the store.
    Store,
    /// Says where the hint table is, and that there may be hints in it.
    Hints {
        /// The table's address.
        table: u64,
    },
    /// Makes a checkpoint of the store one of this session.
    Recover {
        /// Which; the newest if `None`.
        checkpoint: Option<CheckpointId>,
    },
    /// Asks what a checkpoint of the store has under a region's name.
    Stored {
        /// Which checkpoint; the newest if `None`.
        checkpoint: Option<CheckpointId>,
        /// The name.
        name: RegionName,
    },
}

/// What a checkpoint in the store survives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Level {
    /// The end of the program and of the host's process, however that comes: the host's kernel has it.
    Written = 1,
    /// A power failure too: it is on the disk.
    Synced = 2,
}

impl Level {
    /// The level with this number on the wire, if there is one.
    #[must_use]
    pub const fn from_u32(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Written),
            2 => Some(Self::Synced),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self as u32
    }
}

/// Who says what is written in a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum RegionMode {
    /// The host finds out. Hints may spare it some of that.
    #[default]
    Tracked = 0,
    /// The program: only pages that it hints are looked at. Needs [`FEATURE_HINT`].
    Hinted = 1,
}

impl RegionMode {
    /// The mode with this number on the wire, if there is one.
    #[must_use]
    pub const fn from_u32(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Tracked),
            1 => Some(Self::Hinted),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self as u32
    }
}

impl Envelope {
    /// The request's bytes; every byte of `out` is written.
    pub fn encode(&self, out: &mut [u8; REQUEST_SIZE]) {
        *out = [0; REQUEST_SIZE];
        put(out, KIND, self.request.kind().to_le_bytes());
        put(out, FLAGS, self.request.flags().to_le_bytes());
        put(out, CURSOR, self.cursor.to_le_bytes());
        put(out, KEY, self.key.0);
        self.request.encode_body(out);
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`DecodeError`], by the tables of this module; [`DecodeError::status`] is what a device answers to it.
    /// The fields are not judged further: ids may name nothing and spans may be anything.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: &[u8; REQUEST_SIZE] = exactly(bytes)?;
        let request = match (get_u16(bytes, KIND), get_u16(bytes, FLAGS)) {
            (kind, 0) => Request::decode_body(kind, bytes)?,
            (KIND_CHECKPOINT, FLAG_ASYNC) => {
                reserved(bytes, BODY..REQUEST_SIZE)?;
                Request::CheckpointAsync
            }
            (KIND_CHECKPOINT, FLAG_DURABLE) => {
                reserved(bytes, CHECKPOINT_LEVEL + 4..REQUEST_SIZE)?;
                Request::CheckpointDurable { level: some_level(bytes, CHECKPOINT_LEVEL)? }
            }
            (kind, flags) => {
                // What is wrong with the request itself comes first.
                Request::decode_body(kind, bytes)?;
                return Err(DecodeError::UnknownFlags(flags));
            }
        };
        Ok(Self { key: SessionKey(array(bytes, KEY)), cursor: get_u32(bytes, CURSOR), request })
    }
}

// The header.
const KIND: usize = 0;
const FLAGS: usize = 2;
const CURSOR: usize = 4;
const KEY: usize = 8;
// The body, by kind.
const BODY: usize = 24;
const HELLO_VERSION: usize = BODY;
const HELLO_FEATURES: usize = 32;
const HELLO_END: usize = 40;
const REGISTER_ADDRESS: usize = BODY;
const REGISTER_LEN: usize = 32;
const REGISTER_NAME_LEN: usize = 40;
const REGISTER_NAME: usize = 41;
const REGISTER_NAME_END: usize = REGISTER_NAME + crate::ids::MAX_NAME_LEN;
const REGISTER_MODE: usize = 104;
const REGISTER_MODE_END: usize = 108;
const REGISTER_TAG: usize = 112;
const REGISTER_END: usize = 120;
const REGION: usize = BODY;
const REGION_END: usize = 28;
const CHECKPOINT: usize = BODY;
const CHECKPOINT_END: usize = 32;
const CHECKPOINT_LEVEL: usize = BODY;
const QUERY_SUBJECT: usize = 32;
const QUERY_LEVEL: usize = 36;
const QUERY_END: usize = 40;
const HINTS_TABLE: usize = BODY;
const HINTS_END: usize = 32;

const SUBJECT_SESSION: u32 = 0;
const SUBJECT_CHECKPOINT: u32 = 1;
const SUBJECT_NEXT: u32 = 2;
const SUBJECT_TICKET: u32 = 3;
const SUBJECT_TICKET_DONE: u32 = 4;
const SUBJECT_DURABILITY: u32 = 5;
const SUBJECT_STORE: u32 = 6;

const _: () = assert!(REGISTER_NAME_END == REGISTER_MODE && REGISTER_END <= REQUEST_SIZE);

const KIND_HELLO: u16 = 1;
const KIND_REGISTER: u16 = 2;
const KIND_UNREGISTER: u16 = 3;
const KIND_CHECKPOINT: u16 = 4;
const KIND_ROLLBACK: u16 = 5;
const KIND_RELEASE: u16 = 6;
const KIND_QUERY: u16 = 7;
const KIND_HINTS: u16 = 8;
const KIND_RECOVER: u16 = 9;
const KIND_STORED: u16 = 10;

impl Request {
    const fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => KIND_HELLO,
            Self::Register { .. } => KIND_REGISTER,
            Self::Unregister { .. } => KIND_UNREGISTER,
            Self::Checkpoint | Self::CheckpointAsync | Self::CheckpointDurable { .. } => KIND_CHECKPOINT,
            Self::Rollback { .. } => KIND_ROLLBACK,
            Self::Release { .. } => KIND_RELEASE,
            Self::Query { .. }
            | Self::QueryNext { .. }
            | Self::Ticket { .. }
            | Self::Durability { .. }
            | Self::Store => KIND_QUERY,
            Self::Hints { .. } => KIND_HINTS,
            Self::Recover { .. } => KIND_RECOVER,
            Self::Stored { .. } => KIND_STORED,
        }
    }

    const fn flags(&self) -> u16 {
        match self {
            Self::CheckpointAsync => FLAG_ASYNC,
            Self::CheckpointDurable { .. } => FLAG_DURABLE,
            _ => 0,
        }
    }

    fn encode_body(&self, out: &mut [u8; REQUEST_SIZE]) {
        match self {
            Self::Hello { version, features } => {
                put(out, HELLO_VERSION, version.to_le_bytes());
                put(out, HELLO_FEATURES, features.to_le_bytes());
            }
            Self::Register { span, name, mode, tag } => {
                put(out, REGISTER_ADDRESS, span.address.to_le_bytes());
                put(out, REGISTER_LEN, span.len.to_le_bytes());
                put_name(out, name);
                put(out, REGISTER_MODE, mode.to_u32().to_le_bytes());
                put(out, REGISTER_TAG, tag.to_le_bytes());
            }
            Self::Unregister { region } => put(out, REGION, region.0.to_le_bytes()),
            Self::Checkpoint | Self::CheckpointAsync => {}
            Self::CheckpointDurable { level } => put(out, CHECKPOINT_LEVEL, level.to_u32().to_le_bytes()),
            Self::Rollback { checkpoint } | Self::Release { checkpoint } => {
                put(out, CHECKPOINT, checkpoint.0.to_le_bytes());
            }
            Self::Query { checkpoint } => {
                put(out, CHECKPOINT, checkpoint.map_or(0, |id| id.0).to_le_bytes());
                let subject = if checkpoint.is_some() { SUBJECT_CHECKPOINT } else { SUBJECT_SESSION };
                put(out, QUERY_SUBJECT, subject.to_le_bytes());
            }
            Self::Ticket { checkpoint, wait } => {
                put(out, CHECKPOINT, checkpoint.0.to_le_bytes());
                let subject = if *wait { SUBJECT_TICKET_DONE } else { SUBJECT_TICKET };
                put(out, QUERY_SUBJECT, subject.to_le_bytes());
            }
            Self::QueryNext { after } => {
                put(out, CHECKPOINT, after.0.to_le_bytes());
                put(out, QUERY_SUBJECT, SUBJECT_NEXT.to_le_bytes());
            }
            Self::Durability { checkpoint, wait } => {
                put(out, CHECKPOINT, checkpoint.0.to_le_bytes());
                put(out, QUERY_SUBJECT, SUBJECT_DURABILITY.to_le_bytes());
                put(out, QUERY_LEVEL, wait.map_or(0, Level::to_u32).to_le_bytes());
            }
            Self::Store => put(out, QUERY_SUBJECT, SUBJECT_STORE.to_le_bytes()),
            Self::Hints { table } => put(out, HINTS_TABLE, table.to_le_bytes()),
            Self::Recover { checkpoint } => put(out, CHECKPOINT, or_newest(*checkpoint).to_le_bytes()),
            Self::Stored { checkpoint, name } => {
                put(out, CHECKPOINT, or_newest(*checkpoint).to_le_bytes());
                put_name(out, name);
            }
        }
    }

    fn decode_body(kind: u16, bytes: &[u8; REQUEST_SIZE]) -> Result<Self, DecodeError> {
        let (request, end) = match kind {
            KIND_HELLO => {
                reserved(bytes, HELLO_VERSION + 4..HELLO_FEATURES)?;
                let version = get_u32(bytes, HELLO_VERSION);
                (Self::Hello { version, features: get_u64(bytes, HELLO_FEATURES) }, HELLO_END)
            }
            KIND_REGISTER => {
                let span =
                    Span { address: get_u64(bytes, REGISTER_ADDRESS), len: get_u64(bytes, REGISTER_LEN) };
                let (name, mode) = (decode_name(bytes)?, decode_mode(bytes)?);
                reserved(bytes, REGISTER_MODE_END..REGISTER_TAG)?;
                (Self::Register { span, name, mode, tag: get_u64(bytes, REGISTER_TAG) }, REGISTER_END)
            }
            KIND_UNREGISTER => (Self::Unregister { region: RegionId(get_u32(bytes, REGION)) }, REGION_END),
            KIND_CHECKPOINT => (Self::Checkpoint, BODY),
            KIND_ROLLBACK => (Self::Rollback { checkpoint: get_checkpoint(bytes) }, CHECKPOINT_END),
            KIND_RELEASE => (Self::Release { checkpoint: get_checkpoint(bytes) }, CHECKPOINT_END),
            KIND_QUERY => (decode_query(bytes)?, QUERY_END),
            KIND_HINTS => (Self::Hints { table: get_u64(bytes, HINTS_TABLE) }, HINTS_END),
            KIND_RECOVER => (Self::Recover { checkpoint: named_or_newest(bytes) }, CHECKPOINT_END),
            KIND_STORED => {
                reserved(bytes, CHECKPOINT_END..REGISTER_NAME_LEN)?;
                let (checkpoint, name) = (named_or_newest(bytes), decode_name(bytes)?);
                (Self::Stored { checkpoint, name }, REGISTER_NAME_END)
            }
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        };
        reserved(bytes, end..REQUEST_SIZE)?;
        Ok(request)
    }
}

fn get_checkpoint(bytes: &[u8; REQUEST_SIZE]) -> CheckpointId {
    CheckpointId(get_u64(bytes, CHECKPOINT))
}

/// 0 is no id, so it stands for the newest.
fn named_or_newest(bytes: &[u8; REQUEST_SIZE]) -> Option<CheckpointId> {
    Some(get_checkpoint(bytes)).filter(|id| id.0 != 0)
}

fn or_newest(checkpoint: Option<CheckpointId>) -> u64 {
    checkpoint.map_or(0, |id| id.0)
}

fn put_name(out: &mut [u8; REQUEST_SIZE], name: &RegionName) {
    let (len, name) = name.as_wire();
    put(out, REGISTER_NAME_LEN, [len]);
    put(out, REGISTER_NAME, *name);
}

fn some_level(bytes: &[u8; REQUEST_SIZE], offset: usize) -> Result<Level, DecodeError> {
    let value = get_u32(bytes, offset);
    Level::from_u32(value).ok_or(DecodeError::BadField { offset, value: value.into() })
}

/// A name's length counts before its bytes do, so that the padding can be told from the name.
fn decode_name(bytes: &[u8; REQUEST_SIZE]) -> Result<RegionName, DecodeError> {
    let len = usize::from(bytes[REGISTER_NAME_LEN]);
    let field = &bytes[REGISTER_NAME..REGISTER_NAME_END];
    let name = field.get(..len).ok_or(DecodeError::BadName(crate::ids::NameError::TooLong(len)))?;
    reserved(bytes, REGISTER_NAME + len..REGISTER_NAME_END)?;
    RegionName::new(name).map_err(DecodeError::BadName)
}

fn decode_mode(bytes: &[u8; REQUEST_SIZE]) -> Result<RegionMode, DecodeError> {
    let value = get_u32(bytes, REGISTER_MODE);
    RegionMode::from_u32(value).ok_or(DecodeError::BadField { offset: REGISTER_MODE, value: value.into() })
}

fn decode_query(bytes: &[u8; REQUEST_SIZE]) -> Result<Request, DecodeError> {
    let checkpoint = get_checkpoint(bytes);
    let subject = get_u32(bytes, QUERY_SUBJECT);
    if subject != SUBJECT_DURABILITY {
        reserved(bytes, QUERY_LEVEL..QUERY_END)?;
    }
    Ok(match subject {
        SUBJECT_SESSION => {
            reserved(bytes, CHECKPOINT..CHECKPOINT_END)?;
            Request::Query { checkpoint: None }
        }
        SUBJECT_CHECKPOINT => Request::Query { checkpoint: Some(checkpoint) },
        SUBJECT_NEXT => Request::QueryNext { after: checkpoint },
        SUBJECT_TICKET => Request::Ticket { checkpoint, wait: false },
        SUBJECT_TICKET_DONE => Request::Ticket { checkpoint, wait: true },
        SUBJECT_DURABILITY => {
            let none = get_u32(bytes, QUERY_LEVEL) == 0;
            let wait = if none { None } else { Some(some_level(bytes, QUERY_LEVEL)?) };
            Request::Durability { checkpoint, wait }
        }
        SUBJECT_STORE => {
            reserved(bytes, CHECKPOINT..CHECKPOINT_END)?;
            Request::Store
        }
        value => return Err(DecodeError::BadField { offset: QUERY_SUBJECT, value: value.into() }),
    })
}
