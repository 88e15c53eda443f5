//! Random programs in a guest that swaps, with operations that are given up at any point.

use std::num::NonZeroUsize;

use cairn_abi::CheckpointId;
use proptest::prelude::*;

use super::model::{Between, World};
use crate::{Config, PAGE_SIZE, Pool, Rule};

/// Frames of the guest: fewer than the pages of two middling regions.
const FRAMES: usize = 40;
const MAX_PAGES: usize = 70;

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(usize, usize, u8)>),
    /// A checkpoint that is given up after so many tries.
    Checkpoint(usize, Between),
    /// To the id this far below the newest.
    Rollback(u64, usize, Between),
    Release(u64),
    Abandon,
    Add(usize),
    Remove(usize),
    Churn(usize),
    /// The tracker's call that fails, from here.
    Fail(u64),
    /// How often a page turns out not to be writable.
    Surprise(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![
        3 => (0..8usize, 0..6usize).prop_map(|(page, word)| page * 7 * PAGE_SIZE + word * 700),
        1 => 0..MAX_PAGES * PAGE_SIZE,
    ];
    let byte = prop_oneof![2 => Just(0), 1 => Just(1), 1 => any::<u8>()];
    let tries = || prop_oneof![1 => 1..4usize, 2 => Just(usize::MAX)];
    let between = || prop_oneof![3 => Just(Between::Quiet), 1 => Just(Between::Noisy)];
    prop_oneof![
        30 => prop::collection::vec((0..3usize, offset, byte), 0..16).prop_map(Step::Write),
        25 => (tries(), between()).prop_map(|(tries, between)| Step::Checkpoint(tries, between)),
        20 => (0..7u64, tries(), between()).prop_map(|(back, tries, between)| Step::Rollback(back, tries, between)),
        5 => (0..7u64).prop_map(Step::Release),
        3 => Just(Step::Abandon),
        4 => (1..MAX_PAGES).prop_map(Step::Add),
        2 => (0..3usize).prop_map(Step::Remove),
        20 => (1..40usize).prop_map(Step::Churn),
        4 => (1..6u64).prop_map(Step::Fail),
        2 => (0..4usize).prop_map(Step::Surprise),
    ]
}

fn run(world: &mut World, step: &Step) {
    let id = |world: &World, back: u64| {
        CheckpointId((world.engine.figures().checkpoints + 1).saturating_sub(back))
    };
    match step {
        Step::Write(writes) => {
            for &(at, offset, byte) in writes {
                if !world.regions.is_empty() {
                    world.write(at, offset, byte);
                }
            }
        }
        // Refusals are checked by the world.
        Step::Checkpoint(tries, between) => drop(world.checkpoint(*tries, *between)),
        Step::Rollback(back, tries, between) => {
            let id = id(world, *back);
            drop(world.rollback(id, *tries, *between));
        }
        Step::Release(back) => {
            let id = id(world, *back);
            drop(world.release(id));
        }
        Step::Abandon => world.abandon(),
        Step::Add(pages) => drop(world.add(*pages)),
        Step::Remove(at) if *at < world.regions.len() => world.remove(*at),
        Step::Remove(_) => {}
        Step::Churn(times) => world.churn(*times),
        Step::Fail(call) => world.engine.tracker_mut().fail_in = *call,
        Step::Surprise(one_in) => {
            world.engine.tracker_mut().surprise = if *one_in == 1 { 2 } else { *one_in }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_program_in_a_guest_gets_back_what_it_had(
        steps in prop::collection::vec(step(), 1..120),
        rule in prop_oneof![Just(Rule::Always), Just(Rule::Model), Just(Rule::Wrong), Just(Rule::Random)],
        history in 1..6usize,
        max_pages_per_try in prop_oneof![Just(u64::MAX), 1..9_u64],
        helpers in prop_oneof![Just(0), Just(1), Just(4usize)],
    ) {
        let history = NonZeroUsize::new(history).unwrap();
        let config = Config { history, rule, max_regions: 3, max_pages_per_try, ..Config::default() };
        let mut world = World::with_config(FRAMES, config).with_pool(Pool::eager(helpers));
        steps.iter().for_each(|step| run(&mut world, step));
        world.check_all();
    }
}

#[test]
fn one_long_program_in_a_guest() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut world = World::new(FRAMES, Rule::Model, 5);
    for _ in 0..1500 {
        let next = step().new_tree(&mut runner).unwrap().current();
        run(&mut world, &next);
    }
    world.check_all();
    let figures = world.engine.figures();
    assert!(figures.checkpoints > 100 && figures.rollbacks > 50 && world.retries > 300);
}
