//! A failure at any point leaves every earlier checkpoint exact.

use std::num::NonZeroUsize;

use cairn_abi::CheckpointId;

use super::model::World;
use super::tracker::FakeTracker;
use crate::{Config, EngineError, PAGE_SIZE, Pool, Rule};

/// A world with two regions and checkpoints 1 and 2, and writes after them.
fn world(config: Config, protects_engine: bool) -> World {
    let mut world = World::with_config(config, FakeTracker { protects_engine, ..FakeTracker::default() });
    world.add(70).unwrap();
    world.add(3).unwrap();
    world.checkpoint().unwrap();
    (0..20).for_each(|page| world.write(0, page * 3 * PAGE_SIZE, 1));
    world.checkpoint().unwrap();
    (0..20).for_each(|page| world.write(page % 2, page * 2 * PAGE_SIZE, 2));
    world
}

#[test]
fn the_tracker_fails_at_any_call_of_a_checkpoint() {
    for protects_engine in [false, true] {
        for call in 1..=5 {
            // A rule by which both regions are protected.
            let mut world = world(Config { rule: Rule::Always, ..Config::default() }, protects_engine);
            world.engine.tracker_mut().fail_in = call;
            let collecting = call <= 2;
            assert_eq!(world.checkpoint().is_err(), collecting, "call {call}");
            assert_eq!(world.engine.unprotected().is_some(), (3..=4).contains(&call), "call {call}");
            world.engine.tracker_mut().fail_in = 0;
            world.checkpoint().unwrap();
            assert!(world.engine.unprotected().is_none());
            world.rollback_to_all();
        }
    }
}

#[test]
fn the_tracker_fails_at_any_call_of_a_rollback() {
    for protects_engine in [false, true] {
        for call in 1..=7 {
            let mut world = world(Config::default(), protects_engine);
            world.engine.tracker_mut().fail_in = call;
            assert_eq!(world.rollback(CheckpointId(1)).is_err(), call <= 4, "call {call}");
            world.engine.tracker_mut().fail_in = 0;
            world.write(1, 5, 9);
            world.checkpoint().unwrap();
            world.rollback_to_all();
        }
    }
}

#[test]
fn what_a_failed_rollback_wrote_out_is_kept_elsewhere_too() {
    let mut world = World::new(Rule::Always, 8, FakeTracker::default());
    world.add(70).unwrap();
    let first = world.checkpoint().unwrap();
    // What it replaces is zeros, which its delta leaves out until a rollback needs them.
    (0..20).for_each(|page| world.write_page(0, page, 1));
    world.checkpoint().unwrap();
    world.save();
    world.elsewhere.kept();
    world.history_elsewhere.kept();
    world.engine.saved();
    world.engine.tracker_mut().fail_in = 1;
    world.rollback(first).unwrap_err();
    world.be_reborn(true);
    world.rollback_to_all();
}

#[test]
fn a_checkpoint_that_fails_leaves_no_memory_behind() {
    // Each of the pages needs an entry, if no chunk.
    let config = Config { max_history_bytes: 1000, ..Config::default() };
    for asynchronous in [false, true] {
        let mut world = World::with_config(config, FakeTracker::default());
        world.add(100).unwrap();
        world.checkpoint().unwrap();
        (0..100).for_each(|page| world.write_page(0, page, 1));
        if asynchronous {
            let ticket = world.engine.checkpoint_async().unwrap();
            assert!(matches!(world.engine.ticket(ticket.id, true), Err(EngineError::NoMemory)));
        } else {
            assert!(matches!(world.checkpoint(), Err(EngineError::NoMemory)));
        }
        assert_eq!(world.engine.figures().mirror_bytes, 4096);
        world.engine.rollback(CheckpointId(1)).unwrap();
        assert!(world.read().values().all(|bytes| bytes.iter().filter(|byte| **byte != 0).count() == 1));
    }
}

/// Takes checkpoints of 0, 7, .. 28 pages in turn, in each of which one chunk changed. Returns how many failed.
fn fill_history(world: &mut World) -> u32 {
    let mut failed = 0;
    for round in 0..30u8 {
        let pages = usize::from(round % 5) * 7;
        (0..pages).for_each(|page| world.write(0, page * 2 * PAGE_SIZE + 64 * usize::from(round), round + 1));
        match world.checkpoint() {
            Ok(_) => {}
            Err(EngineError::NoMemory) => {
                failed += 1;
                // What wasn't committed is still there to be committed or undone.
                let newest = world.engine.figures().current;
                world.rollback(CheckpointId(newest)).unwrap();
            }
            Err(other) => panic!("{other}"),
        }
    }
    world.rollback_to_all();
    failed
}

#[test]
fn a_full_history_loses_the_oldest_and_a_checkpoint_that_is_too_large_alone_fails() {
    // 28 pages with a chunk each take 28 * (64 + 24) bytes.
    for (limit, failed) in [(0, 24), (1, 24), (700, 18), (2463, 5), (2464, 0), (9000, 0)] {
        for helpers in [0, 1, 4] {
            let config = Config { max_history_bytes: limit, ..Config::default() };
            let mut world =
                World::with_config(config, FakeTracker::default()).with_pool(Pool::eager(helpers));
            world.add(70).unwrap();
            world.checkpoint().unwrap();
            assert_eq!(fill_history(&mut world), failed, "limit {limit}");
        }
    }
}

#[test]
fn as_many_are_retained_as_the_history_has_room_for() {
    // Ten pages with a chunk each.
    let each = 10 * (64 + 24);
    for room in 1..5 {
        let config = Config { max_history_bytes: room * each, ..Config::default() };
        let mut world = World::with_config(config, FakeTracker::default());
        world.add(70).unwrap();
        for round in 0..20 {
            (0..10).for_each(|page| world.write(0, page * PAGE_SIZE, round));
            world.checkpoint().unwrap();
        }
        // The newest takes no room: it is the mirror.
        assert_eq!(u64::from(world.engine.figures().retained), room + 1);
        assert!(matches!(world.rollback(CheckpointId(1)), Err(EngineError::Evicted { .. })));
        world.rollback_to_all();
    }
}

#[test]
fn a_failed_checkpoint_is_retried_with_the_same_pages() {
    let history = NonZeroUsize::new(2).unwrap();
    let mut world = world(Config { history, rule: Rule::Model, ..Config::default() }, false);
    let open = [0, 1].map(|at| world.engine.tracker().open_pages(world.regions[at].0));
    world.engine.tracker_mut().fail_in = 2;
    world.checkpoint().unwrap_err();
    assert_eq!([0, 1].map(|at| world.engine.tracker().open_pages(world.regions[at].0)), open);
    assert_eq!(world.checkpoint().unwrap(), CheckpointId(3));
    assert!(matches!(
        world.rollback(CheckpointId(1)),
        Err(EngineError::Evicted { oldest: CheckpointId(2), .. })
    ));
    world.rollback_to_all();
}

#[test]
fn a_region_that_cannot_be_tracked_is_not_there() {
    let mut world =
        World::with_config(Config::default(), FakeTracker { fail_in: 1, ..FakeTracker::default() });
    assert!(matches!(world.add(1), Err(EngineError::Track(_))));
    assert_eq!(world.engine.figures().regions, 0);
    assert_eq!(world.add(1).unwrap().0, 1);
}
