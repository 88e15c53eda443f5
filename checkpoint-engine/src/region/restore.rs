//! A region's part of a rollback.

use super::parts::{Cuts, Part};
use super::{PREFETCH_PAGES, Passed, Region};
use crate::access::Access;
use crate::mirror::Mirror;
use crate::page_set::{Pages, WORD_PAGES};
use crate::pool::Pool;
use crate::predictor::EpochEnd;
use crate::{LiveMemory, TrackError, Tracker};

/// Words of a region's sets, for one thread.
struct RestorePart<'a> {
    access: Access,
    live: &'a LiveMemory,
    mirror: &'a Mirror,
    first_word: usize,
    /// What is to be restored.
    pages: &'a [u64],
    /// What the program wrote.
    written: &'a [u64],
    changed: &'a mut [u64],
    missing: &'a mut [u64],
    any_missing: bool,
    /// Pages that differed.
    differed: u64,
}

impl Region {
    /// Starts the list of what a rollback restores: what was written, or in another try what is left to do.
    pub(crate) fn begin_restore(&mut self, another_try: bool) {
        self.restore.clear();
        self.restore.union_with(if another_try { self.tries.owed.pages() } else { &self.written });
    }

    /// Adds a page in which the wanted version differs from the mirror.
    pub(crate) fn restore_page(&mut self, page: usize) {
        self.restore.insert(page);
    }

    /// Tells the tracker what is about to be written. The mirror is the wanted version already.
    pub(crate) fn before_restore<T: Tracker>(
        &mut self,
        access: Access,
        tracker: &mut T,
        budget: &mut u64,
    ) -> Result<(), TrackError> {
        if self.is_scattered() {
            self.mark_differing(access, budget);
        }
        let pages = if self.is_scattered() { &self.tries.marked } else { &self.restore };
        if pages.is_empty() {
            return Ok(());
        }
        // Memory in one piece that goes by hints isn't watched, and so not protected.
        if self.hints.rule() && !self.is_scattered() {
            tracker.before_unwatched_restore(self.id, pages);
            return Ok(());
        }
        tracker.before_restore(self.id, pages)
    }

    /// Marks the pages of scattered memory that must be written, and notes those that are absent. A page that is
    /// right needn't be made writable, which may cost the program memory for it. What `budget`, in pages, isn't
    /// enough for is left for another try.
    fn mark_differing(&mut self, access: Access, budget: &mut u64) {
        self.tries.marked.clear();
        self.tries.missing.take_beyond(budget, &mut self.restore);
        let mut ahead = self.restore.iter().skip(PREFETCH_PAGES);
        for page in &self.restore {
            match access.differs(&self.live, &self.mirror, page, ahead.next()) {
                None => self.tries.missing.insert(page),
                Some(true) => self.tries.marked.insert(page),
                Some(false) => {}
            }
        }
    }

    /// Makes live memory equal to the mirror in what is to be restored and can be written.
    pub(crate) fn restore(&mut self, access: Access, pool: Option<&Pool>) -> Passed {
        if !self.tries.done.any() {
            self.changed.clear();
        }
        let mut passed = Passed::default();
        let mut any_missing = false;
        let pages = if self.is_scattered() { &self.tries.marked } else { &self.restore };
        let whole = RestorePart {
            access,
            live: &self.live,
            mirror: &self.mirror,
            first_word: 0,
            pages: pages.words(),
            written: self.written.words(),
            changed: self.changed.words_mut(),
            missing: self.tries.missing.words_mut(),
            any_missing: false,
            differed: 0,
        };
        Cuts::new(pool, pages.words()).work(pool, whole, |part| {
            any_missing |= part.any_missing;
            passed.changed += part.differed;
        });
        self.tries.missing.may_have(any_missing);
        self.tries.owed.become_copy_of(&self.tries.missing);
        if self.tries.any_missing() {
            self.restore.subtract(self.tries.missing());
        }
        passed.compared = self.restore.count() as u64;
        passed
    }

    /// Ends a try of a rollback that needs another.
    pub(crate) fn keep_restored(&mut self) {
        self.tries.keep_done(&self.restore);
    }

    /// After a rollback: protects what the rule says of the pages that were written, and all others that were
    /// restored. Returns how many pages.
    pub(crate) fn end_rollback<T: Tracker>(
        &mut self,
        access: Access,
        tracker: &mut T,
    ) -> Result<u64, TrackError> {
        let several_tries = self.tries.done.any();
        if several_tries {
            self.mark_written_again(access);
            self.restore.union_with(self.tries.done.pages());
            // They were reported in earlier tries.
            self.written.union_with(&self.changed);
            self.any_written = true;
        }
        self.mirror.give_back(|page| self.restore.contains(page));
        if self.hints.rule() {
            self.end_hinted(several_tries);
            return Ok(0);
        }
        self.predictor.end_epoch(EpochEnd::Rollback, &mut self.written, &mut self.changed);
        self.predictor.remove_open(&mut self.restore);
        self.hints.take_from(&mut self.restore);
        self.hints.use_up(None);
        if several_tries {
            self.restore.subtract(&self.tries.marked);
        }
        self.tries.end();
        match self.restore.count() as u64 {
            0 => Ok(0),
            pages => tracker.protect(self.id, &self.restore).map(|()| pages),
        }
    }
}

impl Part for RestorePart<'_> {
    fn split_at(self, word: usize) -> (Self, Self) {
        let at = word - self.first_word;
        let (pages, written) = (self.pages.split_at(at), self.written.split_at(at));
        let (changed, missing) = (self.changed.split_at_mut(at), self.missing.split_at_mut(at));
        let part = |first_word, pages, written, changed, missing| Self {
            first_word,
            pages,
            written,
            changed,
            missing,
            ..self
        };
        (
            part(self.first_word, pages.0, written.0, changed.0, missing.0),
            part(word, pages.1, written.1, changed.1, missing.1),
        )
    }

    fn work(&mut self) {
        let pages = Pages::new(self.pages, self.first_word * WORD_PAGES);
        let mut ahead = pages.clone().skip(PREFETCH_PAGES);
        for page in pages {
            let (word, bit) = (page / WORD_PAGES - self.first_word, 1 << (page % WORD_PAGES));
            match self.access.restore(self.live, self.mirror, page, ahead.next()) {
                None => {
                    self.missing[word] |= bit;
                    self.any_missing = true;
                }
                Some(true) => {
                    self.differed += 1;
                    // What the program didn't write is no sign of what it will write.
                    self.changed[word] |= self.written[word] & bit;
                }
                Some(false) => {}
            }
        }
    }
}
