//! How often the pages of a class change in the next epoch: learned, and forgotten.

use super::history::CLASSES;
use crate::HostCosts;

/// How many classes there are of each age.
const COUNTS: usize = CLASSES / AGES_STAY.len();
/// How likely a page that doesn't change stays in its class, by age: of ages 3 to 4 one half does, of 5 to 8 three
/// quarters.
const AGES_STAY: [f32; 4] = [0.0, 0.0, 0.5, 0.75];
/// How often the gain of a class is worked out from itself.
const ROUNDS: usize = 8;
/// What is kept of older epochs at each epoch's end. The last four epochs weigh two thirds, so a program that changes
/// what it does is followed within a few.
const DECAY: f32 = 0.75;
/// Pages that the first guess counts for at first.
const FIRST_PAGES: f32 = 8.0;
/// Pages that it always counts for, so that a class has a chance before any page was in it.
const LAST_PAGES: f32 = 0.5;
/// The first guess after a checkpoint, by class: what changed lately and often will change.
const AFTER_CHECKPOINT: [f32; CLASSES] = [0.25, 0.9, 0.97, 0.1, 0.4, 0.5, 0.03, 0.15, 0.2, 0.02, 0.05, 0.05];
/// The first guess after a rollback: the program will likely do again what it did.
const AFTER_ROLLBACK: [f32; CLASSES] = [0.9, 0.95, 0.97, 0.1, 0.4, 0.5, 0.03, 0.15, 0.2, 0.02, 0.05, 0.05];
/// The first guess for a page that didn't change in the epochs that are remembered.
const OF_THE_REST: f32 = 0.002;

/// Pages of a class at an epoch's start, and those of them that changed in it.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    pub(super) pages: u64,
    pub(super) changed: u64,
}

/// The odds of all classes, the last being the pages that are in none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    guesses: [f32; CLASSES + 1],
    pages: [f32; CLASSES + 1],
    changed: [f32; CLASSES + 1],
}

impl Odds {
    /// Before anything was seen, for epochs that begin after a checkpoint.
    pub(super) fn after_checkpoint() -> Self {
        Self::new(AFTER_CHECKPOINT)
    }

    /// The same for those that begin after a rollback.
    pub(super) fn after_rollback() -> Self {
        Self::new(AFTER_ROLLBACK)
    }

    fn new(of_classes: [f32; CLASSES]) -> Self {
        let mut guesses = [OF_THE_REST; CLASSES + 1];
        guesses[..CLASSES].copy_from_slice(&of_classes);
        let changed = guesses.map(|guess| guess * FIRST_PAGES);
        Self { guesses, pages: [FIRST_PAGES; CLASSES + 1], changed }
    }

    /// Learns from an epoch. A class that had no pages is thought of as before.
    #[expect(clippy::cast_precision_loss, reason = "a weight needn't be exact")]
    pub(super) fn learn(&mut self, epoch: &[Tally; CLASSES + 1]) {
        for (class, tally) in epoch.iter().enumerate().filter(|(_, tally)| tally.pages != 0) {
            self.pages[class] = self.pages[class] * DECAY + tally.pages as f32;
            self.changed[class] = self.changed[class] * DECAY + tally.changed as f32;
        }
    }

    /// The classes whose pages shall stay writable, a bit each; the highest is that of pages in no class.
    ///
    /// A protected page becomes writable again by a fault alone, so more counts than the next epoch: what staying
    /// writable gains, a fault as often as the page changes less a compare, and what it gains then if it hasn't
    /// changed, unless it is protected then. A page that changes every fourth time is worth three compares in vain.
    pub(super) fn open_classes(&self, costs: &HostCosts) -> u16 {
        #[expect(clippy::cast_precision_loss, reason = "a weight needn't be exact")]
        let (fault, compare) =
            (costs.fault_ns.saturating_add(costs.protect_ns) as f32, costs.compare_ns as f32);
        let gain = |class: usize, later: f32| {
            let chance = self.chance(class);
            chance * fault - compare + (1.0 - chance) * later.max(0.0)
        };
        let mut open = 0;
        let mut note = |class: usize, gain: f32| open |= u16::from(0.0 < gain) << class;
        let rest = gain(CLASSES, 0.0);
        note(CLASSES, rest);
        for count in 0..COUNTS {
            let mut older = rest;
            for (age, stay) in AGES_STAY.into_iter().enumerate().rev() {
                let class = age * COUNTS + count;
                // What it gains depends on itself where a page stays in it: found by coming closer.
                let mut own = 0.0f32;
                for _ in 0..ROUNDS {
                    own = gain(class, stay * own + (1.0 - stay) * older);
                }
                note(class, own);
                older = own;
            }
        }
        open
    }

    fn chance(&self, class: usize) -> f32 {
        (self.changed[class] + self.guesses[class] * LAST_PAGES) / (self.pages[class] + LAST_PAGES)
    }
}

/// The bit of pages in no class.
pub(super) const REST: u16 = 1 << CLASSES;

#[cfg(test)]
mod tests {
    use super::*;

    /// An epoch in which `changed` of 1000 pages changed, in each class of one count.
    fn epoch(count: usize, changed: u64) -> [Tally; CLASSES + 1] {
        let mut tallies = [Tally::default(); CLASSES + 1];
        (count..CLASSES).step_by(COUNTS).for_each(|class| tallies[class] = Tally { pages: 1000, changed });
        tallies
    }

    const COSTS: HostCosts =
        HostCosts { exit_ns: 0, fault_ns: 1000, protect_ns: 0, compare_ns: 100, copy_ns: 0 };

    fn is_open(odds: &Odds, class: usize) -> bool {
        odds.open_classes(&COSTS) >> class & 1 == 1
    }

    #[test]
    fn a_class_is_open_while_faults_would_cost_more_than_compares() {
        let mut odds = Odds::after_checkpoint();
        assert!(is_open(&odds, 5), "by the first guess");
        (0..3).for_each(|_| odds.learn(&epoch(2, 0)));
        assert!(!is_open(&odds, 5));
        odds.learn(&epoch(2, 900));
        assert!(is_open(&odds, 5), "what it does now counts most");
        (0..20).for_each(|_| odds.learn(&epoch(2, 50)));
        assert!(!is_open(&odds, 5), "one fault in twenty is cheaper than a compare each time");
    }

    #[test]
    fn what_will_change_later_is_worth_some_compares_in_vain() {
        let mut odds = Odds::after_checkpoint();
        for _ in 0..10 {
            let mut tallies = epoch(1, 0);
            // Changes every third or fourth time.
            tallies[2 * COUNTS + 1] = Tally { pages: 1000, changed: 500 };
            odds.learn(&tallies);
        }
        assert!(is_open(&odds, 1) && is_open(&odds, COUNTS + 1) && is_open(&odds, 2 * COUNTS + 1));
        assert!(!is_open(&odds, 3 * COUNTS + 1));
    }

    #[test]
    fn costs_of_nothing_are_worth_nothing() {
        let free = HostCosts { exit_ns: 0, fault_ns: 0, protect_ns: 0, compare_ns: 0, copy_ns: 0 };
        let odds = Odds::after_rollback();
        assert_eq!(odds.open_classes(&free), 0);
    }
}
