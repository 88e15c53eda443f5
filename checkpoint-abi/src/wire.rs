//! Little-endian fields at fixed offsets, and why bytes are refused.

use core::fmt;
use core::ops::Range;

use crate::ids::NameError;
use crate::status::Status;

/// Why bytes are not a request or not a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Fewer bytes than the fixed size.
    TooShort {
        /// Bytes there are.
        len: usize,
        /// Bytes there must be.
        want: usize,
    },
    /// More bytes than the fixed size.
    TooLong {
        /// Bytes there are.
        len: usize,
        /// Bytes there must be.
        want: usize,
    },
    /// A request kind, or a reply's body kind, that this version doesn't have.
    UnknownKind(u16),
    /// Flag bits that this version doesn't have, or whose feature can't be agreed on yet.
    UnknownFlags(u16),
    /// A byte that must be zero isn't; holds its offset.
    ReservedSet(usize),
    /// A field whose value has no meaning.
    BadField {
        /// Where it is.
        offset: usize,
        /// What it holds.
        value: u64,
    },
    /// A region's name breaks the rule of [`RegionName`](crate::RegionName).
    BadName(NameError),
    /// A reply's status that this version doesn't have.
    UnknownStatus(u16),
}

impl DecodeError {
    /// What a device answers to a request with this fault. Faults that only a reply can have count as
    /// [`Status::Malformed`].
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::UnknownKind(_) | Self::UnknownFlags(_) => Status::Unsupported,
            Self::BadName(_) => Status::BadName,
            Self::TooShort { .. }
            | Self::TooLong { .. }
            | Self::ReservedSet(_)
            | Self::BadField { .. }
            | Self::UnknownStatus(_) => Status::Malformed,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len, want } => write!(f, "{len} bytes where {want} are needed"),
            Self::TooLong { len, want } => write!(f, "{len} bytes where exactly {want} are allowed"),
            Self::UnknownKind(kind) => write!(f, "unknown kind {kind}"),
            Self::UnknownFlags(flags) => write!(f, "unsupported flags {flags:#x}"),
            Self::ReservedSet(offset) => write!(f, "byte {offset} is reserved and not zero"),
            Self::BadField { offset, value } => {
                write!(f, "the field at byte {offset} holds {value}, which means nothing")
            }
            Self::BadName(error) => fmt::Display::fmt(error, f),
            Self::UnknownStatus(status) => write!(f, "unknown status {status}"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// The whole of a message, if it has exactly its size.
pub(crate) fn exactly<const SIZE: usize>(bytes: &[u8]) -> Result<&[u8; SIZE], DecodeError> {
    if bytes.len() < SIZE {
        return Err(DecodeError::TooShort { len: bytes.len(), want: SIZE });
    }
    bytes.try_into().map_err(|_| DecodeError::TooLong { len: bytes.len(), want: SIZE })
}

/// Refuses bytes that are kept for later versions and not zero.
pub(crate) fn reserved(bytes: &[u8], range: Range<usize>) -> Result<(), DecodeError> {
    let start = range.start;
    match bytes[range].iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => Err(DecodeError::ReservedSet(start + at)),
    }
}

/// The `N` bytes at `offset`. Offsets are constants of this crate, inside the message by its layout.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

pub(crate) fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array(bytes, offset))
}

pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

pub(crate) fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(bytes, offset))
}

/// Writes the little-endian bytes of a field.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], offset: usize, field: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&field);
}

/// A truth value of four bytes: 0 or 1, nothing else.
pub(crate) fn get_bool(bytes: &[u8], offset: usize) -> Result<bool, DecodeError> {
    match get_u32(bytes, offset) {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::BadField { offset, value: value.into() }),
    }
}
