//! A hash map in an arena.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::{mem, slice};

use siphasher::sip::SipHasher13;

use super::{Full, Heap, RegionData, Vector};

/// Slots of a map with its first entry; a power of two.
const FIRST_SLOTS: usize = 8;

/// Keys with values in an arena's memory, like std's `HashMap`.
///
/// What needs memory returns [`Full`] when the arena has none, and changes nothing then. Entries lie side
/// by side in the order in which they were added, so that adding to a map changes few pages, and so that
/// iterating gives the same order in every run; a removed one leaves its place to the last.
///
/// Hashes are SipHash-1-3 with a key that the arena drew at random when it was made and keeps in its
/// region: who chooses keys without having seen the program's memory can't make them collide. After a
/// rollback it is the same key as before.
#[repr(C)]
pub struct Map<'r, K: RegionData, V: RegionData> {
    entries: Vector<'r, Entry<K, V>>,
    /// The table: 0, or the number of an entry, from 1. A power of two of them, or none, and one in four
    /// is 0 at least.
    slots: Vector<'r, u32>,
    key: (u64, u64),
}

/// A key, its hash and its value.
#[repr(C)]
pub(super) struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<'r, K: RegionData, V: RegionData> Map<'r, K, V> {
    pub(super) fn new(heap: Heap<'r>) -> Self {
        Self { entries: Vector::new(heap), slots: Vector::new(heap), key: heap.hash_key() }
    }

    /// The arena's allocator, for making more to put into it.
    pub fn heap(&mut self) -> Heap<'r> {
        self.entries.heap()
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, in the order in which they were added unless one was removed.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.into_iter()
    }

    /// All entries, with values to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|entry| (&entry.key, &mut entry.value))
    }

    /// All keys, in the order of [`Map::iter`].
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of [`Map::iter`].
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Removes all entries. The memory stays with the map.
    pub fn clear(&mut self) {
        self.slots.fill(0);
        self.entries.clear();
    }
}

impl<K: RegionData + Hash + Eq, V: RegionData> Map<'_, K, V> {
    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(key, self.hash(key)).map(|index| &self.entries[index].value)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.find(key, self.hash(key)).map(|index| &mut self.entries[index].value)
    }

    /// Whether it has the key.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Gives a key a value, and returns the one that it had.
    ///
    /// # Errors
    /// [`Full`]; key and value are dropped.
    pub fn insert(&mut self, key: K, value: V) -> Result<Option<V>, Full> {
        let hash = self.hash(&key);
        if let Some(index) = self.find(&key, hash) {
            return Ok(Some(mem::replace(&mut self.entries[index].value, value)));
        }
        self.reserve_one()?;
        self.entries.push(Entry { hash, key, value })?;
        let number = self.entries.len();
        fill_slot(&mut self.slots, hash, number);
        Ok(None)
    }

    /// Takes a key out, and returns its value. The last entry takes its place.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.find(key, self.hash(key))?;
        let slot = self.slot_of(index);
        let number = self.slots[slot];
        self.empty_slot(slot);
        let last = self.entries.len() - 1;
        if index != last {
            let slot = self.slot_of(last);
            self.slots[slot] = number;
        }
        Some(self.entries.swap_remove(index).value)
    }

    fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// The index of a key's entry.
    fn find<Q: Eq + ?Sized>(&self, key: &Q, hash: u64) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        let matches = |index: &usize| {
            let entry = &self.entries[*index];
            entry.hash == hash && entry.key.borrow() == key
        };
        let numbers = probe(hash, self.slots.len()).map(|slot| self.slots[slot]);
        numbers.map_while(index_of).find(matches)
    }

    /// The slot that leads to an entry. Asks no code of the key's.
    fn slot_of(&self, index: usize) -> usize {
        let mut slots = probe(self.entries[index].hash, self.slots.len());
        slots
            .find(|slot| index_of(self.slots[*slot]) == Some(index))
            .unwrap_or_else(|| unreachable!("every entry has a slot"))
    }

    /// Frees a slot and moves those after it back where a probe still finds them.
    fn empty_slot(&mut self, slot: usize) {
        let mask = self.slots.len() - 1;
        let (mut hole, mut next) = (slot, (slot + 1) & mask);
        while let Some(index) = index_of(self.slots[next]) {
            let home = home(self.entries[index].hash, self.slots.len());
            // Distances along the probe's way, so that the table's end is no special case.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = 0;
    }

    /// Makes room for one more entry in the table.
    fn reserve_one(&mut self) -> Result<(), Full> {
        let wanted = self.entries.len() + 1;
        if wanted <= self.slots.len() / 4 * 3 {
            return Ok(());
        }
        let heap = self.heap();
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        if u32::try_from(slots).is_err() {
            return Err(heap.full(slots * size_of::<u32>()));
        }
        let mut larger = heap.vector();
        larger.resize(slots, 0)?;
        for (index, entry) in self.entries.iter().enumerate() {
            fill_slot(&mut larger, entry.hash, index + 1);
        }
        self.slots = larger;
        Ok(())
    }
}

/// Gives the entry with that number a slot; the table has a free one.
fn fill_slot(slots: &mut [u32], hash: u64, number: usize) {
    let number = u32::try_from(number).unwrap_or_else(|_| unreachable!("there are fewer than slots"));
    if let Some(free) = probe(hash, slots.len()).find(|slot| slots[*slot] == 0) {
        slots[free] = number;
    }
}

/// The entry that a slot's number leads to; none if the slot is free.
fn index_of(number: u32) -> Option<usize> {
    (number as usize).checked_sub(1)
}

/// Where in a table of `slots` slots, a power of two, the search for a hash begins.
fn home(hash: u64, slots: usize) -> usize {
    // All bits of the hash are equally good. Below `slots`, so it is a `usize`.
    usize::try_from(hash & (slots as u64 - 1)).unwrap_or(0)
}

/// All slots in the order in which a hash tries them.
fn probe(hash: u64, slots: usize) -> impl Iterator<Item = usize> + use<> {
    (0..slots).map(move |step| (home(hash, slots) + step) & (slots - 1))
}

/// The entries of a [`Map`].
#[derive(Debug)]
pub struct Iter<'m, K, V> {
    entries: slice::Iter<'m, Entry<K, V>>,
}

impl<'m, K, V> Iterator for Iter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(|entry| (&entry.key, &entry.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<'m, K: RegionData, V: RegionData> IntoIterator for &'m Map<'_, K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = Iter<'m, K, V>;

    fn into_iter(self) -> Iter<'m, K, V> {
        Iter { entries: self.entries.iter() }
    }
}

impl<K, V> fmt::Debug for Entry<K, V>
where
    K: fmt::Debug,
    V: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.key, self.value)
    }
}

impl<K: RegionData + fmt::Debug, V: RegionData + fmt::Debug> fmt::Debug for Map<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}
