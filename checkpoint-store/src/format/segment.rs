//! A segment's first bytes.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{VERSION, crc};

const MAGIC: [u8; 8] = *b"CAIRNSEG";

/// What a segment begins with. It ties the file to its store and to its number, so that files can't change places.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    magic: [u8; 8],
    version: U32,
    reserved: U32,
    store: [u8; 16],
    number: U64,
    reserved_2: [u8; 20],
    crc: U32,
}

/// Bytes of it.
pub(crate) const SEGMENT_HEADER: usize = size_of::<SegmentHeader>();
const _: () = assert!(SEGMENT_HEADER == 64);

impl SegmentHeader {
    pub(crate) fn new(store: [u8; 16], number: u64) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: U32::ZERO,
            store,
            number: number.into(),
            reserved_2: [0; 20],
            crc: U32::ZERO,
        };
        header.crc = header.checksum().into();
        header
    }

    fn checksum(&self) -> u32 {
        crc(&self.as_bytes()[..SEGMENT_HEADER - 4])
    }

    /// Whether the header is that of segment `number` of `store`, or why not. A version is checked apart.
    pub(crate) fn check(&self, store: [u8; 16], number: u64) -> Result<(), &'static str> {
        if self.magic != MAGIC {
            return Err("no segment: its first bytes are not CAIRNSEG");
        }
        if self.version.get() == VERSION && self.crc.get() != self.checksum() {
            return Err("the segment's header doesn't match its checksum");
        }
        if self.store != store {
            return Err("a segment of another store");
        }
        if self.number.get() != number {
            return Err(
                "the segment is in the place of another: its header has another number than its name",
            );
        }
        Ok(())
    }

    pub(crate) fn version(&self) -> u32 {
        self.version.get()
    }
}

/// The file of segment `number`.
pub(crate) fn file_name(number: u64) -> String {
    format!("segment-{number:010}")
}

/// The number of the segment in the file `name`.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("segment-")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}
