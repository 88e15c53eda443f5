//! The bytes of a store's files. `docs/store-format.md` draws them.
//!
//! Everything is little-endian and of fixed size up to a length that its header names; each header and each payload
//! has a CRC-32. Nothing here opens a file.

pub(crate) mod index;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod segment;

/// Version of the format. It changes when a reader of before would misread what is written now.
pub(crate) const VERSION: u32 = 2;
/// The greatest id of a checkpoint and the greatest number of a segment: what is read can be counted on from.
pub(crate) const MAX_ID: u64 = 1 << 63;
/// Bytes of a store, at most: they can be added up.
pub(crate) const MAX_BYTES: u64 = 1 << 62;
/// Bytes of a block before compression, at most; so what a reader allocates for one.
pub(crate) const BLOCK_BYTES: usize = 128 << 10;
/// Blocks of fewer bytes are stored as they are.
pub(crate) const COMPRESS_FROM: usize = 64 << 10;
/// Bytes of an index, at most. It is never compressed, so a reader allocates what is in the file and no more.
pub(crate) const MAX_INDEX_BYTES: usize = 1 << 30;
/// Bytes of a manifest, at most.
pub(crate) const MAX_MANIFEST_BYTES: usize = 256 << 20;
/// Deltas between a checkpoint and a complete one that a reader follows, at most.
pub(crate) const MAX_CHAIN: usize = 1024;

/// The checksum of all headers and payloads.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A length within the bounds above as the format writes it.
pub(crate) fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("bounded by the format's constants")
}

/// A length as the format's 64-bit numbers have it.
pub(crate) fn len64(len: usize) -> u64 {
    len as u64
}
