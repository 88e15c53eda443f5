//! A set of pages of one region, as a bitmap.

use std::collections::TryReserveError;
use std::ops::Range;

/// Pages that one word of a [`PageSet`] covers.
pub(crate) const WORD_PAGES: usize = 64;

/// A set of pages of one region: bit `i` of word `w` is page `64 * w + i`.
///
/// The layout is that of `KVM_GET_DIRTY_LOG` and `KVM_CLEAR_DIRTY_LOG`, so a tracker can hand the words to the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageSet {
    words: Vec<u64>,
    pages: usize,
}

impl PageSet {
    /// An empty set for a region of `pages` pages.
    ///
    /// # Errors
    /// There's no memory for the bitmap.
    pub fn new(pages: usize) -> Result<Self, TryReserveError> {
        let len = pages.div_ceil(WORD_PAGES);
        let mut words = Vec::new();
        words.try_reserve_exact(len)?;
        words.resize(len, 0);
        Ok(Self { words, pages })
    }

    /// A set for a region without pages, which takes a set's place while that is elsewhere.
    pub(crate) fn nothing() -> Self {
        Self { words: Vec::new(), pages: 0 }
    }

    /// Pages in the region, in the set or not.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The bitmap.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The bitmap, to be written. Bits beyond the region's last page are ignored by the engine.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Adds `page`. A page beyond the region is ignored.
    pub fn insert(&mut self, page: usize) {
        if page < self.pages {
            self.words[page / WORD_PAGES] |= 1 << (page % WORD_PAGES);
        }
    }

    /// Removes `page`.
    pub fn remove(&mut self, page: usize) {
        if page < self.pages {
            self.words[page / WORD_PAGES] &= !(1 << (page % WORD_PAGES));
        }
    }

    /// Whether `page` is in the set.
    #[must_use]
    pub fn contains(&self, page: usize) -> bool {
        page < self.pages && self.words[page / WORD_PAGES] >> (page % WORD_PAGES) & 1 == 1
    }

    /// Adds every page of the region.
    pub fn fill(&mut self) {
        self.words.fill(u64::MAX);
        self.trim();
    }

    /// Removes every page.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds the pages of `other`, a set of the same region.
    pub fn union_with(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        self.trim();
    }

    /// Removes the pages of `other`, a set of the same region.
    pub fn subtract(&mut self, other: &Self) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// Removes the pages that aren't in `other`, a set of the same region.
    pub fn intersect_with(&mut self, other: &Self) {
        for (word, kept) in self.words.iter_mut().zip(&other.words) {
            *word &= kept;
        }
    }

    /// Removes the pages that `keep` says no to; it is asked about every page in the set.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut from = 0;
        while let Some(at) = self.next_word(from) {
            from = at + 1;
            let mut bits = self.words[at];
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if !keep(at * WORD_PAGES + bit) {
                    self.words[at] &= !(1 << bit);
                }
            }
        }
    }

    /// Adds `pages`. What is beyond the region is ignored.
    pub fn insert_run(&mut self, pages: Range<usize>) {
        self.each_word(pages, |word, bits| *word |= bits);
    }

    /// Removes `pages`.
    pub(crate) fn remove_run(&mut self, pages: Range<usize>) {
        self.each_word(pages, |word, bits| *word &= !bits);
    }

    /// Hands each word that `pages` has a part in to `change`, with the bits of that part.
    fn each_word(&mut self, pages: Range<usize>, change: impl Fn(&mut u64, u64)) {
        let end = pages.end.min(self.pages);
        let mut at = pages.start;
        while at < end {
            let (word, bit) = (at / WORD_PAGES, at % WORD_PAGES);
            let count = (end - at).min(WORD_PAGES - bit);
            change(&mut self.words[word], u64::MAX >> (WORD_PAGES - count) << bit);
            at += count;
        }
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next_word(0).is_none()
    }

    /// Pages in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The pages in the set, in ascending order.
    #[must_use]
    pub fn iter(&self) -> Pages<'_> {
        Pages::new(&self.words, 0)
    }

    /// The pages in the set as runs, in ascending order, each as long as can be.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(from)?;
            from = run.end;
            Some(run)
        })
    }

    /// The first run from page `from` on.
    pub(crate) fn next_run(&self, from: usize) -> Option<Range<usize>> {
        let start = self.next_page(from)?;
        Some(start..self.next_gap(start))
    }

    /// The first page from `from` on that is in the set.
    pub(crate) fn next_page(&self, from: usize) -> Option<usize> {
        let (word, bit) = (from / WORD_PAGES, from % WORD_PAGES);
        let first = self.words.get(word)? & (u64::MAX << bit);
        if first != 0 {
            return Some(word * WORD_PAGES + first.trailing_zeros() as usize);
        }
        let word = self.next_word(word + 1)?;
        Some(word * WORD_PAGES + self.words[word].trailing_zeros() as usize)
    }

    /// The first page after `page`, which is in the set, that isn't, or the end of the region.
    pub(crate) fn next_gap(&self, page: usize) -> usize {
        let (word, bit) = (page / WORD_PAGES, page % WORD_PAGES);
        let first = !self.words[word] & (u64::MAX << bit);
        if first != 0 {
            return self.pages.min(word * WORD_PAGES + first.trailing_zeros() as usize);
        }
        let full = self.words[word + 1..].iter().take_while(|word| **word == u64::MAX).count();
        let word = word + 1 + full;
        let ones = self.words.get(word).map_or(0, |word| word.trailing_ones() as usize);
        self.pages.min(word * WORD_PAGES + ones)
    }

    /// The first word from `from` on that isn't zero.
    #[inline]
    pub(crate) fn next_word(&self, from: usize) -> Option<usize> {
        next_word(&self.words, from)
    }

    /// Removes all but the first `budget` pages, and adds them to `rest`, a set of the same region. Takes what
    /// stays from `budget`. Returns whether any was removed.
    pub(crate) fn keep_first(&mut self, budget: &mut u64, rest: &mut Self) -> bool {
        let (mut from, mut removed) = (0, false);
        while let Some(at) = self.next_word(from) {
            from = at + 1;
            let (mut stays, mut later) = (0, self.words[at]);
            while later != 0 && 0 < *budget {
                let first = later & later.wrapping_neg();
                (stays, later) = (stays | first, later & !first);
                *budget -= 1;
            }
            self.words[at] = stays;
            rest.words[at] |= later;
            removed |= later != 0;
        }
        removed
    }

    /// Bytes of the bitmap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.words.as_slice())
    }

    /// Clears the bits beyond the last page, which a tracker may have set.
    pub(crate) fn trim(&mut self) {
        let tail = self.pages % WORD_PAGES;
        if tail != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << tail) - 1;
        }
    }
}

