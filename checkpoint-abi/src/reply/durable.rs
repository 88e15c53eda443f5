//! What the device says of the store.

use super::{BODY, REPLY_SIZE};
use crate::ids::{CheckpointId, MAX_NAME_LEN, NameError, RegionName, Span};
use crate::request::Level;
use crate::wire::{DecodeError, get_u32, get_u64, put, reserved};

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

const DURABILITY_ID: usize = BODY;
const DURABILITY_LEVEL: usize = 24;
pub(super) const DURABILITY_END: usize = 28;
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
pub(super) const STORE_END: usize = 80;
const STORED_ID: usize = BODY;
const STORED_ADDRESS: usize = 24;
const STORED_LEN: usize = 32;
const STORED_TAG: usize = 40;
const STORED_NAME_LEN: usize = 48;
const STORED_NAME: usize = 49;
pub(super) const STORED_END: usize = STORED_NAME + MAX_NAME_LEN;

impl Durability {
    pub(super) fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, DURABILITY_ID, self.id.0.to_le_bytes());
        put(out, DURABILITY_LEVEL, level_to_u32(self.reached).to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        let id = CheckpointId(get_u64(bytes, DURABILITY_ID));
        Ok(Self { id, reached: get_level(bytes, DURABILITY_LEVEL)? })
    }
}

impl StoreFigures {
    pub(super) fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
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

    pub(super) fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
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
    pub(super) fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, STORED_ID, self.checkpoint.0.to_le_bytes());
        put(out, STORED_ADDRESS, self.span.address.to_le_bytes());
        put(out, STORED_LEN, self.span.len.to_le_bytes());
        put(out, STORED_TAG, self.tag.to_le_bytes());
        let (len, name) = self.name.as_wire();
        put(out, STORED_NAME_LEN, [len]);
        put(out, STORED_NAME, *name);
    }

    pub(super) fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
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
