//! The table of counts: open addressing in regions, with a checksum that notices damage.

use cairn_guest::{Error, Region, Session};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::input::Position;

/// Slots of a new table, a power of two.
const FIRST_SLOTS: usize = 4096;
/// Bytes of a new table's words.
const FIRST_BYTES: usize = 64 << 10;

/// One word and how often it was seen. A free slot is all zeros.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Slot {
    /// Of the word.
    hash: usize,
    /// Where the word's bytes begin among the words.
    start: usize,
    /// Bytes of the word.
    len: usize,
    /// 0 in a free slot.
    count: usize,
}

/// What is known of the table as a whole.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    /// Which line was to be read next when the table was as it is.
    next: Position,
    /// The wrapping sum of all slots' digests.
    checksum: usize,
    /// Slots in use.
    words: usize,
    /// Bytes in use.
    bytes: usize,
}

/// The table contradicts itself: something overwrote a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// Handles of the table's regions; everything else about it is in them.
#[derive(Debug)]
pub(crate) struct Table {
    head: Region<Head>,
    slots: Region<Slot>,
    bytes: Region<u8>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(session: &mut Session) -> Result<Self, Error> {
        Ok(Self {
            head: session.region("head", 1)?,
            slots: slots_region(session, FIRST_SLOTS)?,
            bytes: bytes_region(session, FIRST_BYTES)?,
        })
    }

    /// Which line is to be read next.
    pub(crate) fn next(&self, session: &Session) -> Position {
        session.slice(&self.head)[0].next
    }

    /// Notes which line is to be read next.
    pub(crate) fn set_next(&self, session: &mut Session, next: Position) {
        session.slice_mut(&self.head)[0].next = next;
    }

    /// Whether `len` more bytes of text fit, whatever words they are: a word takes two bytes at least, one of them
    /// to part it from the next, and a quarter of the slots stays free so that probes stay short.
    pub(crate) fn has_room(&self, session: &Session, len: usize) -> bool {
        let head = &session.slice(&self.head)[0];
        slots_suffice(self.slots.len(), head, len) && bytes_suffice(self.bytes.len(), head, len)
    }

    /// Makes room for `len` more bytes of text by moving into bigger regions. Checkpoints from before can't be
    /// rolled back to afterwards, because they hold the old regions.
    pub(crate) fn grow(&mut self, session: &mut Session, len: usize) -> Result<(), Error> {
        let head = session.slice(&self.head)[0];
        let slots = doubled_until(self.slots.len(), |slots| slots_suffice(slots, &head, len));
        if slots != self.slots.len() {
            let bigger = slots_region(session, slots)?;
            let (old, new) = session.slices_mut((&self.slots, &bigger));
            for slot in old.iter().filter(|slot| slot.count != 0) {
                if let Some(free) = probe(new, slot.hash).find(|at| new[*at].count == 0) {
                    new[free] = *slot;
                }
            }
            session.drop_region(std::mem::replace(&mut self.slots, bigger))?;
        }
        let bytes = doubled_until(self.bytes.len(), |bytes| bytes_suffice(bytes, &head, len));
        if bytes != self.bytes.len() {
            let bigger = bytes_region(session, bytes)?;
            let (old, new) = session.slices_mut((&self.bytes, &bigger));
            new[..old.len()].copy_from_slice(old);
            session.drop_region(std::mem::replace(&mut self.bytes, bigger))?;
        }
        Ok(())
    }

    /// Counts the words of a line for which there is room.
    pub(crate) fn count_line(&self, session: &mut Session, line: &[u8]) -> Result<(), Damaged> {
        let (head, slots, bytes) = session.slices_mut((&self.head, &self.slots, &self.bytes));
        let words = line.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.into_iter().try_for_each(|word| count(&mut head[0], slots, bytes, word))
    }

    /// Adds everything up again and compares with what was noted on the way.
    pub(crate) fn verify(&self, session: &Session) -> Result<(), Damaged> {
        let head = &session.slice(&self.head)[0];
        let slots = session.slice(&self.slots);
        let bytes = session.slice(&self.bytes);
        let used = slots.iter().filter(|slot| slot.count != 0);
        let checksum = slots.iter().fold(0, |sum: usize, slot| sum.wrapping_add(slot.digest()));
        let words_match = used.clone().all(|slot| {
            slot.word(bytes).is_some_and(|word| cairn_examples::hash(word.iter().copied()) == slot.hash)
        });
        let sound = checksum == head.checksum && used.count() == head.words && words_match;
        if sound { Ok(()) } else { Err(Damaged) }
    }

    /// All words with their counts, sorted by the words' bytes.
    pub(crate) fn sorted<'s>(&self, session: &'s Session) -> Result<Vec<(&'s [u8], usize)>, Damaged> {
        let bytes = session.slice(&self.bytes);
        let used = session.slice(&self.slots).iter().filter(|slot| slot.count != 0);
        let mut words = used
            .map(|slot| Ok((slot.word(bytes).ok_or(Damaged)?, slot.count)))
            .collect::<Result<Vec<_>, Damaged>>()?;
        words.sort_unstable();
        Ok(words)
    }

    /// Overwrites a quarter of the slots as a stray write would.
    pub(crate) fn damage(&self, session: &mut Session) {
        const STRAY: usize = 0xa5a5_a5a5_a5a5_a5a5;
        let slots = session.slice_mut(&self.slots);
        let quarter = slots.len() / 4;
        slots[quarter..2 * quarter].fill(Slot { hash: STRAY, start: STRAY, len: STRAY, count: STRAY });
    }
}

