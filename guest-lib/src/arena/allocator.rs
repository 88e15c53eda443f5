//! The allocator of an arena. All that it knows is in the region, so a rollback takes it back as well.
//!
//! Memory behind the root is a row of blocks and then, from `TOP` on, what was never given out or came
//! back from the row's end. Offsets are bytes from the region's begin.
//!
//! ```text
//!       b                b+8                                 b+len-8    b+len
//! used  | len, flags     | the caller's bytes                            | next block
//! free  | len, flags     | next in bin  | previous in bin | ... | len    | next block
//! ```
//!
//! Two free blocks never touch, and none touches `TOP`. Free blocks hang in bins by size, so that taking
//! and giving back cost a bounded number of steps. Memory above `TOP` isn't written: a region's pages are
//! taken, and become dirty, as they are used.

use super::Full;
use super::memory::{BINS, GRAIN, HEADER_BYTES, Memory, header};

/// Bytes of a block's own word.
const OWN: usize = 8;
/// The smallest block: it must hold what a free one needs.
const LEAST: usize = 32;
/// The block is free.
const FREE: usize = 1;
/// The block before it is free, and its length is in the word before this block.
const AFTER_FREE: usize = 2;
/// Lengths are multiples of [`GRAIN`], which leaves these bits.
const FLAGS: usize = GRAIN - 1;
/// Sizes, in grains, from which on several share a bin: four bins for each power of two.
const SHARED_BINS_FROM: usize = 32;
/// Blocks of the request's own bin that are tried: they may be smaller than the request.
const TRIED: usize = 8;

impl Memory {
    /// Makes an empty row behind a root of `root` bytes, in a region of `len` bytes whose header is zeros.
    pub(super) fn initialise(self, len: usize, root: usize) -> Result<(), Full> {
        let top = HEADER_BYTES
            .checked_add(root)
            .and_then(|end| (end + OWN).checked_next_multiple_of(GRAIN))
            .map(|payload| payload - OWN);
        let top = top.filter(|top| *top <= len - OWN).ok_or(Full { needed: root, free: 0, size: len })?;
        self.set_offset(header::LEN, len);
        self.set_offset(header::TOP, top);
        Ok(())
    }

    /// Bytes that no block in use has, in however many pieces.
    pub(super) fn free(self) -> usize {
        self.offset(header::FREE) + self.end() - self.offset(header::TOP)
    }

    /// Takes `bytes` bytes, aligned to [`GRAIN`]: where they are, and how many there are at least.
    pub(super) fn allocate(self, bytes: usize) -> Result<(usize, usize), Full> {
        let full = || Full { needed: bytes, free: self.free(), size: self.len() };
        let len = block_len(bytes).ok_or_else(full)?;
        if let Some(block) = self.find(len) {
            self.unlink(block);
            let given = self.give(block, self.block(block), len);
            return Ok((block + OWN, given - OWN));
        }
        let top = self.offset(header::TOP);
        if self.end() - top < len {
            return Err(full());
        }
        self.set_offset(header::TOP, top + len);
        self.set_offset(top, len);
        Ok((top + OWN, len - OWN))
    }

    /// Gives back what [`Memory::allocate`] gave.
    pub(super) fn release(self, at: usize) {
        let (mut block, mut len) = (at - OWN, self.block(at - OWN));
        let next = block + len;
        if self.offset(block) & AFTER_FREE != 0 {
            let before = self.offset(block - 8);
            block -= before;
            len += before;
            self.unlink(block);
        }
        if next == self.offset(header::TOP) {
            self.set_offset(header::TOP, block);
            return;
        }
        if self.offset(next) & FREE != 0 {
            self.unlink(next);
            len += self.block(next);
        } else {
            self.set_offset(next, self.offset(next) | AFTER_FREE);
        }
        self.link(block, len);
    }

