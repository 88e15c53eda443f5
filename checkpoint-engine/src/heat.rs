//! Which pages stay writable: the rule, 64 pages at a time.

use std::collections::TryReserveError;

use crate::{PageSet, Rule};

/// What the rule remembers of one region's pages, a bit each.
///
/// `TwoDirtyEpochs` is a small machine for each page:
///
/// ```text
///   cold ── changed ──> warm ── changed ──> open(0) ── unchanged ──> open(1) .. open(3) ── unchanged ──> cold
///    ^                   │                    ^                         │
///    └──── unchanged ────┘                    └──────── changed ────────┘
/// ```
///
/// The four counts are two bits in two planes, so that 64 pages take a dozen instructions and no branch.
#[derive(Debug)]
pub(crate) struct Heat {
    rule: Rule,
    /// Pages that stay writable.
    open: PageSet,
    /// Pages that changed in the last epoch.
    warm: PageSet,
    /// Whether `warm` holds any.
    any_warm: bool,
    /// Low bits of the counts of compares that found nothing, of open pages.
    count_low: PageSet,
    /// High bits of the same.
    count_high: PageSet,
    open_pages: u64,
    #[cfg(test)]
    random: u64,
}

/// How an epoch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EpochEnd {
    /// By a checkpoint.
    Checkpoint,
    /// By a rollback. The program will likely do again what it did, so a page that changed stays writable for
    /// one epoch more, whatever came before: that costs one compare if it doesn't, and spares a fault if it does.
    Rollback,
}

