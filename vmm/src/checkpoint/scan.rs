//! Whether a region is tracked, or all of it is compared at every checkpoint.
//!
//! Comparing everything needs no log, no protection and no faults. It is right where a region is so small that
//! asking for its log costs more, or so densely written that hardly a compare is saved.

use cairn_engine::HostCosts;

/// Epochs that must agree before a region is scanned.
const SCAN_AFTER: u32 = 8;
/// Epochs that must agree before it's tracked; twice as many each time that it has to be scanned again.
const TRACK_AFTER: u32 = 8;
/// What those are at most.
const MOST_TRACK_AFTER: u32 = 1024;
/// By what factor one way must be better before it replaces the other.
const MARGIN: u64 = 2;
/// Pages of the largest region that is looked at: 256 MiB. Beyond that the log is a small part of any cost.
const MOST_PAGES: u64 = 65_536;

/// What a tracker's own calls cost, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogCosts {
    /// Asking for the log of a small region.
    pub collect_ns: u32,
    /// A call that protects one page.
    pub protect_ns: u32,
}

/// How a region's changes are found, and what speaks for the other way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    pages: u64,
    scanned: bool,
    /// Epochs in a row in which the other way would have been better.
    streak: u32,
    track_after: u32,
    /// Pages that were reported in this epoch.
    reported: u64,
    /// Pages that stayed writable at the end of the last one.
    open: u64,
}

impl Scan {
    /// A new region of `pages`. A region whose compares cost less than one fault and its calls is scanned.
    pub(super) fn new(pages: u64, costs: &HostCosts, log: LogCosts) -> Self {
        let scanned = compares(pages, costs) <= calls(log) + u64::from(costs.fault_ns);
        Self { pages, scanned, streak: 0, track_after: TRACK_AFTER, reported: 0, open: pages }
    }

    /// Whether everything is compared.
    pub(super) fn is_scanned(&self) -> bool {
        self.scanned
    }

    /// Whether it's worth telling [`tracked`](Self::tracked) what was reported.
    pub(super) fn is_open_question(&self) -> bool {
        self.pages <= MOST_PAGES
    }

    /// A tracked region has reported `reported` pages. Answers whether it is scanned from now on.
    pub(super) fn tracked(&mut self, reported: u64, costs: &HostCosts, log: LogCosts) -> bool {
        let faults = reported.saturating_sub(self.open);
        let cost = u64::from(log.collect_ns) + faults * u64::from(costs.fault_ns);
        let saved = compares(self.pages - reported.min(self.pages), costs);
        (self.reported, self.open) = (reported, reported);
        if self.agreed(saved * MARGIN < cost, SCAN_AFTER) {
            self.scanned = true;
            self.track_after = (self.track_after * 2).min(MOST_TRACK_AFTER);
        }
        self.scanned
    }

    /// The engine protects `asked` pages of a tracked region.
    pub(super) fn protected(&mut self, asked: u64) {
        self.open = self.reported.saturating_sub(asked);
    }

    /// The engine would have protected `asked` pages of a scanned region. Answers whether it is tracked from now on.
    pub(super) fn would_protect(&mut self, asked: u64, costs: &HostCosts, log: LogCosts) -> bool {
        let cost = calls(log) + u64::from(costs.fault_ns);
        if self.agreed(cost * MARGIN < compares(asked, costs), self.track_after) {
            self.scanned = false;
            (self.reported, self.open) = (self.pages, self.pages.saturating_sub(asked));
        }
        !self.scanned
    }

    /// The log couldn't be started: everything is compared as before.
    pub(super) fn stay_scanned<E>(&mut self, error: E) -> Result<(), E> {
        self.scanned = true;
        Err(error)
    }

    fn agreed(&mut self, other_is_better: bool, needed: u32) -> bool {
        self.streak = if other_is_better { self.streak + 1 } else { 0 };
        let agreed = needed <= self.streak;
        if agreed {
            self.streak = 0;
        }
        agreed
    }
}

fn compares(pages: u64, costs: &HostCosts) -> u64 {
    pages * u64::from(costs.compare_ns)
}

fn calls(log: LogCosts) -> u64 {
    u64::from(log.collect_ns) + u64::from(log.protect_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: HostCosts =
        HostCosts { exit_ns: 20_000, fault_ns: 6000, protect_ns: 50, compare_ns: 100, copy_ns: 400 };
    const LOG: LogCosts = LogCosts { collect_ns: 2000, protect_ns: 2000 };

    /// Epochs of a program that writes `cold` new pages each time, until the region is scanned.
    fn until_scanned(scan: &mut Scan, cold: u64) -> Option<u32> {
        (1..100).find(|_| {
            let scanned = scan.tracked(cold, &COSTS, LOG);
            scan.protected(cold);
            scanned
        })
    }

    fn until_tracked(scan: &mut Scan, asked: u64) -> Option<u32> {
        (1..5000).find(|_| scan.would_protect(asked, &COSTS, LOG))
    }

    #[test]
    fn small_regions_are_scanned_and_stay_so() {
        let mut small = Scan::new(100, &COSTS, LOG);
        assert!(small.is_scanned());
        assert_eq!(until_tracked(&mut small, 100), None);
        assert!(!Scan::new(101, &COSTS, LOG).is_scanned());
    }

    #[test]
    fn a_dense_region_is_scanned_until_it_is_sparse() {
        let mut scan = Scan::new(1000, &COSTS, LOG);
        assert_eq!(until_scanned(&mut scan, 5), None, "five faults are cheaper than a thousand compares");
        assert_eq!(until_scanned(&mut scan, 100), Some(SCAN_AFTER));
        assert_eq!(until_tracked(&mut scan, 100), None, "too few pages would be spared");
        assert_eq!(until_tracked(&mut scan, 900), Some(2 * TRACK_AFTER));
    }

    #[test]
    fn who_wavers_is_asked_less_and_less() {
        let mut scan = Scan::new(1000, &COSTS, LOG);
        for round in 1..12 {
            assert_eq!(until_scanned(&mut scan, 100), Some(1 + SCAN_AFTER), "the first epoch tells nothing");
            let patience = (TRACK_AFTER << round).min(MOST_TRACK_AFTER);
            assert_eq!(until_tracked(&mut scan, 900), Some(patience));
        }
    }

    #[test]
    fn pages_that_stay_writable_are_no_faults() {
        let mut scan = Scan::new(1000, &COSTS, LOG);
        for _ in 0..100 {
            assert!(!scan.tracked(400, &COSTS, LOG), "600 compares are saved, and nothing faults");
        }
    }
}
