//! What the tries of one operation have done in a region, and what an unfinished rollback left to do.

use std::collections::TryReserveError;

use crate::PageSet;

/// The pages of one region in an operation that may need several tries, because some pages were absent.
///
/// ```text
///   reported or listed ──> in memory ──> done          another try leaves them alone
///                    └───> not ───────> missing        the program touches them, and the next try has them
/// ```
#[derive(Debug)]
pub(crate) struct Tries {
    /// Pages that earlier tries took or restored.
    pub(super) done: RareSet,
    /// Pages that this try needed and couldn't read or write.
    pub(super) missing: RareSet,
    /// Pages in which live memory may differ from the mirror though nobody wrote them: a rollback made another
    /// version the root and then didn't restore them.
    pub(super) owed: RareSet,
    /// Pages of `done` that were reported once more.
    again: PageSet,
    /// Pages that the engine is about to write; at the end of an operation, pages that stay open.
    pub(super) marked: PageSet,
}

impl Tries {
    pub(super) fn new(pages: usize) -> Result<Self, TryReserveError> {
        Ok(Self {
            done: RareSet::new(pages)?,
            missing: RareSet::new(pages)?,
            owed: RareSet::new(pages)?,
            again: PageSet::new(pages)?,
            marked: PageSet::new(pages)?,
        })
    }

    pub(super) fn table_bytes(&self) -> usize {
        let sets = [&self.done.pages, &self.missing.pages, &self.owed.pages, &self.again, &self.marked];
        sets.map(PageSet::bytes).iter().sum()
    }

    /// Starts a try, for which the tracker reported `written`: adds what is owed, takes out what is done.
    pub(super) fn begin(&mut self, written: &mut PageSet) {
        self.missing.clear();
        if self.owed.any {
            written.union_with(&self.owed.pages);
        }
        if self.done.any {
            self.again.clear();
            self.again.union_with(written);
            self.again.intersect_with(&self.done.pages);
            written.subtract(&self.done.pages);
        }
    }

    /// What this try couldn't have.
    pub(crate) fn missing(&self) -> &PageSet {
        &self.missing.pages
    }

    /// Whether there is any.
    pub(crate) fn any_missing(&self) -> bool {
        self.missing.any
    }

    /// Ends a try after which another is needed. It had `listed`, but for what is missing.
    pub(super) fn keep_done(&mut self, listed: &PageSet) {
        self.done.any = true;
        self.done.pages.union_with(listed);
        // Nothing that was done before is missing: it wasn't asked for.
        self.done.pages.subtract(&self.missing.pages);
    }

    /// Marks the pages of earlier tries that were reported once more and differ now: the program wasn't quiet,
    /// and what it wrote after its page was done must be found later. Nothing else is marked.
    pub(super) fn mark_written_again(&mut self, differs: impl Fn(usize) -> Option<bool>) {
        self.marked.clear();
        for page in &self.again {
            // A page that left memory since is reported when it's back.
            if differs(page) == Some(true) {
                self.marked.insert(page);
            }
        }
    }

    /// Live memory may differ from the mirror in `page`, though nobody wrote it.
    pub(super) fn owe(&mut self, page: usize) {
        self.owed.insert(page);
    }

    /// Gives the operation up. What is owed stays owed.
    pub(super) fn forget(&mut self) {
        self.missing.clear();
        self.done.clear();
    }

    /// The operation is finished: live memory was compared wherever it may differ from the mirror.
    pub(super) fn end(&mut self) {
        self.forget();
        self.owed.clear();
    }
}

/// A set that is empty as a rule, and says so without a look at its words.
#[derive(Debug)]
pub(crate) struct RareSet {
    pages: PageSet,
    /// Whether there may be any.
    any: bool,
}

impl RareSet {
    fn new(pages: usize) -> Result<Self, TryReserveError> {
        Ok(Self { pages: PageSet::new(pages)?, any: false })
    }

    pub(super) fn any(&self) -> bool {
        self.any
    }

    pub(super) fn pages(&self) -> &PageSet {
        &self.pages
    }

    pub(super) fn insert(&mut self, page: usize) {
        self.pages.insert(page);
        self.any = true;
    }

    /// Takes the pages of `asked` beyond the first `budget`, which become fewer by those that stay.
    pub(super) fn take_beyond(&mut self, budget: &mut u64, asked: &mut PageSet) {
        self.any |= asked.keep_first(budget, &mut self.pages);
    }

    /// The bitmap, to be written; [`may_have`](Self::may_have) says whether it was.
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        self.pages.words_mut()
    }

    /// Says whether there may be more than were known.
    pub(super) fn may_have(&mut self, more: bool) {
        self.any |= more;
    }

    pub(super) fn become_copy_of(&mut self, other: &Self) {
        self.clear();
        if other.any {
            self.pages.union_with(&other.pages);
            self.any = true;
        }
    }

    fn clear(&mut self) {
        if self.any {
            self.pages.clear();
            self.any = false;
        }
    }
}
