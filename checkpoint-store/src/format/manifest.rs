//! The manifest: which segments there are, and where the checkpoints of the finished ones are.

use std::io::{self, Read};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_BYTES, MAX_ID, VERSION, crc, len32};

const MAGIC: [u8; 8] = *b"CAIRNMAN";
/// Its name.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// Where a new one is written before it takes the old one's name.
pub(crate) const MANIFEST_NEW: &str = "MANIFEST.new";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    store: [u8; 16],
    generation: U64,
    active: U64,
    next_segment: U64,
    oldest_kept: U64,
    keep: U64,
    segments: U32,
    checkpoints: U32,
}

/// A segment.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct Segment {
    pub(crate) number: U64,
    /// Bytes of it that count; what is behind them never happened.
    pub(crate) length: U64,
}

/// Where a checkpoint is and what its commit record says.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) id: U64,
    /// The checkpoint that it was made after, 0 for none.
    pub(crate) parent: U64,
    /// The checkpoint that its unnamed pages are taken from, 0 for none.
    pub(crate) base: U64,
    pub(crate) time_ms: U64,
    pub(crate) segment: U64,
    /// Where its first record begins in the segment.
    pub(crate) at: U64,
    /// Bytes of its records.
    pub(crate) group: U64,
    /// Where its index record begins, from `at`.
    pub(crate) index_at: U64,
    pub(crate) index_crc: U32,
    pub(crate) objects: U32,
}

/// A manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    /// What all files of the store have in common, random.
    pub(crate) store: [u8; 16],
    /// One more with each manifest.
    pub(crate) generation: u64,
    /// The segment that is appended to. Its checkpoints are found by reading it.
    pub(crate) active: u64,
    /// The number of the next segment.
    pub(crate) next_segment: u64,
    /// Checkpoints below this are gone, but for what newer ones take from them.
    pub(crate) oldest_kept: u64,
    /// How many of the newest are kept, 0 for all: readers count, so that the manifest needn't follow each commit.
    pub(crate) keep: u64,
    /// The finished segments, ascending.
    pub(crate) segments: Vec<Segment>,
    /// The checkpoints of the finished segments, ascending by id.
    pub(crate) checkpoints: Vec<Entry>,
}

/// Why bytes are no manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ManifestError {
    Version(u32),
    Damaged(&'static str),
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            crc: U32::ZERO,
            store: self.store,
            generation: self.generation.into(),
            active: self.active.into(),
            next_segment: self.next_segment.into(),
            oldest_kept: self.oldest_kept.into(),
            keep: self.keep.into(),
            segments: len32(self.segments.len()).into(),
            checkpoints: len32(self.checkpoints.len()).into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(self.segments.as_bytes());
        bytes.extend_from_slice(self.checkpoints.as_bytes());
        let sum = crc(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The generation that the first bytes of a manifest say.
    pub(crate) fn generation_of(mut file: impl Read) -> io::Result<u64> {
        let mut bytes = [0; size_of::<Header>()];
        file.read_exact(&mut bytes)?;
        let header: Header = zerocopy::transmute!(bytes);
        Ok(header.generation.get())
    }

    /// Reads a manifest. All that it claims of order and places is checked here; whether segments hold what it says
    /// is not known yet.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        const SHORT: ManifestError = ManifestError::Damaged("shorter or longer than its counts say");
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| SHORT)?;
        if header.magic != MAGIC {
            return Err(ManifestError::Damaged("its first bytes are not CAIRNMAN"));
        }
        if header.version.get() != VERSION {
            return Err(ManifestError::Version(header.version.get()));
        }
        let mut digest = crc32fast::Hasher::new();
        digest.update(&bytes[..12]);
        digest.update(&[0; 4]);
        digest.update(&bytes[16..]);
        if digest.finalize() != header.crc.get() {
            return Err(ManifestError::Damaged("it doesn't match its checksum"));
        }
        let (segments, rest) = <[Segment]>::ref_from_prefix_with_elems(rest, header.segments.get() as usize)
            .map_err(|_| SHORT)?;
        let checkpoints = <[Entry]>::ref_from_bytes_with_elems(rest, header.checkpoints.get() as usize)
            .map_err(|_| SHORT)?;
        let manifest = Self {
            store: header.store,
            generation: header.generation.get(),
            active: header.active.get(),
            next_segment: header.next_segment.get(),
            oldest_kept: header.oldest_kept.get(),
            keep: header.keep.get(),
            segments: segments.to_vec(),
            checkpoints: checkpoints.to_vec(),
        };
        manifest.check().map_err(ManifestError::Damaged)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), &'static str> {
        if !self.segments.is_sorted_by(|one, next| one.number.get() < next.number.get()) {
            return Err("its segments are not in order");
        }
        let known = |number| self.segments.binary_search_by_key(&number, |segment| segment.number.get()).ok();
        let beyond = |segment: &Segment| self.next_segment <= segment.number.get();
        if known(self.active).is_some()
            || self.next_segment <= self.active
            || MAX_ID < self.next_segment.max(self.generation)
            || self.segments.iter().any(beyond)
        {
            return Err("its segment numbers contradict each other");
        }
        let lengths = sum(self.segments.iter().map(|segment| segment.length.get()));
        let groups = sum(self.checkpoints.iter().map(|entry| entry.group.get()));
        if lengths.zip(groups).is_none_or(|(lengths, groups)| lengths < groups) {
            return Err("its segments or checkpoints have more bytes than there can be");
        }
        if !self.checkpoints.is_sorted_by(|one, next| one.id.get() < next.id.get()) {
            return Err("its checkpoints are not in order");
        }
        for entry in &self.checkpoints {
            let id = entry.id.get();
            if id == 0 || id <= entry.parent.get() || id <= entry.base.get() {
                return Err("a checkpoint is older than its parent");
            }
            if MAX_ID < id {
                return Err("a checkpoint whose id is beyond its bound");
            }
            let end = entry.at.get().checked_add(entry.group.get());
            let fits = known(entry.segment.get())
                .is_some_and(|place| end.is_some_and(|end| end <= self.segments[place].length.get()));
            if !fits || entry.group.get() < entry.index_at.get() {
                return Err("a checkpoint lies outside of its segment");
            }
        }
        Ok(())
    }
}

/// The sum of lengths that may be anything, if a store can have so many bytes.
fn sum(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0_u64, u64::checked_add).filter(|sum| *sum <= MAX_BYTES)
}
