//! Versions that go elsewhere and come back.

use cairn_abi::{CheckpointId, RegionMode};
use proptest::prelude::*;

use super::model::{Copies, World};
use super::tracker::FakeTracker;
use crate::{EngineError, PAGE_SIZE, Rule};

const PAGES: usize = 20;
const STORED: CheckpointId = CheckpointId(7);

fn world() -> World {
    World::new(Rule::Model, 4, FakeTracker::default())
}

/// Two regions, the second one hinted.
fn two_regions() -> World {
    let mut world = world();
    world.add(PAGES).unwrap();
    world.add_in(RegionMode::Hinted, PAGES).unwrap();
    world
}

/// What a checkpoint of them has in these bytes, and zeros elsewhere.
fn stored(world: &World, bytes: &[(usize, usize, u8)]) -> Copies {
    let mut copies: Copies = world.regions.iter().map(|(id, ..)| (*id, vec![0; PAGES * PAGE_SIZE])).collect();
    for (at, offset, byte) in bytes {
        copies.get_mut(&world.regions[*at].0).unwrap()[*offset] = *byte;
    }
    copies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What was written before and after an import matters to no checkpoint, and what is gathered fits on top.
    #[test]
    fn what_comes_back_is_a_checkpoint_like_any_other(
        kept in prop::collection::vec((0..2usize, 0..PAGES * PAGE_SIZE, 1..255u8), 0..30),
        before in prop::collection::vec((0..2usize, 0..PAGES * PAGE_SIZE, any::<u8>()), 0..20),
        after in prop::collection::vec((0..2usize, 0..PAGES * PAGE_SIZE, any::<u8>()), 0..20),
        rolls_back in any::<bool>(),
        asynchronous in any::<bool>(),
    ) {
        let mut world = two_regions();
        before.iter().for_each(|&(at, offset, byte)| world.write(at, offset, byte));
        let copies = stored(&world, &kept);
        world.import(STORED, &copies);
        world.elsewhere.start_with(copies.clone());
        if rolls_back {
            world.rollback(STORED).unwrap();
        }
        after.iter().for_each(|&(at, offset, byte)| world.write(at, offset, byte));
        if asynchronous {
            world.checkpoint_async().unwrap();
        } else {
            prop_assert_eq!(world.checkpoint().unwrap(), CheckpointId(STORED.0 + 1));
        }
        world.save();
        world.rollback(STORED).unwrap();
        prop_assert!(world.read() == copies);
        world.save();
        world.rollback_to_all();
        world.save();
    }
}

#[test]
fn an_import_that_is_given_up_leaves_nothing_behind() {
    let mut world = two_regions();
    let region = world.regions[0].0;
    for page in 0..PAGES {
        world.engine.import_page(region, page, &[9; PAGE_SIZE]).unwrap();
    }
    let id = world.checkpoint().unwrap();
    world.save();
    world.write(0, 5, 5);
    world.rollback(id).unwrap();
    world.save();
}

#[test]
fn a_page_can_be_taken_twice() {
    let mut world = world();
    let region = world.add(PAGES).unwrap();
    world.engine.import_page(region, 3, &[9; PAGE_SIZE]).unwrap();
    world.engine.import_page(region, 3, &[0; PAGE_SIZE]).unwrap();
    let zeros = stored(&world, &[]);
    world.import(STORED, &zeros);
    world.rollback(STORED).unwrap();
}

#[test]
fn only_a_fresh_engine_takes_a_checkpoint() {
    let mut world = world();
    let region = world.add(PAGES).unwrap();
    let page = [1; PAGE_SIZE];
    let refused = |result| assert!(matches!(result, Err(EngineError::NoImport)), "{result:?}");
    refused(world.engine.import_page(region, PAGES, &page));
    refused(world.engine.end_import(CheckpointId(0), true));
    assert!(world.engine.is_fresh());
    world.checkpoint().unwrap();
    assert!(!world.engine.is_fresh());
    refused(world.engine.import_page(region, 0, &page));
    refused(world.engine.end_import(STORED, true));
}

#[test]
fn ids_are_left_out() {
    let mut world = world();
    world.add(PAGES).unwrap();
    world.skip_ids(CheckpointId(40));
    world.skip_ids(CheckpointId(3));
    assert!(world.engine.is_fresh());
    assert_eq!(world.checkpoint().unwrap(), CheckpointId(41));
    assert_eq!(world.engine.figures().checkpoints, 1);
    // However old: they were never evicted here.
    for left_out in [1, 3, 40] {
        assert!(matches!(world.rollback(CheckpointId(left_out)), Err(EngineError::NoCheckpoint(_))));
        let ticket = world.engine.ticket(CheckpointId(left_out), false);
        assert!(matches!(ticket, Err(EngineError::NoCheckpoint(_))));
    }
    // Nor do they count as taken after one of ours.
    world.skip_ids(CheckpointId(100));
    world.release(CheckpointId(41)).unwrap();
    for id in 101..105 {
        assert!(matches!(world.rollback(CheckpointId(41)), Err(EngineError::NoCheckpoint(_))));
        assert_eq!(world.checkpoint().unwrap(), CheckpointId(id));
    }
    assert!(matches!(world.rollback(CheckpointId(41)), Err(EngineError::Evicted { .. })));
    for left_out in [40, 42, 100] {
        assert!(matches!(world.rollback(CheckpointId(left_out)), Err(EngineError::NoCheckpoint(_))));
    }
}

/// Of all that a store has, only the one that was taken back is this session's.
#[test]
fn an_old_one_that_came_back_is_the_only_one_of_the_store() {
    let mut world = two_regions();
    world.skip_ids(CheckpointId(40));
    let copies = stored(&world, &[(0, 5, 5)]);
    world.import(STORED, &copies);
    for id in 41..45 {
        for other in [1, STORED.0 - 1, STORED.0 + 1, 40] {
            assert!(matches!(world.rollback(CheckpointId(other)), Err(EngineError::NoCheckpoint(_))));
        }
        world.rollback(STORED).unwrap();
        assert_eq!(world.checkpoint().unwrap(), CheckpointId(id));
    }
    assert!(matches!(world.rollback(STORED), Err(EngineError::Evicted { .. })));
}
