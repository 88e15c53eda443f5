//! Which pages of a region, or of all memory, the VMM wrote on the program's behalf: KVM's dirty log doesn't see
//! those.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::layout::{PAGE, to_usize};

/// The pages of one region that system calls may have written. A bit stays until it's taken back.
///
/// A checkpoint asks for the marks of a whole region each time, and as a rule there are none: so a second bitmap says
/// which words may have some. Who marks sets the word's bit first and then this one; who takes the last bit of a word
/// back clears this one first and then looks at the word again. So no mark is overlooked, whoever comes between.
#[derive(Debug)]
pub struct WrittenPages {
    range: Range<u64>,
    words: Box<[AtomicU64]>,
    /// Bit i of word w: `words[64 w + i]` may have marks.
    summary: Box<[AtomicU64]>,
}

impl WrittenPages {
    /// None written yet, of the region at `range` (page-aligned guest addresses).
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        let pages = (range.end - range.start) / PAGE;
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        let words = pages.div_ceil(64);
        Self { range, words: zeros(words), summary: zeros(words.div_ceil(64)) }
    }

    /// The region's addresses.
    #[must_use]
    pub fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// Marks the pages that `span` has in common with the region.
    pub fn mark(&self, span: &Range<u64>) {
        let (start, end) = (span.start.max(self.range.start), span.end.min(self.range.end));
        if end <= start {
            return;
        }
        let (mut page, last) = ((start - self.range.start) / PAGE, (end - 1 - self.range.start) / PAGE);
        while page <= last {
            // All of a word's pages at once: a mapping may have millions.
            let count = (64 - page % 64).min(last - page + 1);
            self.mark_word(to_usize(page / 64), (u64::MAX >> (64 - count)) << (page % 64));
            page += count;
        }
    }

    /// One word of the bitmap: bit i of word w is page 64 w + i.
    #[must_use]
    pub fn load(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Marks the pages in `mask` of one word.
    pub fn mark_word(&self, word: usize, mask: u64) {
        if let Some(marks) = self.words.get(word) {
            marks.fetch_or(mask, Ordering::SeqCst);
            self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::SeqCst);
        }
    }

    /// Whether `range` shares memory with the region.
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        range.start < self.range.end && self.range.start < range.end
    }

    /// Adds the marks to `words`, a bit for each page from the region's start.
    pub fn add_to(&self, words: &mut [u64]) {
        for (index, summary) in self.summary.iter().enumerate() {
            let mut marked = summary.load(Ordering::SeqCst);
            while marked != 0 {
                let at = 64 * index + marked.trailing_zeros() as usize;
                marked &= marked - 1;
                if let Some(word) = words.get_mut(at) {
                    *word |= self.load(at);
                }
            }
        }
    }

    /// Takes back the marks of the pages in `words`, of which the first is word `first` of the bitmap.
    pub fn take_back(&self, first: usize, words: &[u64]) {
        for (index, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            self.clear(first + index, *word);
        }
    }

    /// Takes the marks in `mask` of one word back.
    pub fn clear(&self, word: usize, mask: u64) {
        let Some(marks) = self.words.get(word) else { return };
        let (summary, bit) = (&self.summary[word / 64], 1 << (word % 64));
        // Nothing to take back, as a rule: no reason to write to memory.
        if summary.load(Ordering::SeqCst) & bit == 0 {
            return;
        }
        if marks.fetch_and(!mask, Ordering::SeqCst) & !mask == 0 {
            summary.fetch_and(!bit, Ordering::SeqCst);
            if marks.load(Ordering::SeqCst) != 0 {
                summary.fetch_or(bit, Ordering::SeqCst);
            }
        }
    }

    /// Takes the marks in `mask` of one word back; which there were. Nobody marks meanwhile.
    #[must_use]
    pub fn take(&self, word: usize, mask: u64) -> u64 {
        let marks = self.load(word) & mask;
        if marks != 0 {
            self.clear(word, marks);
        }
        marks
    }

    /// Words of the bitmap.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_every_page_touched_and_no_other() {
        let written = WrittenPages::new(0x10_0000..0x10_0000 + 130 * PAGE);
        written.mark(&(0x10_0000 + 63 * PAGE + 4095..0x10_0000 + 64 * PAGE + 1));
        written.mark(&(0..0x10_0000));
        written.mark(&(0x10_0000 + 129 * PAGE..u64::MAX));
        written.mark(&(0x10_0000..0x10_0000));
        assert_eq!([written.load(0), written.load(1), written.load(2), written.load(3)], [1 << 63, 1, 2, 0]);
        written.clear(0, u64::MAX);
        assert_eq!([written.load(0), written.load(1)], [0, 1]);
    }

    #[test]
    fn what_is_added_is_what_is_marked() {
        let pages = 64 * 64 * 2 + 70;
        let written = WrittenPages::new(0..pages * PAGE);
        let added = || {
            let mut words = vec![0; written.words()];
            written.add_to(&mut words);
            words
        };
        assert!(added().iter().all(|word| *word == 0));
        let marked = [0, 63, 64, 64 * 64 - 1, 64 * 64, pages - 1];
        for page in marked {
            written.mark(&(page * PAGE..page * PAGE + 1));
        }
        for (index, page) in marked.into_iter().enumerate() {
            let all: Vec<u64> = (0..written.words()).map(|word| written.load(word)).collect();
            assert_eq!(added(), all);
            assert_eq!(
                all.iter().map(|word| word.count_ones() as usize).sum::<usize>(),
                marked.len() - index
            );
            written.clear(to_usize(page / 64), 1 << (page % 64));
        }
        assert!(added().iter().all(|word| *word == 0));
        assert!(written.summary.iter().all(|word| word.load(Ordering::SeqCst) == 0));
    }

    #[test]
    fn a_mark_beside_one_that_is_taken_back_is_not_lost() {
        let written = WrittenPages::new(0..64 * PAGE);
        std::thread::scope(|scope| {
            let marks = scope.spawn(|| (0..20_000).for_each(|_| written.mark_word(0, 1)));
            while !marks.is_finished() {
                written.clear(0, 2);
                written.mark_word(0, 2);
                written.clear(0, 1);
            }
        });
        written.mark_word(0, 1);
        written.clear(0, 2);
        let mut words = [0];
        written.add_to(&mut words);
        assert_eq!(words, [1]);
    }
}