impl<'a> IntoIterator for &'a PageSet {
    type Item = usize;
    type IntoIter = Pages<'a>;

    fn into_iter(self) -> Pages<'a> {
        self.iter()
    }
}

/// The first word from `from` on that isn't zero.
///
/// A gigabyte has 4096 words and most are zero: eight at a time are skipped, which compiles to vector code.
#[inline]
pub(crate) fn next_word(words: &[u64], mut from: usize) -> Option<usize> {
    let mut rest = words.get(from..)?;
    while let Some((block, later)) = rest.split_first_chunk::<8>() {
        if block.iter().fold(0, |all, word| all | word) != 0 {
            break;
        }
        rest = later;
        from += 8;
    }
    rest.iter().position(|&word| word != 0).map(|at| from + at)
}

/// The pages of a [`PageSet`], or of some words of it, ascending.
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    words: &'a [u64],
    /// The first word's first page.
    first: usize,
    /// What is left of the word before `word`.
    bits: u64,
    word: usize,
}

impl<'a> Pages<'a> {
    /// The pages of `words`, the first of which is page `first`.
    pub(crate) fn new(words: &'a [u64], first: usize) -> Self {
        Self { words, first, bits: 0, word: 0 }
    }
}

impl Iterator for Pages<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.bits == 0 {
            let word = next_word(self.words, self.word)?;
            self.bits = self.words[word];
            self.word = word + 1;
        }
        let bit = self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(self.first + (self.word - 1) * WORD_PAGES + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn pages_come_back_in_order_across_words() {
        let mut set = PageSet::new(70_000).unwrap();
        let pages: BTreeSet<usize> = [0, 1, 63, 64, 511, 512, 4095, 69_999].into();
        for &page in &pages {
            set.insert(page);
        }
        assert!(set.iter().eq(pages.iter().copied()));
        assert_eq!(set.count(), pages.len());
        set.remove(64);
        assert!(!set.contains(64));
        assert!(set.contains(63));
    }

    #[test]
    fn nothing_beyond_the_last_page() {
        let mut set = PageSet::new(65).unwrap();
        set.insert(65);
        assert!(set.is_empty());
        set.fill();
        assert_eq!(set.count(), 65);
        set.words_mut()[1] = u64::MAX;
        set.trim();
        assert_eq!(set.count(), 65);
        assert!(!set.contains(65));
    }

    #[test]
    fn runs_are_as_long_as_can_be() {
        let mut set = PageSet::new(1000).unwrap();
        let runs = [0..1, 62..65, 128..192, 200..800, 999..1000];
        runs.iter().cloned().flatten().for_each(|page| set.insert(page));
        assert!(set.runs().eq(runs));
        set.fill();
        assert!(set.runs().eq(std::iter::once(0..1000)));
        set.clear();
        assert_eq!(set.runs().next(), None);
    }

    #[test]
    fn what_one_set_has_and_another_has_not() {
        let set = |pages: &[usize]| {
            let mut set = PageSet::new(130).unwrap();
            pages.iter().for_each(|&page| set.insert(page));
            set
        };
        let (mut one, mut two) = (set(&[1, 64, 129]), set(&[1, 64, 129]));
        one.subtract(&set(&[2, 64]));
        two.intersect_with(&set(&[2, 64]));
        assert_eq!((one, two), (set(&[1, 129]), set(&[64])));
    }

    #[test]
    fn a_budget_cuts_a_set_in_two() {
        let pages = [0, 1, 63, 64, 129];
        for kept in 0..7 {
            let (mut set, mut rest) = (PageSet::new(130).unwrap(), PageSet::new(130).unwrap());
            pages.iter().for_each(|&page| set.insert(page));
            let mut budget = kept as u64;
            assert_eq!(set.keep_first(&mut budget, &mut rest), kept < pages.len());
            let (first, last) = pages.split_at(kept.min(pages.len()));
            assert!(set.iter().eq(first.iter().copied()) && rest.iter().eq(last.iter().copied()));
            assert_eq!(budget, kept.saturating_sub(pages.len()) as u64);
        }
    }

    #[test]
    fn some_words_have_their_own_pages() {
        let words = [0, 1 << 5 | 1, 0, 1 << 63];
        assert!(Pages::new(&words, 640).eq([704, 709, 895]));
    }

    #[test]
    fn a_set_of_whole_words_is_not_trimmed() {
        let mut set = PageSet::new(128).unwrap();
        set.fill();
        assert_eq!(set.count(), 128);
        assert_eq!(set.iter().last(), Some(127));
        set.clear();
        assert_eq!(set.iter().next(), None);
    }
}
