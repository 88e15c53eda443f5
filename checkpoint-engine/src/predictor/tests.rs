//! Programs whose writes follow a pattern, and what the predictor makes of them.

use super::*;

/// A region whose pages are written as a pattern says, and how that is tracked.
struct Program {
    predictor: Predictor,
    pages: usize,
    faults: u64,
    compares: u64,
}

impl Program {
    fn new(pages: usize) -> Self {
        Self::with(Rule::Model, HostCosts::default(), pages)
    }

    fn with(rule: Rule, costs: HostCosts, pages: usize) -> Self {
        let mut program =
            Self { predictor: Predictor::new(rule, costs, pages).unwrap(), pages, faults: 0, compares: 0 };
        // The first checkpoint finds everything open.
        program.end(EpochEnd::Checkpoint, |_| true);
        (program.faults, program.compares) = (0, 0);
        program
    }

    /// An epoch in which the pages that `dirty` names change.
    fn end(&mut self, end: EpochEnd, dirty: impl Fn(usize) -> bool) {
        let (mut written, mut changed) =
            (PageSet::new(self.pages).unwrap(), PageSet::new(self.pages).unwrap());
        for page in 0..self.pages {
            let open = self.predictor.open.contains(page);
            if dirty(page) {
                changed.insert(page);
                self.faults += u64::from(!open);
            }
            if dirty(page) || open {
                written.insert(page);
                self.compares += 1;
            }
        }
        if written.is_empty() {
            return;
        }
        let compared = written.clone();
        let protect = self.predictor.end_epoch(end, &mut written, &mut changed);
        assert_eq!(protect, written.count() as u64);
        assert!(changed.is_empty());
        for page in 0..self.pages {
            let open = self.predictor.open.contains(page);
            assert_eq!(compared.contains(page), open || written.contains(page), "page {page} is one of both");
            assert!(!(open && written.contains(page)));
        }
        assert_eq!(self.predictor.open_pages(), self.predictor.open.count() as u64);
    }

    fn checkpoint(&mut self, dirty: impl Fn(usize) -> bool) {
        self.end(EpochEnd::Checkpoint, dirty);
    }

    /// Faults and compares of the epochs from here.
    fn costs_of(&mut self, epochs: impl FnOnce(&mut Self)) -> (u64, u64) {
        let before = (self.faults, self.compares);
        epochs(self);
        (self.faults - before.0, self.compares - before.1)
    }
}

/// Pages of the programs; not a multiple of 64.
const PAGES: usize = 5000;

/// Whether `page` is one of the tenth that changes in `epoch`.
fn one_in_ten(page: usize, epoch: u64) -> bool {
    let mut state =
        (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ epoch.wrapping_mul(0xd1b5_4a32_d192_ed03);
    next_random(&mut state);
    next_random(&mut state).is_multiple_of(10)
}

#[test]
fn hot_pages_stay_writable_and_their_neighbours_protected() {
    let mut program = Program::new(PAGES);
    (0..10).for_each(|_| program.checkpoint(|page| (700..750).contains(&page)));
    let costs = program
        .costs_of(|program| (0..10).for_each(|_| program.checkpoint(|page| (700..750).contains(&page))));
    assert_eq!(costs, (0, 500));
    assert_eq!(program.predictor.open_pages(), 50);
}

#[test]
fn a_program_that_does_something_else_is_followed_within_ten_epochs() {
    let mut program = Program::new(PAGES);
    let mut from = 0;
    for phase in 0..6 {
        from = phase * 700;
        (0..10).for_each(|_| program.checkpoint(|page| (from..from + 100).contains(&page)));
        assert_eq!(program.predictor.open_pages(), 100, "phase {phase}");
    }
    assert!((from..from + 100).all(|page| program.predictor.open.contains(page)));
}

#[test]
fn what_a_sweep_has_left_is_protected_at_once() {
    let mut program = Program::new(PAGES);
    let sweep = |epoch: usize| move |page: usize| page / 50 == epoch % 100;
    (0..100).for_each(|epoch| program.checkpoint(sweep(epoch)));
    let costs = program.costs_of(|program| (100..200).for_each(|epoch| program.checkpoint(sweep(epoch))));
    assert_eq!(costs, (5000, 5000), "nothing but what it writes");
}

#[test]
fn where_any_page_may_change_all_are_compared_if_that_is_cheaper() {
    let costs = HostCosts { fault_ns: 6500, protect_ns: 0, compare_ns: 300, ..HostCosts::default() };
    let mut program = Program::with(Rule::Model, costs, PAGES);
    let epochs = |program: &mut Program, range: std::ops::Range<u64>| {
        range.for_each(|epoch| program.checkpoint(|page| one_in_ten(page, epoch)));
    };
    epochs(&mut program, 0..60);
    let (faults, compares) = program.costs_of(|program| epochs(program, 60..70));
    assert!(faults < 100 && compares > 49_000, "{faults} faults, {compares} compares");
    // With dear compares the same program is better off with faults.
    let costs = HostCosts { compare_ns: 3000, ..costs };
    let mut program = Program::with(Rule::Model, costs, PAGES);
    epochs(&mut program, 0..60);
    let (faults, compares) = program.costs_of(|program| epochs(program, 60..70));
    assert!(faults > 4000 && compares < 6000, "{faults} faults, {compares} compares");
}

#[test]
fn what_changes_every_other_time_is_expected_every_other_time() {
    let mut program = Program::new(PAGES);
    let turn = |epoch: usize| move |page: usize| page < 100 && (page + epoch).is_multiple_of(2);
    (0..20).for_each(|epoch| program.checkpoint(turn(epoch)));
    let (faults, compares) =
        program.costs_of(|program| (20..30).for_each(|epoch| program.checkpoint(turn(epoch))));
    // A page that will be written in two epochs has to stay writable until then, so each epoch compares both halves.
    assert_eq!((faults, compares), (0, 1000));
}

#[test]
fn what_a_rollback_undid_stays_writable_for_the_next_try() {
    let mut program = Program::new(PAGES);
    program.end(EpochEnd::Rollback, |page| page < 5);
    assert_eq!(program.predictor.open_pages(), 5);
    let faults =
        program.costs_of(|program| (0..5).for_each(|_| program.end(EpochEnd::Rollback, |page| page < 5))).0;
    assert_eq!(faults, 0);
}

#[test]
fn outcomes_count_what_happened() {
    let mut program = Program::new(PAGES);
    (0..30).for_each(|epoch| program.checkpoint(|page| page < 20 || page / 100 == epoch % 50));
    let Outcomes { avoided, taken, wasted } = program.predictor.outcomes();
    assert_eq!(taken, program.faults);
    assert_eq!(avoided + taken + wasted, program.compares);
    assert!(avoided > 20 * 25 && taken >= 29 * 100);
}

#[test]
fn always_protects_all_that_was_written() {
    let mut program = Program::with(Rule::Always, HostCosts::default(), 64);
    for end in [EpochEnd::Checkpoint, EpochEnd::Checkpoint, EpochEnd::Rollback] {
        program.end(end, |_| true);
        assert_eq!(program.predictor.open_pages(), 0);
    }
}

#[test]
fn whatever_it_predicts_every_page_is_open_or_protected() {
    for rule in [Rule::Model, Rule::Wrong, Rule::Random] {
        let mut program = Program::with(rule, HostCosts::default(), 333);
        for epoch in 0..50 {
            let end = if epoch % 3 == 0 { EpochEnd::Rollback } else { EpochEnd::Checkpoint };
            program.end(end, |page| one_in_ten(page, epoch));
        }
    }
}
