//! The table of counts: a map in an arena, with a checksum that notices damage.

use cairn_guest::arena::{Arena, Full, Map, Vector};
use cairn_guest::{Error, Session, region_data};

use crate::input::Position;

region_data! {
    struct Counts<'r> {
        words: Map<'r, Vector<'r, u8>, u64>,
        /// The wrapping sum of all words' digests.
        checksum: u64,
        /// Which line was to be read next when the table was as it is.
        next: Position,
    }
}

/// A handle of the table; everything else about it is in the arena.
#[derive(Debug)]
pub(crate) struct Table {
    counts: Arena<Counts<'static>>,
}

impl Table {
    /// An empty table that may take `bytes` bytes.
    pub(crate) fn new(session: &mut Session, bytes: usize) -> Result<Self, Error> {
        let counts = session.arena::<Counts>("counts", bytes, |heap| {
            Ok(Counts { words: heap.map(), checksum: 0, next: Position::default() })
        })?;
        Ok(Self { counts })
    }

    /// Which line is to be read next.
    pub(crate) fn next(&self, session: &Session) -> Position {
        session.read(&self.counts, |counts| counts.next)
    }

    /// Counts the words of a line, behind which the text goes on at `next`.
    pub(crate) fn count_line(&self, session: &mut Session, line: &[u8], next: Position) -> Result<(), Full> {
        session.with(&self.counts, |counts| {
            counts.next = next;
            let words = line.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
            words.into_iter().try_for_each(|word| counts.count(word))
        })
    }

    /// Adds everything up again and compares with what was noted on the way.
    pub(crate) fn is_sound(&self, session: &Session) -> bool {
        session.read(&self.counts, |counts| {
            let digests = counts.words.iter().map(|(word, count)| digest(word, *count));
            digests.fold(0, u64::wrapping_add) == counts.checksum
        })
    }

    /// All words with their counts, sorted by the words' bytes.
    pub(crate) fn sorted<'s>(&self, session: &'s Session) -> Vec<(&'s [u8], u64)> {
        let mut words: Vec<_> = session.read(&self.counts, |counts| {
            counts.words.iter().map(|(word, count)| (word.as_slice(), *count)).collect()
        });
        words.sort_unstable();
        words
    }

    /// Overwrites the checksum and a quarter of the counts as a stray write would.
    pub(crate) fn damage(&self, session: &mut Session) {
        const STRAY: u64 = 0xa5a5_a5a5_a5a5_a5a5;
        session.with(&self.counts, |counts| {
            counts.checksum ^= STRAY;
            let quarter = counts.words.len() / 4;
            counts.words.values_mut().skip(quarter).take(quarter).for_each(|count| *count = STRAY);
        });
    }
}

impl Counts<'_> {
    fn count(&mut self, word: &[u8]) -> Result<(), Full> {
        let (before, after) = match self.words.get_mut(word) {
            Some(count) => {
                let before = *count;
                *count = before.wrapping_add(1);
                (digest(word, before), digest(word, *count))
            }
            None => {
                let copy = self.words.heap().copy_of(word)?;
                self.words.insert(copy, 1)?;
                (0, digest(word, 1))
            }
        };
        self.checksum = self.checksum.wrapping_sub(before).wrapping_add(after);
        Ok(())
    }
}

/// A number that changes with the word and the count.
fn digest(word: &[u8], count: u64) -> u64 {
    cairn_examples::hash(word.iter().copied().chain(count.to_le_bytes())) as u64
}

#[cfg(test)]
mod tests {
    use cairn_guest::EngineKind;

    use super::*;

    fn table(bytes: usize) -> (Session, Table) {
        let mut session = Session::open_with(EngineKind::FullCopy).unwrap();
        let table = Table::new(&mut session, bytes).unwrap();
        (session, table)
    }

    fn count(session: &mut Session, table: &Table, line: &[u8]) -> Result<(), Full> {
        table.count_line(session, line, Position::default())
    }

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let (mut session, table) = table(1 << 16);
        count(&mut session, &table, b"-- a b,a \xffB7\tb\na").unwrap();
        let expected: [(&[u8], u64); 3] = [(b"B7", 1), (b"a", 3), (b"b", 2)];
        assert_eq!(table.sorted(&session), expected);
        assert!(table.is_sound(&session));
    }

    #[test]
    fn damage_to_anything_is_noticed() {
        let (mut session, table) = table(1 << 16);
        count(&mut session, &table, b"one two three three").unwrap();
        let sound = session.checkpoint().unwrap();
        let changes: [fn(&mut Counts<'_>); 5] = [
            |counts| counts.checksum ^= 1,
            |counts| counts.words.values_mut().for_each(|count| *count += 1),
            |counts| *counts.words.get_mut(&b"two"[..]).unwrap() = 0,
            |counts| assert!(counts.words.remove(&b"one"[..]).is_some()),
            |counts| counts.words.clear(),
        ];
        for change in changes {
            session.with(&table.counts, change);
            assert!(!table.is_sound(&session));
            session.rollback(sound).unwrap();
            assert!(table.is_sound(&session));
        }
    }

    #[test]
    fn a_damaged_table_can_be_counted_in_and_stays_damaged() {
        let (mut session, table) = table(1 << 20);
        for word in 0..1000 {
            count(&mut session, &table, format!("{word} again").as_bytes()).unwrap();
        }
        table.damage(&mut session);
        for word in 0..2000 {
            count(&mut session, &table, format!("{word} again").as_bytes()).unwrap();
        }
        assert!(!table.is_sound(&session));
    }

    #[test]
    fn a_full_table_says_so_and_is_sound() {
        let (mut session, table) = table(1 << 16);
        let mut words = 0..10_000;
        let full = words.find_map(|word| count(&mut session, &table, format!("{word}").as_bytes()).err());
        assert_eq!(full.map(|full| full.size), Some(1 << 16));
        assert!(table.is_sound(&session));
    }
}
