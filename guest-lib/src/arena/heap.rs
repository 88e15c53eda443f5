//! What makes collections in an arena.

use std::fmt;
use std::marker::PhantomData;

use super::memory::{Memory, header};
use super::{Map, RegionData, Text, Vector};

/// An arena's memory has no room. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the arena is full: {needed} bytes in one piece are needed, and {free} of its {size} are free in all: make it larger"
)]
pub struct Full {
    /// Bytes that were needed.
    pub needed: usize,
    /// Bytes that are free, in all pieces together.
    pub free: usize,
    /// Bytes of the arena.
    pub size: usize,
}

/// The allocator of the arena with the brand `'r`: a copy of this stands in every collection.
///
/// It is had from a root's collections ([`Map::heap`]) and can't be stored or sent to another thread.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Heap<'r> {
    pub(super) memory: Memory,
    brand: PhantomData<Brand<'r>>,
}

/// Exactly this lifetime, no shorter and no longer; and one thread.
type Brand<'r> = (fn(&'r ()) -> &'r (), *mut ());

impl<'r> Heap<'r> {
    /// For an arena that is lent with the brand `'r`, or has no root yet.
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, brand: PhantomData }
    }

    /// An empty vector.
    #[must_use]
    pub fn vector<T: RegionData>(self) -> Vector<'r, T> {
        Vector::new(self)
    }

    /// An empty map.
    #[must_use]
    pub fn map<K: RegionData, V: RegionData>(self) -> Map<'r, K, V> {
        Map::new(self)
    }

    /// A copy of a text.
    ///
    /// # Errors
    /// [`Full`].
    pub fn text(self, text: &str) -> Result<Text<'r>, Full> {
        let mut copy = Text::new(self);
        copy.push_str(text)?;
        Ok(copy)
    }

    /// A vector of copies of elements.
    ///
    /// # Errors
    /// [`Full`].
    pub fn copy_of<T: RegionData + Copy>(self, elements: &[T]) -> Result<Vector<'r, T>, Full> {
        let mut copy = Vector::new(self);
        copy.extend_from_slice(elements)?;
        Ok(copy)
    }

    /// Bytes that are free, in all pieces together. Each piece that is taken costs 8 bytes more, and 32 at
    /// least.
    #[must_use]
    pub fn free(self) -> usize {
        self.memory.free()
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn size(self) -> usize {
        self.memory.len()
    }

    /// Why `needed` bytes can't be had.
    pub(super) fn full(self, needed: usize) -> Full {
        Full { needed, free: self.free(), size: self.size() }
    }

    /// The key of this arena's hashes.
    pub(super) fn hash_key(self) -> (u64, u64) {
        (self.memory.word(header::SEED), self.memory.word(header::SEED + 8))
    }
}

impl fmt::Debug for Heap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("size", &self.size()).field("free", &self.free()).finish()
    }
}
