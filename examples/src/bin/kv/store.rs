//! The store: a map in an arena.

use cairn_guest::arena::{self, Arena, Map, Vector};
use cairn_guest::{Error, Session, region_data};

/// Bytes of the arena for each key beside its own and its value's: an entry of the map, twice more while the map
/// grows, its place in the table, and the ends of two pieces of memory.
const KEY_COST: usize = 300;
/// Bytes of the arena beside all that: its header, and the root.
const ARENA_COST: usize = 8192;

region_data! {
    struct Pairs<'r> {
        values: Map<'r, Vector<'r, u8>, Vector<'r, u8>>,
        /// Bytes of all keys and values.
        bytes: usize,
    }
}

/// Why a key could not be set. The store is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// There are as many keys as fit; holds how many.
    #[error("the store is full: it has {0} keys (--keys makes room for more)")]
    Keys(usize),
    /// So many bytes would be needed, and so many are free.
    #[error("the store is full: {needed} bytes are needed and {free} are free (--room makes room for more)")]
    Bytes { needed: usize, free: usize },
    /// What is free is in pieces that are too small.
    #[error("the store is full: {0} (--room makes room for more)")]
    Pieces(#[from] arena::Full),
}

/// Figures for STATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) keys: usize,
    pub(crate) max_keys: usize,
    pub(crate) bytes: usize,
    pub(crate) max_bytes: usize,
}

/// A handle of the store, and its limits.
#[derive(Debug)]
pub(crate) struct Store {
    max_keys: usize,
    max_bytes: usize,
    pairs: Arena<Pairs<'static>>,
}

impl Store {
    /// An empty store for `max_keys` keys and `max_bytes` bytes of keys and values together.
    pub(crate) fn new(session: &mut Session, max_keys: usize, max_bytes: usize) -> Result<Self, Error> {
        // Twice the bytes, because what is free is not always in one piece.
        let room = max_bytes.saturating_mul(2).saturating_add(ARENA_COST);
        let size = max_keys.saturating_mul(KEY_COST).saturating_add(room);
        let pairs =
            session.arena::<Pairs>("pairs", size, |heap| Ok(Pairs { values: heap.map(), bytes: 0 }))?;
        Ok(Self { max_keys, max_bytes, pairs })
    }

    /// The value of `key`.
    pub(crate) fn get<'s>(&self, session: &'s Session, key: &[u8]) -> Option<&'s [u8]> {
        session.read(&self.pairs, |pairs| pairs.values.get(key).map(Vector::as_slice))
    }

    /// Gives `key` a value.
    pub(crate) fn set(&self, session: &mut Session, key: &[u8], value: &[u8]) -> Result<(), Full> {
        session.with(&self.pairs, |pairs| {
            let before = pairs.values.get(key).map(|value| key.len() + value.len());
            if before.is_none() && pairs.values.len() == self.max_keys {
                return Err(Full::Keys(self.max_keys));
            }
            let others = pairs.bytes - before.unwrap_or(0);
            let (needed, free) = (key.len() + value.len(), self.max_bytes - others);
            if free < needed {
                return Err(Full::Bytes { needed, free });
            }
            let heap = pairs.values.heap();
            pairs.values.insert(heap.copy_of(key)?, heap.copy_of(value)?)?;
            pairs.bytes = others + needed;
            Ok(())
        })
    }

    /// Removes `key`; false if there is no such key.
    pub(crate) fn delete(&self, session: &mut Session, key: &[u8]) -> bool {
        session.with(&self.pairs, |pairs| {
            let removed = pairs.values.remove(key);
            pairs.bytes -= removed.as_ref().map_or(0, |value| key.len() + value.len());
            removed.is_some()
        })
    }

    /// All keys with their values, sorted by key.
    pub(crate) fn sorted<'s>(&self, session: &'s Session) -> Vec<(&'s [u8], &'s [u8])> {
        let mut all: Vec<_> = session.read(&self.pairs, |pairs| {
            pairs.values.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect()
        });
        all.sort_unstable();
        all
    }

    pub(crate) fn stats(&self, session: &Session) -> Stats {
        let (keys, bytes) = session.read(&self.pairs, |pairs| (pairs.values.len(), pairs.bytes));
        Stats { keys, max_keys: self.max_keys, bytes, max_bytes: self.max_bytes }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
