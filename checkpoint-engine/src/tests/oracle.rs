//! Random programs: writes, checkpoints, rollbacks, releases, regions that come and go.

use cairn_abi::{CheckpointId, RegionMode};
use proptest::prelude::*;

use super::model::World;
use super::tracker::FakeTracker;
use crate::{PAGE_SIZE, Pool, Rule};

/// Pages of the largest region: more than a word of a page set.
const MAX_PAGES: usize = 80;

#[derive(Clone, Debug)]
enum Step {
    /// Bytes to write, each in some region. Few distinct places, so that pages are hot.
    Write(Vec<(usize, usize, u8)>),
    /// Writes one byte into each of the pages from the first on.
    Sweep(usize, usize, u8),
    /// Writes all of each of so many pages from one on.
    Fill(usize, usize, usize, u8),
    Checkpoint,
    CheckpointAsync,
    /// Another thread copies so many batches.
    Copy(usize),
    Ask(bool),
    /// To the id this far below the newest; some never were a checkpoint's.
    Rollback(u64),
    Release(u64),
    Add(usize),
    /// A region whose program says what it writes.
    AddHinted(usize),
    Remove(usize),
    /// The tracker's call that fails, from here.
    Fail(u64),
    RefuseProtect(bool),
    /// Somebody else keeps the newest version.
    Save,
    /// What became of that.
    Saved(bool),
    /// The engine is built anew, of what somebody else keeps or not.
    Reborn(bool),
    /// Leaves so many ids out.
    Skip(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![
        3 => (0..8usize, 0..6usize).prop_map(|(page, word)| page * 7 * PAGE_SIZE + word * 700),
        1 => 0..MAX_PAGES * PAGE_SIZE,
    ];
    let byte = prop_oneof![Just(0), Just(1), any::<u8>()];
    prop_oneof![
        30 => prop::collection::vec((0..4usize, offset, byte), 0..12).prop_map(Step::Write),
        3 => (0..4usize, 0..MAX_PAGES, any::<u8>()).prop_map(|(at, pages, byte)| Step::Sweep(at, pages, byte)),
        4 => (0..4usize, 0..MAX_PAGES, 0..MAX_PAGES, prop_oneof![Just(0), any::<u8>()])
            .prop_map(|(at, first, pages, byte)| Step::Fill(at, first, pages, byte)),
        20 => Just(Step::Checkpoint),
        15 => Just(Step::CheckpointAsync),
        15 => (0..3usize).prop_map(Step::Copy),
        5 => any::<bool>().prop_map(Step::Ask),
        20 => (0..9u64).prop_map(Step::Rollback),
        6 => (0..9u64).prop_map(Step::Release),
        3 => (1..MAX_PAGES).prop_map(Step::Add),
        2 => (1..MAX_PAGES).prop_map(Step::AddHinted),
        2 => (0..4usize).prop_map(Step::Remove),
        2 => (1..6u64).prop_map(Step::Fail),
        1 => any::<bool>().prop_map(Step::RefuseProtect),
        12 => Just(Step::Save),
        8 => prop::bool::weighted(0.7).prop_map(Step::Saved),
        4 => any::<bool>().prop_map(Step::Reborn),
        2 => (0..5u64).prop_map(Step::Skip),
    ]
}

/// The id `back` below one more than the newest.
fn id(world: &World, back: u64) -> CheckpointId {
    CheckpointId((world.newest + 1).saturating_sub(back))
}

fn run(world: &mut World, step: &Step) {
    match step {
        Step::Write(writes) => {
            for &(at, offset, byte) in writes {
                if !world.regions.is_empty() {
                    world.write(at % world.regions.len(), offset, byte);
                }
            }
        }
        Step::Sweep(at, pages, byte) => {
            for page in 0..if world.regions.is_empty() { 0 } else { *pages } {
                world.write(at % world.regions.len(), page * PAGE_SIZE + page, *byte);
            }
        }
        Step::Fill(at, first, pages, byte) => {
            for page in 0..if world.regions.is_empty() { 0 } else { *pages } {
                world.write_page(at % world.regions.len(), first + page, *byte);
            }
        }
        // Refusals are checked by the world: a step that is refused is a step like any other.
        Step::Checkpoint => drop(world.checkpoint()),
        Step::CheckpointAsync => drop(world.checkpoint_async()),
        Step::Copy(batches) => (0..*batches).for_each(|_| {
            world.engine.copying().copy_some();
        }),
        Step::Ask(wait) => world.ask(*wait),
        Step::Rollback(back) => drop(world.rollback(id(world, *back))),
        Step::Release(back) => drop(world.release(id(world, *back))),
        Step::Add(pages) => drop(world.add(*pages)),
        Step::AddHinted(pages) => drop(world.add_in(RegionMode::Hinted, *pages)),
        Step::Remove(at) if *at < world.regions.len() => world.remove(*at),
        Step::Remove(_) => {}
        Step::Fail(call) => world.engine.tracker_mut().fail_in = *call,
        Step::Save => world.save(),
        Step::Saved(true) => {
            world.elsewhere.kept();
            world.history_elsewhere.kept();
            world.engine.saved();
        }
        Step::Saved(false) => {
            world.elsewhere.lost();
            world.history_elsewhere.lost();
            world.engine.not_saved();
        }
        Step::Reborn(kept) => world.be_reborn(*kept),
        Step::Skip(ids) => world.skip_ids(CheckpointId(world.newest + ids)),
        Step::RefuseProtect(refuse) => world.engine.tracker_mut().refuse_protect = *refuse,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_program_gets_back_what_it_had(
        steps in prop::collection::vec(step(), 1..160),
        rule in prop_oneof![Just(Rule::Always), Just(Rule::Model), Just(Rule::Wrong), Just(Rule::Random)],
        history in 1..7usize,
        noise in 0..4u64,
        protects_engine in any::<bool>(),
        never_freezes in prop::bool::weighted(0.1),
        helpers in prop_oneof![Just(0), Just(1), Just(4usize)],
    ) {
        let tracker = FakeTracker { noise, protects_engine, never_freezes, ..FakeTracker::default() };
        let mut world = World::new(rule, history, tracker).with_pool(Pool::eager(helpers));
        for step in &steps {
            run(&mut world, step);
        }
        world.engine.tracker_mut().fail_in = 0;
        world.rollback_to_all();
    }

    #[test]
    fn the_rule_changes_no_byte(steps in prop::collection::vec(step(), 1..80)) {
        let ends = [Rule::Always, Rule::Model, Rule::Random].map(|rule| {
            let mut world = World::new(rule, 4, FakeTracker::default());
            // Failures count calls, and how many there are is what the rule decides.
            steps.iter().filter(|step| !matches!(step, Step::Fail(_))).for_each(|step| run(&mut world, step));
            world.read()
        });
        prop_assert!(ends[0] == ends[1] && ends[1] == ends[2]);
    }
}

/// What an engine says of itself, but for what of its buffers was ever in use.
fn figures(world: &World) -> cairn_abi::reply::SessionFigures {
    let figures = world.engine.figures();
    cairn_abi::reply::SessionFigures { history_bytes: 0, table_bytes: 0, ..figures }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_number_of_threads_changes_nothing(steps in prop::collection::vec(step(), 1..80)) {
        let mut alone = World::new(Rule::Model, 4, FakeTracker::default());
        let others = [1, 4].map(Pool::eager);
        let mut helped = others.map(|pool| World::new(Rule::Model, 4, FakeTracker::default()).with_pool(pool));
        for step in &steps {
            run(&mut alone, step);
            // How far one in the making has come depends on where its memory is.
            alone.ask(true);
            for world in &mut helped {
                run(world, step);
                world.ask(true);
                prop_assert!(world.read() == alone.read());
                prop_assert_eq!(figures(world), figures(&alone));
                prop_assert_eq!(world.history_bytes(), alone.history_bytes());
            }
        }
    }
}

#[test]
fn one_long_program() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut world = World::new(Rule::Model, 6, FakeTracker { noise: 50, ..FakeTracker::default() });
    for _ in 0..5000 {
        let next = step().new_tree(&mut runner).unwrap().current();
        run(&mut world, &next);
    }
    world.engine.tracker_mut().fail_in = 0;
    world.rollback_to_all();
    assert!(world.engine.figures().checkpoints > 1000);
}
