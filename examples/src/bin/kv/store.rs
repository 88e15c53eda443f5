//! The store: an index and a log of records, both in regions.

use cairn_guest::{Error, Region, Session};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One key's place in the index. All zeros: nobody's.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Slot {
    hash: usize,
    /// Where the record begins in the log: the key's bytes, then the value's.
    start: usize,
    /// Bytes of the key, never 0 in a slot that is in use.
    key_len: usize,
    value_len: usize,
}

/// What is known of the store as a whole.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    /// Keys that there are.
    keys: usize,
    /// Bytes of the log up to which records, live or dead, were written.
    end: usize,
    /// Bytes of live records.
    live: usize,
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
}

/// Figures for STATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) keys: usize,
    pub(crate) max_keys: usize,
    pub(crate) live_bytes: usize,
    pub(crate) log_bytes: usize,
    pub(crate) max_bytes: usize,
}

/// Handles of the store's regions.
#[derive(Debug)]
pub(crate) struct Store {
    max_keys: usize,
    head: Region<Head>,
    index: Region<Slot>,
    log: Region<u8>,
}

impl Store {
    /// An empty store for `max_keys` keys and `bytes` bytes of keys and values together.
    pub(crate) fn new(session: &mut Session, max_keys: usize, bytes: usize) -> Result<Self, Error> {
        // Half as many again, so that probes stay short and always end at a free slot.
        let slots = max_keys.saturating_add(max_keys / 2).saturating_add(1);
        Ok(Self {
            max_keys,
            head: session.region("head", 1)?,
            index: session.region("index", slots)?,
            log: session.region("log", bytes)?,
        })
    }

    /// The value of `key`.
    pub(crate) fn get<'s>(&self, session: &'s Session, key: &[u8]) -> Option<&'s [u8]> {
        let (index, log) = (session.slice(&self.index), session.slice(&self.log));
        let at = find(index, log, key).ok()?;
        Some(index[at].value(log))
    }

    /// Gives `key`, which is not empty, a value.
    pub(crate) fn set(&self, session: &mut Session, key: &[u8], value: &[u8]) -> Result<(), Full> {
        let (head, index, log) = session.slices_mut((&self.head, &self.index, &self.log));
        let head = &mut head[0];
        let found = find(index, log, key);
        let replaced = found.map_or(0, |at| index[at].len());
        if found.is_err() && head.keys == self.max_keys {
            return Err(Full::Keys(head.keys));
        }
        let needed = key.len() + value.len();
        let free = log.len() - head.live + replaced;
        if free < needed {
            return Err(Full::Bytes { needed, free });
        }
        if let Ok(at) = found
            && log.len() - head.end < needed
        {
            // The old record must not survive the compaction that makes room for the new one.
            remove(index, at);
            head.keys -= 1;
            head.live -= replaced;
        }
        if log.len() - head.end < needed {
            compact(head, index, log);
        }
        let at = find(index, log, key).inspect(|_| head.live -= replaced).unwrap_or_else(|free| {
            head.keys += 1;
            free
        });
        log[head.end..][..key.len()].copy_from_slice(key);
        log[head.end + key.len()..][..value.len()].copy_from_slice(value);
        index[at] = Slot { hash: hash(key), start: head.end, key_len: key.len(), value_len: value.len() };
        head.end += needed;
        head.live += needed;
        Ok(())
    }

    /// Removes `key`; false if there is no such key.
    pub(crate) fn delete(&self, session: &mut Session, key: &[u8]) -> bool {
        let (head, index, log) = session.slices_mut((&self.head, &self.index, &self.log));
        let Ok(at) = find(index, log, key) else { return false };
        head[0].keys -= 1;
        head[0].live -= index[at].len();
        remove(index, at);
        true
    }

    /// All keys with their values, sorted by key.
    pub(crate) fn sorted<'s>(&self, session: &'s Session) -> Vec<(&'s [u8], &'s [u8])> {
        let log = session.slice(&self.log);
        let used = session.slice(&self.index).iter().filter(|slot| slot.in_use());
        let mut all: Vec<_> = used.map(|slot| (slot.key(log), slot.value(log))).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn stats(&self, session: &Session) -> Stats {
        let head = &session.slice(&self.head)[0];
        Stats {
            keys: head.keys,
            max_keys: self.max_keys,
            live_bytes: head.live,
            log_bytes: head.end,
            max_bytes: self.log.len(),
        }
    }
}

impl Slot {
    const FREE: Self = Self { hash: 0, start: 0, key_len: 0, value_len: 0 };

    fn in_use(&self) -> bool {
        self.key_len != 0
    }

    fn len(&self) -> usize {
        self.key_len + self.value_len
    }

    fn key<'l>(&self, log: &'l [u8]) -> &'l [u8] {
        &log[self.start..][..self.key_len]
    }

    fn value<'l>(&self, log: &'l [u8]) -> &'l [u8] {
        &log[self.start + self.key_len..][..self.value_len]
    }
}

fn hash(key: &[u8]) -> usize {
    cairn_examples::hash(key.iter().copied())
}

/// The slot of `key`, or else the free slot where it belongs. The index always has a free slot.
fn find(index: &[Slot], log: &[u8], key: &[u8]) -> Result<usize, usize> {
    let hash = hash(key);
    let mut at = hash % index.len();
    loop {
        let slot = &index[at];
        if !slot.in_use() {
            return Err(at);
        }
        if slot.hash == hash && slot.key(log) == key {
            return Ok(at);
        }
        at = (at + 1) % index.len();
    }
}

/// Frees a slot and moves those after it back where a probe still finds them.
fn remove(index: &mut [Slot], at: usize) {
    let len = index.len();
    let mut hole = at;
    let mut next = (hole + 1) % len;
    while index[next].in_use() {
        let home = index[next].hash % len;
        // Distances along the probe's way, so that the end of the index is no special case.
        if (next + len - home) % len >= (next + len - hole) % len {
            index[hole] = index[next];
            hole = next;
        }
        next = (next + 1) % len;
    }
    index[hole] = Slot::FREE;
}

/// Moves all live records to the front of the log, in their order.
fn compact(head: &mut Head, index: &mut [Slot], log: &mut [u8]) {
    let mut live: Vec<_> = (0..index.len()).filter(|at| index[*at].in_use()).collect();
    live.sort_unstable_by_key(|at| index[*at].start);
    head.end = 0;
    for at in live {
        let slot = &mut index[at];
        log.copy_within(slot.start..slot.start + slot.len(), head.end);
        slot.start = head.end;
        head.end += slot.len();
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
