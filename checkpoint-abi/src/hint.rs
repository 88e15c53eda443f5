//! What a program says that it writes, and the bytes of it: the hint table.
//!
//! The table is memory of the program, [`HINT_TABLE_SIZE`] bytes from an address that is a multiple of
//! [`HINT_SIZE`], little-endian:
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | count | hints in the table, at most [`MAX_HINTS`] |
//! | 4 | 12 | reserved | the driver MUST set it to zero, the device MUST ignore it |
//! | 16 | 16 each | hints | |
//!
//! A hint is 64 pages' bits:
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | region u32 | whose pages they are |
//! | 4 | 4 | word u32 | bit `i` is page `64 * word + i` of the region |
//! | 8 | 8 | bits u64 | the pages that are written |

use crate::ids::RegionId;
use crate::wire::{get_u32, get_u64, put};

/// Bytes of a hint, and of the table's header.
pub const HINT_SIZE: usize = 16;
/// Hints that a table can hold. Bounds what one request has the device read.
pub const MAX_HINTS: usize = 2047;
/// Bytes of the table.
pub const HINT_TABLE_SIZE: usize = HINT_SIZE + MAX_HINTS * HINT_SIZE;
/// Pages that a hint speaks of.
pub const HINT_PAGES: u64 = 64;

const _: () = assert!((HINT_TABLE_SIZE as u64).is_multiple_of(crate::PAGE_SIZE));

/// Pages of one region that are written: a claim, whose region and pages need not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The region.
    pub region: RegionId,
    /// Which 64 pages: bit `i` of `bits` is page `64 * word + i`.
    pub word: u32,
    /// Those of them that are written.
    pub bits: u64,
}

impl Hint {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HINT_SIZE] {
        let mut bytes = [0; HINT_SIZE];
        put(&mut bytes, REGION, self.region.0.to_le_bytes());
        put(&mut bytes, WORD, self.word.to_le_bytes());
        put(&mut bytes, BITS, self.bits.to_le_bytes());
        bytes
    }

    /// Reads a hint. Any bytes are one.
    #[must_use]
    pub fn decode(bytes: &[u8; HINT_SIZE]) -> Self {
        Self {
            region: RegionId(get_u32(bytes, REGION)),
            word: get_u32(bytes, WORD),
            bits: get_u64(bytes, BITS),
        }
    }
}

/// The header of a table with so many hints.
#[must_use]
pub fn encode_header(count: u32) -> [u8; HINT_SIZE] {
    let mut bytes = [0; HINT_SIZE];
    put(&mut bytes, COUNT, count.to_le_bytes());
    bytes
}

/// How many hints the table with this header claims to hold; `None` if that's more than can be.
#[must_use]
pub fn decode_header(bytes: &[u8; HINT_SIZE]) -> Option<usize> {
    usize::try_from(get_u32(bytes, COUNT)).ok().filter(|count| *count <= MAX_HINTS)
}

const COUNT: usize = 0;
const REGION: usize = 0;
const WORD: usize = 4;
const BITS: usize = 8;

/// The 64-page words that `pages` has a part in, with their bits; none if `pages` is empty or goes beyond what a
/// word's number can say.
pub fn words(pages: core::ops::Range<u64>) -> impl Iterator<Item = (u32, u64)> {
    let last = pages.end.checked_sub(1).filter(|last| pages.start <= *last);
    let words = last.map(|last| pages.start / HINT_PAGES..=last / HINT_PAGES);
    words.into_iter().flatten().map_while(move |word| {
        let first = pages.start.saturating_sub(word * HINT_PAGES);
        let beyond = (pages.end - word * HINT_PAGES).min(HINT_PAGES);
        let bits = (u64::MAX >> (HINT_PAGES - beyond)) & (u64::MAX << first);
        Some((u32::try_from(word).ok()?, bits))
    })
}