impl Heat {
    /// All cold, for `pages` pages.
    pub(crate) fn new(rule: Rule, pages: usize) -> Result<Self, TryReserveError> {
        Ok(Self {
            rule,
            open: PageSet::new(pages)?,
            warm: PageSet::new(pages)?,
            any_warm: false,
            count_low: PageSet::new(pages)?,
            count_high: PageSet::new(pages)?,
            open_pages: 0,
            #[cfg(test)]
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    /// Pages that stay writable now.
    pub(crate) fn open_pages(&self) -> u64 {
        self.open_pages
    }

    /// Removes from `pages` those that stay writable.
    pub(crate) fn remove_open(&self, pages: &mut PageSet) {
        for (word, open) in pages.words_mut().iter_mut().zip(self.open.words()) {
            *word &= !open;
        }
    }

    /// Bytes of the tables.
    pub(crate) fn table_bytes(&self) -> usize {
        4 * self.open.bytes()
    }

    /// Ends an epoch in which no page was compared.
    pub(crate) fn end_idle_epoch(&mut self) {
        if self.any_warm {
            self.warm.clear();
            self.any_warm = false;
        }
    }

    /// Ends an epoch. `written` is what was compared and `changed`, a subset, what differed; `written` becomes
    /// what must be protected, and `changed` becomes empty. Returns how many pages must be protected.
    pub(crate) fn end_epoch(&mut self, end: EpochEnd, written: &mut PageSet, changed: &mut PageSet) -> u64 {
        let mut protect_pages = 0;
        let mut any_changed = 0;
        let mut from = 0;
        while let Some(at) = written.next_word(from) {
            from = at + 1;
            let compared = written.words()[at];
            any_changed |= changed.words()[at];
            let stays = self.end_word(end, at, compared, changed.words()[at]);
            written.words_mut()[at] = compared & !stays;
            protect_pages += u64::from((compared & !stays).count_ones());
        }
        std::mem::swap(&mut self.warm, changed);
        if self.any_warm {
            changed.clear();
        }
        self.any_warm = any_changed != 0;
        protect_pages
    }

    /// Ends an epoch of the pages of word `at`. Returns which of `compared` stay writable.
    fn end_word(&mut self, end: EpochEnd, at: usize, compared: u64, changed: u64) -> u64 {
        let open = self.open.words()[at];
        let stays = match self.rule {
            Rule::Always => 0,
            Rule::TwoDirtyEpochs => {
                let mut word = Word {
                    open,
                    warm: self.warm.words()[at],
                    low: self.count_low.words()[at],
                    high: self.count_high.words()[at],
                };
                word.end_epoch(end, compared, changed);
                self.count_low.words_mut()[at] = word.low;
                self.count_high.words_mut()[at] = word.high;
                word.open
            }
            #[cfg(test)]
            Rule::Random => next_random(&mut self.random),
        };
        // An open page is always compared. One that isn't is protected, whatever was thought of it.
        let now_open = stays & compared;
        self.open_pages += u64::from(now_open.count_ones());
        self.open_pages -= u64::from(open.count_ones());
        self.open.words_mut()[at] = now_open;
        now_open
    }
}

/// 64 pages' state.
struct Word {
    open: u64,
    warm: u64,
    low: u64,
    high: u64,
}

impl Word {
    fn end_epoch(&mut self, end: EpochEnd, compared: u64, changed: u64) {
        let unchanged = compared & !changed & self.open;
        let fourth = unchanged & self.low & self.high;
        self.high ^= self.low & unchanged;
        self.low ^= unchanged;
        self.low &= !changed;
        self.high &= !changed;
        self.open &= !fourth;
        let opened = match end {
            EpochEnd::Checkpoint => changed & !self.open & self.warm,
            EpochEnd::Rollback => {
                // The count starts at three: the first compare that finds nothing closes the page.
                let opened = changed & !self.open;
                self.low |= opened;
                self.high |= opened;
                opened
            }
        };
        self.open |= opened;
    }
}

/// The next of a fixed sequence (xorshift).
#[cfg(test)]
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends epochs of a one-page region: whether the page changed. An open page is always compared, and a
    /// protected one only if it was written. Returns after which epochs the page was open.
    fn open_after(ends: &[(EpochEnd, bool)]) -> Vec<bool> {
        let mut heat = Heat::new(Rule::TwoDirtyEpochs, 1).unwrap();
        let mut open = Vec::new();
        for &(end, dirty) in ends {
            let (mut written, mut changed) = (PageSet::new(1).unwrap(), PageSet::new(1).unwrap());
            if dirty || heat.open.contains(0) {
                written.insert(0);
            }
            if dirty {
                changed.insert(0);
            }
            heat.end_epoch(end, &mut written, &mut changed);
            assert!(!(written.contains(0) && heat.open.contains(0)));
            assert!(changed.is_empty());
            assert_eq!(heat.open_pages(), u64::from(heat.open.contains(0)));
            open.push(heat.open.contains(0));
        }
        open
    }

    fn checkpoints(dirty: &[bool]) -> Vec<bool> {
        open_after(&dirty.iter().map(|&dirty| (EpochEnd::Checkpoint, dirty)).collect::<Vec<_>>())
    }

    #[test]
    fn two_dirty_epochs_open_a_page() {
        assert_eq!(checkpoints(&[true, true, true]), [false, true, true]);
        assert_eq!(checkpoints(&[true, false, true, true]), [false, false, false, true]);
    }

    #[test]
    fn four_unchanged_compares_close_it() {
        let dirty = [true, true, false, false, false, false, true, true];
        assert_eq!(checkpoints(&dirty), [false, true, true, true, true, false, false, true]);
        let dirty = [true, true, false, false, false, true, false, false, false, false];
        assert_eq!(checkpoints(&dirty), [false, true, true, true, true, true, true, true, true, false]);
    }

    #[test]
    fn a_rollback_leaves_a_page_open_for_one_epoch() {
        use EpochEnd::{Checkpoint, Rollback};
        assert_eq!(open_after(&[(Rollback, true), (Checkpoint, false)]), [true, false]);
        assert_eq!(open_after(&[(Rollback, true), (Rollback, false)]), [true, false]);
        // Once it changes again it is open like any other.
        let ends = [(Rollback, true), (Checkpoint, true), (Checkpoint, false), (Checkpoint, false)];
        assert_eq!(open_after(&ends), [true; 4]);
    }

    #[test]
    fn reported_but_unchanged_is_protected_at_once() {
        let mut heat = Heat::new(Rule::TwoDirtyEpochs, 200).unwrap();
        let (mut written, mut changed) = (PageSet::new(200).unwrap(), PageSet::new(200).unwrap());
        written.insert(150);
        assert_eq!(heat.end_epoch(EpochEnd::Checkpoint, &mut written, &mut changed), 1);
        assert!(written.contains(150));
    }

    #[test]
    fn always_protects_all_that_was_written() {
        let mut heat = Heat::new(Rule::Always, 64).unwrap();
        for end in [EpochEnd::Checkpoint, EpochEnd::Checkpoint, EpochEnd::Rollback] {
            let (mut written, mut changed) = (PageSet::new(64).unwrap(), PageSet::new(64).unwrap());
            written.fill();
            changed.fill();
            assert_eq!(heat.end_epoch(end, &mut written, &mut changed), 64);
            assert_eq!(written.count(), 64);
            assert_eq!(heat.open_pages(), 0);
        }
    }
}
