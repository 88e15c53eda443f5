//! Which pages of a region, or of all memory, the VMM wrote on the program's behalf: KVM's dirty log doesn't see
//! those.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::layout::{PAGE, to_usize};

/// The pages of one region that system calls may have written. A bit stays until it's taken back.
#[derive(Debug)]
pub struct WrittenPages {
    range: Range<u64>,
    words: Box<[AtomicU64]>,
}

impl WrittenPages {
    /// None written yet, of the region at `range` (page-aligned guest addresses).
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        let pages = (range.end - range.start) / PAGE;
        let words = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { range, words }
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
            self.word(page).fetch_or((u64::MAX >> (64 - count)) << (page % 64), Ordering::Relaxed);
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
        if let Some(word) = self.words.get(word) {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// Whether `range` shares memory with the region.
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        range.start < self.range.end && self.range.start < range.end
    }

    /// Adds the marks to `words`, a bit for each page from the region's start.
    pub fn add_to(&self, words: &mut [u64]) {
        for (word, marked) in words.iter_mut().zip(&self.words) {
            *word |= marked.load(Ordering::Relaxed);
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
        if let Some(word) = self.words.get(word) {
            word.fetch_and(!mask, Ordering::Relaxed);
        }
    }

    /// Takes all marks of one word back; which there were.
    #[must_use]
    pub fn take(&self, word: usize) -> u64 {
        // Most words are empty, and a look costs less than a swap.
        match self.words.get(word) {
            Some(word) if word.load(Ordering::Relaxed) != 0 => word.swap(0, Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Words of the bitmap.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words.len()
    }

    fn word(&self, page: u64) -> &AtomicU64 {
        &self.words[to_usize(page / 64)]
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
}