impl Slot {
    /// The word, if the slot names bytes that exist.
    fn word<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        bytes.get(self.start..self.start.checked_add(self.len)?)
    }

    /// A number that changes with every field and is 0 for a free slot.
    fn digest(&self) -> usize {
        const ODD: usize = 0x9e37_79b9_7f4a_7c15;
        [self.hash, self.start, self.len, self.count]
            .into_iter()
            .fold(0, |sum: usize, field| (sum.rotate_left(23) ^ field).wrapping_mul(ODD))
    }
}

fn count(head: &mut Head, slots: &mut [Slot], bytes: &mut [u8], word: &[u8]) -> Result<(), Damaged> {
    let hash = cairn_examples::hash(word.iter().copied());
    for at in probe(slots, hash) {
        let before = slots[at];
        let after = if before.count == 0 {
            let start = head.bytes;
            let place =
                start.checked_add(word.len()).and_then(|end| bytes.get_mut(start..end)).ok_or(Damaged)?;
            place.copy_from_slice(word);
            head.bytes += word.len();
            head.words += 1;
            Slot { hash, start, len: word.len(), count: 1 }
        } else if before.hash == hash && before.word(bytes).ok_or(Damaged)? == word {
            Slot { count: before.count.wrapping_add(1), ..before }
        } else {
            continue;
        };
        slots[at] = after;
        head.checksum = head.checksum.wrapping_sub(before.digest()).wrapping_add(after.digest());
        return Ok(());
    }
    // A sound table always has free slots.
    Err(Damaged)
}

/// All slots, from the one where a word of this hash belongs.
fn probe(slots: &[Slot], hash: usize) -> impl Iterator<Item = usize> + use<> {
    let len = slots.len();
    let first = hash % len;
    (first..len).chain(0..first)
}

fn slots_suffice(slots: usize, head: &Head, len: usize) -> bool {
    head.words.saturating_add(len.div_ceil(2)) <= slots / 4 * 3
}

fn bytes_suffice(bytes: usize, head: &Head, len: usize) -> bool {
    head.bytes.saturating_add(len) <= bytes
}

/// `size`, doubled until it suffices or can't be doubled; making a region of that size then fails by itself.
fn doubled_until(size: usize, suffices: impl Fn(usize) -> bool) -> usize {
    let mut sizes = std::iter::successors(Some(size), |size| size.checked_mul(2));
    sizes.find(|size| suffices(*size)).unwrap_or(usize::MAX)
}

fn slots_region(session: &mut Session, slots: usize) -> Result<Region<Slot>, Error> {
    session.region(&format!("slots of {slots}"), slots)
}

fn bytes_region(session: &mut Session, bytes: usize) -> Result<Region<u8>, Error> {
    session.region(&format!("words in {bytes}"), bytes)
}

#[cfg(test)]
mod tests {
    use cairn_guest::EngineKind;

    use super::*;

    fn table() -> (Session, Table) {
        let mut session = Session::open_with(EngineKind::FullCopy).unwrap();
        let table = Table::new(&mut session).unwrap();
        (session, table)
    }

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let (mut session, table) = table();
        table.count_line(&mut session, b"-- a b,a \xffB7\tb\na").unwrap();
        let expected: [(&[u8], usize); 3] = [(b"B7", 1), (b"a", 3), (b"b", 2)];
        assert_eq!(table.sorted(&session).unwrap(), expected);
        table.verify(&session).unwrap();
    }

    #[test]
    fn damage_to_any_field_is_noticed() {
        let (mut session, table) = table();
        table.count_line(&mut session, b"one two three").unwrap();
        let used = session.slice(&table.slots).iter().position(|slot| slot.count != 0).unwrap();
        let changes: [fn(&mut Slot); 5] = [
            |slot| slot.hash ^= 1,
            |slot| slot.start += 1,
            |slot| slot.len = usize::MAX,
            |slot| slot.count += 1,
            |slot| slot.count = 0,
        ];
        for change in changes {
            let sound = session.slice(&table.slots)[used];
            change(&mut session.slice_mut(&table.slots)[used]);
            assert_eq!(table.verify(&session), Err(Damaged));
            session.slice_mut(&table.slots)[used] = sound;
            table.verify(&session).unwrap();
        }
        session.slice_mut(&table.bytes)[0] ^= 1;
        assert_eq!(table.verify(&session), Err(Damaged));
    }

    #[test]
    fn counting_in_a_damaged_table_does_not_panic() {
        let (mut session, table) = table();
        table.damage(&mut session);
        for word in 0..2000 {
            if table.count_line(&mut session, format!("{word} again").as_bytes()).is_err() {
                break;
            }
        }
        assert_eq!(table.verify(&session), Err(Damaged));
        assert_eq!(table.sorted(&session), Err(Damaged));
    }

    #[test]
    fn a_bigger_table_has_the_same_counts() {
        let (mut session, mut table) = table();
        table.count_line(&mut session, b"x y x").unwrap();
        assert!(!table.has_room(&session, 1 << 20));
        table.grow(&mut session, 1 << 20).unwrap();
        assert!(table.has_room(&session, 1 << 20));
        table.verify(&session).unwrap();
        let expected: [(&[u8], usize); 2] = [(b"x", 2), (b"y", 1)];
        assert_eq!(table.sorted(&session).unwrap(), expected);
    }

    #[test]
    fn room_ends_exactly_where_a_quarter_stays_free() {
        let head = Head { next: Position::default(), checksum: 0, words: 0, bytes: 0 };
        assert!(slots_suffice(8, &head, 12));
        assert!(!slots_suffice(8, &head, 13));
        assert!(bytes_suffice(8, &head, 8));
        assert!(!bytes_suffice(8, &head, 9));
        assert_eq!(doubled_until(1, |_| false), usize::MAX);
    }
}
