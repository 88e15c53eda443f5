//! Records: what a segment is made of behind its header.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BLOCK_BYTES, MAX_INDEX_BYTES, crc, len32};
use crate::section::MAX_SECTION_BYTES;

/// What every record of a store begins with: half of the store's random number. A guest doesn't know it, so nothing
/// that a program has in its pages passes for a record, wherever in a damaged file one is looked for.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct Mark([u8; 8]);

impl Mark {
    /// The mark of the store with this random number.
    pub(crate) fn of(store: [u8; 16]) -> Self {
        let [_, mark]: [[u8; 8]; 2] = zerocopy::transmute!(store);
        Self(mark)
    }
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Pages and chunks.
    Block,
    /// A named section.
    Section,
    /// Where everything of the checkpoint is.
    Index,
    /// Makes the checkpoint valid.
    Commit,
}

/// How a payload is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
}

/// The 40 bytes before each payload.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct RawHeader {
    mark: Mark,
    kind: u8,
    encoding: u8,
    reserved: [u8; 6],
    checkpoint: U64,
    stored: U32,
    raw: U32,
    payload_crc: U32,
    header_crc: U32,
}

/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: usize = size_of::<RawHeader>();
const _: () = assert!(RECORD_HEADER == 40);

/// A record's header, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) encoding: Encoding,
    /// The checkpoint that the record is of.
    pub(crate) checkpoint: u64,
    /// Bytes of the payload in the file.
    pub(crate) stored: u32,
    /// Bytes of the payload.
    pub(crate) raw: u32,
    /// Checksum of the payload as it is in the file.
    pub(crate) crc: u32,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Section => 2,
            Self::Index => 3,
            Self::Commit => 4,
        }
    }

    /// Bytes that a payload of this kind may have, stored or not.
    fn most_bytes(self) -> usize {
        match self {
            Self::Block => BLOCK_BYTES,
            Self::Section => MAX_SECTION_BYTES,
            Self::Index => MAX_INDEX_BYTES,
            Self::Commit => COMMIT,
        }
    }
}

impl Encoding {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl RecordHeader {
    pub(crate) fn encode(&self, mark: Mark) -> [u8; RECORD_HEADER] {
        let mut header = RawHeader {
            mark,
            kind: self.kind.byte(),
            encoding: self.encoding.byte(),
            reserved: [0; 6],
            checkpoint: self.checkpoint.into(),
            stored: self.stored.into(),
            raw: self.raw.into(),
            payload_crc: self.crc.into(),
            header_crc: U32::ZERO,
        };
        header.header_crc = crc(&header.as_bytes()[..RECORD_HEADER - 4]).into();
        zerocopy::transmute!(header)
    }

    /// Checks a header of the store with this mark: checksum, kinds, and lengths by the bounds of its kind.
    pub(crate) fn decode(bytes: [u8; RECORD_HEADER], mark: Mark) -> Result<Self, &'static str> {
        let header: RawHeader = zerocopy::transmute!(bytes);
        if header.mark != mark {
            return Err("no record begins here");
        }
        if header.header_crc.get() != crc(&bytes[..RECORD_HEADER - 4]) {
            return Err("the record's header doesn't match its checksum");
        }
        let kind = match header.kind {
            1 => Kind::Block,
            2 => Kind::Section,
            3 => Kind::Index,
            4 => Kind::Commit,
            _ => return Err("a record of unknown kind"),
        };
        let encoding = Encoding::from_byte(header.encoding).ok_or("a record of unknown encoding")?;
        let (stored, raw) = (header.stored.get(), header.raw.get());
        let most = len32(kind.most_bytes());
        if most < stored || most < raw {
            return Err("the record's length is beyond its bound");
        }
        let lengths_fit = match encoding {
            Encoding::Raw => stored == raw,
            Encoding::Zstd => stored < raw && matches!(kind, Kind::Block | Kind::Section),
        };
        if !lengths_fit || header.reserved != [0; 6] {
            return Err("the record's header contradicts itself");
        }
        Ok(Self {
            kind,
            encoding,
            checkpoint: header.checkpoint.get(),
            stored,
            raw,
            crc: header.payload_crc.get(),
        })
    }
}

/// The payload of a commit record, which ends a checkpoint's records.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct Commit {
    /// The checkpoint that this one was made after, 0 for none.
    pub(crate) parent: U64,
    /// The checkpoint that pages not named here are taken from, 0 for none. Compaction shortens it to an ancestor.
    pub(crate) base: U64,
    /// Milliseconds since 1970 when it was begun, a label.
    pub(crate) time_ms: U64,
    /// Bytes of all its records, this one included.
    pub(crate) group: U64,
    /// Where its index record begins, from the first of its records.
    pub(crate) index_at: U64,
    /// Checksum of the index.
    pub(crate) index_crc: U32,
    /// Objects in the index.
    pub(crate) objects: U32,
    /// How much of the segment was known to be on the disk when this was written: bytes from its begin.
    pub(crate) synced: U64,
}

/// Bytes of it.
pub(crate) const COMMIT: usize = size_of::<Commit>();
const _: () = assert!(COMMIT == 56);
