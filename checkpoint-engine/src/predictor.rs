//! Which pages stay writable: those that will change soon enough that a fault costs more than a compare.

mod history;
mod odds;

use std::collections::TryReserveError;

use self::history::{CLASSES, Classes, EPOCHS, History};
use self::odds::{Odds, REST, Tally};
use crate::{HostCosts, PageSet, Rule};

/// What is known of one region's pages, and what follows from it.
///
/// Each page's last epochs put it in a class. What the pages of a class did lately says how likely each of them changes
/// next, and costs decide what to do about that. So a hot page stays writable, a page that a sweep
/// has just left is protected at once, a page that changes every other time is expected every other time, and where a tenth of all pages changes at random none is worth a fault.
///
/// All of it is done 64 pages at a time, and only where a page changed in the remembered epochs.
#[derive(Debug)]
pub(crate) struct Predictor {
    rule: Rule,
    costs: HostCosts,
    pages: u64,
    /// Pages that stay writable.
    open: PageSet,
    open_pages: u64,
    histories: Vec<History>,
    /// The slot of the newest epoch in `histories`.
    head: usize,
    /// The histories, a bit each, that aren't empty.
    active: PageSet,
    after_checkpoint: Odds,
    after_rollback: Odds,
    /// How the epoch before this one ended.
    began: EpochEnd,
    /// Whether no epoch ended yet: that all is written then tells nothing.
    first: bool,
    outcomes: Outcomes,
    #[cfg(test)]
    random: u64,
}

/// How an epoch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EpochEnd {
    /// By a checkpoint.
    Checkpoint,
    /// By a rollback. What the program does after it is likely what it did before: the odds are others.
    Rollback,
}

/// How good the predictions were, in pages over all epochs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Outcomes {
    /// Changed, and was writable: a fault avoided.
    pub(crate) avoided: u64,
    /// Was written, and was protected: a fault taken.
    pub(crate) taken: u64,
    /// Didn't change, and was writable: a compare wasted.
    pub(crate) wasted: u64,
}

impl std::ops::AddAssign for Outcomes {
    fn add_assign(&mut self, more: Self) {
        self.avoided += more.avoided;
        self.taken += more.taken;
        self.wasted += more.wasted;
    }
}

