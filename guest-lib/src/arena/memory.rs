//! The bytes of an arena: its header's words, its root, and the pointers into it.

use std::arch::asm;
use std::ptr;

use crate::memory::Block;

/// Where the header's words are, as bytes from the region's begin. All of it is in the first page.
pub(super) mod header {
    /// [`super::MAGIC`].
    pub(in crate::arena) const MAGIC: usize = 0;
    /// [`super::VERSION`].
    pub(in crate::arena) const VERSION: usize = 8;
    /// A hash of the root type's name.
    pub(in crate::arena) const IDENTITY: usize = 16;
    /// Bytes of the root.
    pub(in crate::arena) const ROOT_BYTES: usize = 24;
    /// The address that the region has while the arena is in use.
    pub(in crate::arena) const BASE: usize = 32;
    /// Bytes of the region.
    pub(in crate::arena) const LEN: usize = 40;
    /// Where the memory begins that no block has.
    pub(in crate::arena) const TOP: usize = 48;
    /// Bytes of all free blocks below that.
    pub(in crate::arena) const FREE: usize = 56;
    /// Two words that nobody outside can guess: the key of the maps' hashes.
    pub(in crate::arena) const SEED: usize = 64;
    /// A bit for each bin that has a block.
    pub(in crate::arena) const BITMAP: usize = 80;
    /// The first block of each bin.
    pub(in crate::arena) const BINS: usize = BITMAP + 8 * super::BINS.div_ceil(64);
}

/// The first bytes of an arena's region.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"cairnAR\n");
/// Changes whenever the header, the blocks or the collections are laid out in another way.
pub(super) const VERSION: u64 = 1;
/// Lists of free blocks.
pub(super) const BINS: usize = 192;
/// Bytes of the header; the root follows.
pub(super) const HEADER_BYTES: usize = (header::BINS + 8 * BINS).next_multiple_of(GRAIN);
/// To what everything in an arena is aligned at most.
pub(super) const GRAIN: usize = 16;
const _: () = assert!(HEADER_BYTES < crate::memory::PAGE);

/// An arena's memory, by the address of its first byte. Not a pointer: what is stored in the region must
/// mean the same after its bytes were written back by someone who knows nothing of pointers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Memory(usize);

impl Memory {
    /// # Safety
    /// `block` is whole pages, at least one. As long as the value or a copy of it is used, the block
    /// stays mapped and its bytes are reached through it and through what [`Memory::pointer`] and
    /// [`Memory::root`] gave alone.
    pub(super) unsafe fn of(block: &Block) -> Self {
        Self(block.start().as_ptr().expose_provenance())
    }

    /// Memory of its own that stays for ever.
    #[cfg(test)]
    pub(super) fn leaked(len: usize) -> Self {
        let block = std::mem::ManuallyDrop::new(Block::map(len).unwrap());
        // SAFETY: nobody else knows the block, and it is never unmapped.
        unsafe { Self::of(&block) }
    }

    /// The address of the first byte.
    pub(super) fn address(self) -> usize {
        self.0
    }

    /// Bytes of the region.
    pub(super) fn len(self) -> usize {
        self.offset(header::LEN)
    }

    /// The word at byte `at`, of the header, or of a block's ends that no value lies on.
    pub(super) fn word(self, at: usize) -> u64 {
        self.check(at);
        // SAFETY: `check` keeps it in the region and aligned. Regions are initialised memory: zeros at
        // first, and `settle` makes them so after every use. The allocator, its only caller beside the
        // header's, asks for words outside of blocks in use, where no reference points.
        unsafe { self.pointer::<u64>(at).read() }
    }

    /// Changes the word at byte `at`.
    pub(super) fn set_word(self, at: usize, value: u64) {
        self.check(at);
        // SAFETY: as in `word`; nothing else runs in this arena meanwhile, because all that can name it
        // is tied to the thread (`Heap` is neither Send nor Sync).
        unsafe { self.pointer::<u64>(at).write(value) }
    }

    /// A word that is an offset or a size.
    pub(super) fn offset(self, at: usize) -> usize {
        // The only platform has 64 bits; a larger number could come from no `usize`.
        usize::try_from(self.word(at)).unwrap_or(usize::MAX)
    }

    /// Changes such a word.
    pub(super) fn set_offset(self, at: usize, value: usize) {
        self.set_word(at, value as u64);
    }

    /// # Panics
    /// If the word isn't in the region: a mistake in the allocator, which must not become a stray write.
    fn check(self, at: usize) {
        let inside = at < HEADER_BYTES || at <= self.len() - 8;
        assert!(inside && at.is_multiple_of(8), "an arena's list of blocks leads to byte {at}");
    }

    /// Byte `at`. Following it needs the reasons that following any pointer needs.
    pub(super) fn pointer<T>(self, at: usize) -> *mut T {
        ptr::with_exposed_provenance_mut(self.0.wrapping_add(at))
    }

    /// Puts the root there for the first time.
    ///
    /// # Safety
    /// `R` fits behind the header, no block begins there, and no reference to an earlier root is left.
    pub(super) unsafe fn write_root<R>(self, root: R) {
        // SAFETY: the caller made room for it; the header ends at a multiple of GRAIN.
        unsafe { self.pointer::<R>(HEADER_BYTES).write(root) }
    }

    /// The root.
    ///
    /// # Safety
    /// [`Memory::write_root`] put an `R` there (whatever lifetimes it had), and for `'a` nothing else
    /// makes a reference to it.
    pub(super) unsafe fn root_mut<'a, R>(self) -> &'a mut R {
        // SAFETY: the caller's promise. Only the root's own bytes are lent: what it refers to in other
        // blocks is reached by addresses.
        unsafe { &mut *self.pointer(HEADER_BYTES) }
    }

    /// The root, to be read.
    ///
    /// # Safety
    /// [`Memory::write_root`] put an `R` there, and for `'a` nothing writes to the arena.
    pub(super) unsafe fn root<'a, R>(self) -> &'a R {
        // SAFETY: the caller's promise.
        unsafe { &*self.pointer(HEADER_BYTES) }
    }

    /// Makes every byte of the region a definite one for the compiler.
    ///
    /// A struct that was stored may have left padding, which the language calls uninitialised, and engines
    /// read regions byte by byte. The machine has no uninitialised bytes; this empty piece of assembly,
    /// which the compiler must take to read and write all exposed memory, says so. It costs no instruction.
    fn settle(self) {
        // SAFETY: no instruction. Read as code that writes to each byte what the machine has there, it
        // changes no value, and nobody borrows from the arena: see `InUse`.
        unsafe { asm!("/* {} */", in(reg) self.0, options(nostack, preserves_flags)) }
    }
}

/// A use of an arena that may write to it. Settles its bytes when it ends, in whatever way, which is after
/// all references into the arena and before any engine can read them.
#[derive(Debug)]
pub(super) struct InUse(Memory);

impl InUse {
    pub(super) fn begin(memory: Memory) -> Self {
        Self(memory)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.settle();
    }
}
