//! What the program says that it writes: gathered as it comes, and put into the hint table for the device.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use cairn_abi::hint::{self, HINT_PAGES, HINT_SIZE, HINT_TABLE_SIZE, MAX_HINTS};
use cairn_abi::{Hint, RegionId, Span};

use crate::PAGE;

/// Words of a hint, and of the table's header.
const HINT_WORDS: usize = HINT_SIZE / 8;
/// Words of the table.
const TABLE_WORDS: usize = HINT_TABLE_SIZE / 8;
/// Words of a page.
const PAGE_WORDS: usize = PAGE / 8;
const _: () = assert!(HINT_WORDS == 2);

/// The hints of all regions that the device wasn't told yet.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    regions: Vec<Gathered>,
}

/// The hints of one region.
#[derive(Debug)]
struct Gathered {
    region: RegionId,
    /// A bit for each page.
    words: Vec<u64>,
    /// The words that may hold any.
    touched: Range<usize>,
}

/// The table. The device reads it, so it's made of atomics like the ring.
#[derive(Debug)]
pub(crate) struct HintTable(Box<Table>);

#[derive(Debug)]
#[repr(C, align(4096))]
struct Table([AtomicU64; TABLE_WORDS]);

impl Hints {
    /// Adds pages of a region that has `pages` of them. What is beyond these is left out.
    pub(crate) fn add(&mut self, region: RegionId, pages: u64, hinted: Range<u64>) {
        let gathered = match self.regions.iter_mut().position(|known| known.region == region) {
            Some(at) => &mut self.regions[at],
            None => {
                let words = vec![0; usize::try_from(pages.div_ceil(HINT_PAGES)).unwrap_or(0)];
                let new = Gathered { region, words, touched: 0..0 };
                self.regions.push(new);
                let last = self.regions.len() - 1;
                &mut self.regions[last]
            }
        };
        for (word, bits) in hint::words(hinted.start..hinted.end.min(pages)) {
            gathered.add(word as usize, bits);
        }
    }

    /// Forgets a region that ended.
    pub(crate) fn forget(&mut self, region: RegionId) {
        self.regions.retain(|known| known.region != region);
    }

    /// Whether there is anything to tell.
    pub(crate) fn any(&self) -> bool {
        self.regions.iter().any(|region| !region.touched.is_empty())
    }

    /// Moves hints into `table` until it's full or there are none left.
    pub(crate) fn fill(&mut self, table: &HintTable) {
        let mut count = 0;
        for gathered in &mut self.regions {
            while count < MAX_HINTS
                && let Some(hint) = gathered.next()
            {
                table.put(count, hint);
                count += 1;
            }
        }
        table.set_count(count);
    }
}

impl Gathered {
    fn add(&mut self, word: usize, bits: u64) {
        let Some(known) = self.words.get_mut(word) else { return };
        *known |= bits;
        self.touched = if self.touched.is_empty() {
            word..word + 1
        } else {
            self.touched.start.min(word)..self.touched.end.max(word + 1)
        };
    }

    /// Takes the first hint.
    fn next(&mut self) -> Option<Hint> {
        let words = &mut self.words[self.touched.clone()];
        let Some(at) = words.iter().position(|bits| *bits != 0) else {
            self.touched = 0..0;
            return None;
        };
        let bits = std::mem::take(&mut words[at]);
        let word = self.touched.start + at;
        self.touched.start = word + 1;
        Some(Hint { region: self.region, word: u32::try_from(word).unwrap_or(u32::MAX), bits })
    }
}

impl HintTable {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self(Box::new(Table([const { AtomicU64::new(0) }; TABLE_WORDS])))
    }

    /// Where it is: an address that the device may read by.
    pub(crate) fn span(&self) -> Span {
        let address = std::ptr::from_ref(&*self.0).expose_provenance() as u64;
        Span { address, len: HINT_TABLE_SIZE as u64 }
    }

    /// Says that there are no hints in it.
    pub(crate) fn clear(&self) {
        self.set_count(0);
    }

    /// Makes the pages present that the device reads: the count's, and those of so many hints. No others, as where the
    /// guest's kernel takes pages away all the time it would take the first while the last is brought back.
    pub(crate) fn touch(&self) {
        let mut header = [0; HINT_SIZE];
        header[..8].copy_from_slice(&self.0.0[0].load(Ordering::Relaxed).to_le_bytes());
        let count = hint::decode_header(&header).unwrap_or(MAX_HINTS);
        for word in self.0.0[..(1 + count) * HINT_WORDS].iter().step_by(PAGE_WORDS) {
            word.fetch_add(0, Ordering::Relaxed);
        }
    }

    fn put(&self, index: usize, hint: Hint) {
        self.put_words(1 + index, hint.encode());
    }

    fn set_count(&self, count: usize) {
        // A count is at most MAX_HINTS.
        self.put_words(0, hint::encode_header(u32::try_from(count).unwrap_or(0)));
        // The device sees it when it sees the request, whoever publishes that.
        fence(Ordering::SeqCst);
    }

    fn put_words(&self, slot: usize, bytes: [u8; HINT_SIZE]) {
        let (words, _) = bytes.as_chunks::<8>();
        for (word, bytes) in self.0.0[slot * HINT_WORDS..].iter().zip(words) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the table, as the device reads it.
    fn read(table: &HintTable) -> Vec<Hint> {
        let bytes: Vec<u8> =
            table.0.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        let (slots, _) = bytes.as_chunks::<HINT_SIZE>();
        let count = hint::decode_header(&slots[0]).expect("a count in its bounds");
        slots[1..=count].iter().map(Hint::decode).collect()
    }

    fn hint(region: u32, word: u32, bits: u64) -> Hint {
        Hint { region: RegionId(region), word, bits }
    }

    #[test]
    fn hints_are_gathered_by_word_and_used_up() {
        let (mut hints, table) = (Hints::default(), HintTable::new());
        assert!(!hints.any());
        for pages in [70..72, 3..4, 62..65, 3..4, 130..400, 9..9] {
            hints.add(RegionId(2), 131, pages);
        }
        hints.add(RegionId(1), 1, 0..1);
        hints.forget(RegionId(1));
        assert!(hints.any());
        hints.fill(&table);
        assert_eq!(read(&table), [hint(2, 0, 1 << 3 | 3 << 62), hint(2, 1, 1 | 3 << 6), hint(2, 2, 1 << 2)]);
        assert!(!hints.any());
        hints.fill(&table);
        assert_eq!(read(&table), []);
        assert_eq!(table.span().address % PAGE as u64, 0);
    }

    #[test]
    fn what_does_not_fit_stays_for_the_next_table() {
        let (mut hints, table) = (Hints::default(), HintTable::new());
        let pages = (MAX_HINTS as u64 + 2) * HINT_PAGES;
        hints.add(RegionId(1), pages, 0..pages);
        hints.fill(&table);
        assert_eq!(read(&table).len(), MAX_HINTS);
        assert!(hints.any());
        hints.fill(&table);
        let last = u32::try_from(MAX_HINTS).unwrap();
        assert_eq!(read(&table), [hint(1, last, u64::MAX), hint(1, last + 1, u64::MAX)]);
        assert!(!hints.any());
    }
}