impl Predictor {
    /// Knows nothing of `pages` pages.
    pub(crate) fn new(rule: Rule, costs: HostCosts, pages: usize) -> Result<Self, TryReserveError> {
        let open = PageSet::new(pages)?;
        let words = open.words().len();
        let mut histories = Vec::new();
        histories.try_reserve_exact(words)?;
        histories.resize(words, History::default());
        Ok(Self {
            rule,
            costs,
            pages: pages as u64,
            open,
            open_pages: 0,
            histories,
            head: 0,
            active: PageSet::new(words)?,
            after_checkpoint: Odds::after_checkpoint(),
            after_rollback: Odds::after_rollback(),
            began: EpochEnd::Checkpoint,
            first: true,
            outcomes: Outcomes::default(),
            #[cfg(test)]
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    /// Pages that stay writable now.
    pub(crate) fn open_pages(&self) -> u64 {
        self.open_pages
    }

    /// How good it was.
    pub(crate) fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// Removes from `pages` those that stay writable.
    pub(crate) fn remove_open(&self, pages: &mut PageSet) {
        pages.subtract(&self.open);
    }

    /// Bytes of the tables.
    pub(crate) fn table_bytes(&self) -> usize {
        self.open.bytes() + self.active.bytes() + size_of_val(self.histories.as_slice())
    }

    /// Ends an epoch in which pages were written. `written` is what was compared and `changed`, a subset, what
    /// differed; `written` becomes what must be protected, and `changed` becomes empty. Returns how many pages must
    /// be protected. An epoch in which nothing was written is none: it tells nothing of the next.
    pub(crate) fn end_epoch(&mut self, end: EpochEnd, written: &mut PageSet, changed: &mut PageSet) -> u64 {
        let open_classes = self.learn(end, written, changed);
        let mut protect_pages = 0;
        let mut from = 0;
        while let Some(at) = written.next_word(from) {
            from = at + 1;
            let compared = written.words()[at];
            let stays = self.end_word(at, compared, changed.words()[at], open_classes);
            written.words_mut()[at] = compared & !stays;
            protect_pages += u64::from((compared & !stays).count_ones());
            changed.words_mut()[at] = 0;
        }
        self.first = false;
        self.began = end;
        protect_pages
    }

    /// Notes what changed, and returns the classes whose pages shall stay writable.
    fn learn(&mut self, end: EpochEnd, written: &PageSet, changed: &PageSet) -> u16 {
        let fixed = match self.rule {
            Rule::Model => None,
            Rule::Always => Some(0),
            #[cfg(test)]
            Rule::Random | Rule::Wrong => None,
        };
        if let Some(classes) = fixed {
            return classes;
        }
        if !self.first {
            let epoch = self.note(written, changed);
            match self.began {
                EpochEnd::Checkpoint => self.after_checkpoint.learn(&epoch),
                EpochEnd::Rollback => self.after_rollback.learn(&epoch),
            }
        }
        let odds = match end {
            EpochEnd::Checkpoint => &self.after_checkpoint,
            EpochEnd::Rollback => &self.after_rollback,
        };
        odds.open_classes(&self.costs)
    }

    /// Moves the histories on by an epoch. Returns what the classes of its start did.
    fn note(&mut self, written: &PageSet, changed: &PageSet) -> [Tally; CLASSES + 1] {
        let mut from = 0;
        while let Some(at) = written.next_word(from) {
            from = at + 1;
            if changed.words()[at] != 0 {
                self.active.insert(at);
            }
        }
        let before = self.head;
        self.head = (before + 1) % EPOCHS;
        let mut tallies = [Tally::default(); CLASSES + 1];
        let mut rest = Tally { pages: self.pages, changed: 0 };
        let Self { active, histories, head, .. } = self;
        active.retain(|at| {
            let history = &mut histories[at];
            let (classes, changed) = (history.classes(before), changed.words()[at]);
            tally(&classes, changed, &mut tallies);
            rest.pages -= u64::from(classes.all().count_ones());
            rest.changed += u64::from((changed & !classes.all()).count_ones());
            history.note(*head, changed);
            !history.is_empty()
        });
        tallies[CLASSES] = rest;
        tallies
    }

    /// Decides which of `compared`, pages of word `at`, stay writable.
    fn end_word(&mut self, at: usize, compared: u64, changed: u64, open_classes: u16) -> u64 {
        let was_open = self.open.words()[at];
        if !self.first {
            self.outcomes.avoided += u64::from((changed & was_open).count_ones());
            self.outcomes.taken += u64::from((compared & !was_open).count_ones());
            self.outcomes.wasted += u64::from((compared & was_open & !changed).count_ones());
        }
        let expected = || {
            let classes = self.histories[at].classes(self.head);
            let rest = if open_classes & REST == 0 { 0 } else { !classes.all() };
            classes.members(open_classes) | rest
        };
        let stays = match self.rule {
            Rule::Always => 0,
            Rule::Model => expected(),
            #[cfg(test)]
            Rule::Wrong => !expected(),
            #[cfg(test)]
            Rule::Random => next_random(&mut self.random),
        };
        // An open page is always compared. One that isn't is protected, whatever was thought of it.
        let now_open = stays & compared;
        self.open_pages += u64::from(now_open.count_ones());
        self.open_pages -= u64::from(was_open.count_ones());
        self.open.words_mut()[at] = now_open;
        now_open
    }
}

/// Counts the pages of each class and those of them that changed.
fn tally(classes: &Classes, changed: u64, tallies: &mut [Tally; CLASSES + 1]) {
    for (class, pages) in classes.iter().filter(|(_, pages)| *pages != 0) {
        tallies[class].pages += u64::from(pages.count_ones());
        tallies[class].changed += u64::from((pages & changed).count_ones());
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
mod tests;