    /// Makes what was allocated at least `bytes` long where it is, if the memory behind it is free: how
    /// long it is then.
    pub(super) fn extend(self, at: usize, bytes: usize) -> Option<usize> {
        let block = at - OWN;
        let (len, wanted) = (self.block(block), block_len(bytes)?);
        if wanted <= len {
            return Some(len - OWN);
        }
        let next = block + len;
        if next == self.offset(header::TOP) {
            if self.end() - block < wanted {
                return None;
            }
            self.set_offset(header::TOP, block + wanted);
            self.set_offset(block, wanted | self.offset(block) & FLAGS);
            return Some(wanted - OWN);
        }
        let there = self.block(next);
        if self.offset(next) & FREE == 0 || len + there < wanted {
            return None;
        }
        self.unlink(next);
        Some(self.give(block, len + there, wanted) - OWN)
    }

    /// Makes the `there` bytes from `block` on, which are in no list, a used block of at least `wanted`
    /// bytes, and a free one of what is left. A block in use follows.
    fn give(self, block: usize, there: usize, wanted: usize) -> usize {
        let after_free = self.offset(block) & AFTER_FREE;
        let rest = there - wanted;
        if LEAST <= rest {
            self.link(block + wanted, rest);
            self.set_offset(block, wanted | after_free);
            return wanted;
        }
        let next = block + there;
        self.set_offset(next, self.offset(next) & !AFTER_FREE);
        self.set_offset(block, there | after_free);
        there
    }

    /// A free block of at least `len` bytes.
    fn find(self, len: usize) -> Option<usize> {
        let own = bin(len);
        let mut block = self.offset(header::BINS + 8 * own);
        for _ in 0..TRIED {
            if block == 0 {
                break;
            }
            if len <= self.block(block) {
                return Some(block);
            }
            block = self.offset(block + 8);
        }
        // Every block of a later bin is larger.
        let later = (own + 1)..BINS;
        let mut at = later.start;
        while later.contains(&at) {
            let bits = self.word(header::BITMAP + 8 * (at / 64)) >> (at % 64);
            if bits != 0 {
                return Some(self.offset(header::BINS + 8 * (at + bits.trailing_zeros() as usize)));
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Makes the `len` bytes from `block` on a free block of a bin.
    fn link(self, block: usize, len: usize) {
        let bin = bin(len);
        let first = self.offset(header::BINS + 8 * bin);
        self.set_offset(block, len | FREE);
        self.set_offset(block + 8, first);
        self.set_offset(block + 16, 0);
        self.set_offset(block + len - 8, len);
        if first != 0 {
            self.set_offset(first + 16, block);
        }
        self.set_bin(bin, block);
        self.set_offset(header::FREE, self.offset(header::FREE) + len);
    }

    /// Takes a free block out of its bin. Its own word stays.
    fn unlink(self, block: usize) {
        let len = self.block(block);
        let (next, previous) = (self.offset(block + 8), self.offset(block + 16));
        if next != 0 {
            self.set_offset(next + 16, previous);
        }
        if previous == 0 {
            self.set_bin(bin(len), next);
        } else {
            self.set_offset(previous + 8, next);
        }
        self.set_offset(header::FREE, self.offset(header::FREE) - len);
    }

    fn set_bin(self, bin: usize, first: usize) {
        self.set_offset(header::BINS + 8 * bin, first);
        let (word, bit) = (header::BITMAP + 8 * (bin / 64), 1 << (bin % 64));
        let others = self.word(word) & !bit;
        self.set_word(word, if first == 0 { others } else { others | bit });
    }

    /// Bytes of a block.
    fn block(self, block: usize) -> usize {
        self.offset(block) & !FLAGS
    }

    /// Where the last block may end.
    fn end(self) -> usize {
        self.len() - OWN
    }
}

/// Bytes of a block for `bytes` bytes.
fn block_len(bytes: usize) -> Option<usize> {
    bytes.checked_add(OWN)?.max(LEAST).checked_next_multiple_of(GRAIN)
}

/// The bin of blocks of `len` bytes: each of the small sizes has one of its own.
fn bin(len: usize) -> usize {
    let grains = len / GRAIN;
    if grains < SHARED_BINS_FROM {
        return grains;
    }
    let power = grains.ilog2() as usize;
    let quarter = (grains >> (power - 2)) & 3;
    let first = SHARED_BINS_FROM.ilog2() as usize;
    (SHARED_BINS_FROM + (power - first) * 4 + quarter).min(BINS - 1)
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
