//! Named cases: limits, sets, trees, and what a reader would ask first.

use cairn_abi::{CheckpointId, RegionId, RegionName};

use super::memory::Memory;
use super::model::World;
use super::tracker::FakeTracker;
use crate::{Config, Engine, EngineError, MAX_REGIONS, PAGE_SIZE, Rule, SetSide};

fn engine(config: Config) -> Engine<FakeTracker> {
    Engine::new(FakeTracker::default(), config)
}

fn name(text: &str) -> RegionName {
    RegionName::new(text.as_bytes()).unwrap()
}

fn world() -> World {
    World::new(Rule::Model, 8, FakeTracker::default())
}

#[test]
fn without_regions_ids_still_count() {
    let mut world = world();
    assert_eq!(world.checkpoint().unwrap(), CheckpointId(1));
    assert_eq!(world.checkpoint().unwrap(), CheckpointId(2));
    world.rollback(CheckpointId(1)).unwrap();
    assert!(matches!(world.rollback(CheckpointId(0)), Err(EngineError::NoCheckpoint(_))));
    assert!(matches!(world.rollback(CheckpointId(3)), Err(EngineError::NoCheckpoint(_))));
    world.checkpoint().unwrap();
    assert_eq!(world.engine.checkpoint_figures(CheckpointId(3)).unwrap().parent, Some(CheckpointId(1)));
}

#[test]
fn siblings_keep_their_own_bytes() {
    let mut world = world();
    world.add(4).unwrap();
    let base = world.checkpoint().unwrap();
    world.write(0, 0, 1);
    let left = world.checkpoint().unwrap();
    world.rollback(base).unwrap();
    world.write(0, 100, 2);
    let right = world.checkpoint().unwrap();
    world.write(0, PAGE_SIZE, 3);
    world.rollback(left).unwrap();
    world.rollback(right).unwrap();
    // Without their common ancestor they still have what it knew.
    world.release(base).unwrap();
    world.rollback(left).unwrap();
    world.rollback(right).unwrap();
    world.release(right).unwrap();
    world.rollback(left).unwrap();
    assert!(matches!(world.rollback(right), Err(EngineError::NoCheckpoint(id)) if id == right));
}

#[test]
fn memory_may_derive_from_a_released_checkpoint() {
    let mut world = world();
    world.add(4).unwrap();
    world.checkpoint().unwrap();
    world.write(0, 5, 5);
    let second = world.checkpoint().unwrap();
    world.release(second).unwrap();
    assert_eq!(world.engine.figures().current, 2);
    world.write(0, 6, 6);
    let third = world.checkpoint().unwrap();
    assert_eq!(world.engine.checkpoint_figures(third).unwrap().parent, Some(second));
    world.rollback_to_all();
}

#[test]
fn eviction_says_so_and_keeps_the_newest() {
    let mut world = World::new(Rule::Always, 3, FakeTracker::default());
    world.add(2).unwrap();
    for byte in 1..=4 {
        world.write(0, 9, byte);
        world.checkpoint().unwrap();
    }
    let error = world.rollback(CheckpointId(1)).unwrap_err();
    assert!(matches!(error, EngineError::Evicted { id: CheckpointId(1), oldest: CheckpointId(2) }));
    assert!(error.to_string().contains("the oldest that is retained is 2"), "{error}");
    world.rollback(CheckpointId(2)).unwrap();
}

#[test]
fn another_region_set_is_refused_by_name() {
    let mut world = world();
    world.add(1).unwrap();
    let one = world.checkpoint().unwrap();
    world.add(1).unwrap();
    match world.rollback(one).unwrap_err() {
        EngineError::RegionSet { region, name, side, .. } => {
            assert_eq!((region, name.as_str(), side), (RegionId(2), "region 2", SetSide::Today));
        }
        other => panic!("{other}"),
    }
    let both = world.checkpoint().unwrap();
    world.remove(1);
    let error = world.rollback(both).unwrap_err();
    let text = "checkpoint 2 can't be restored: region \"region 2\" (id 2) was dropped since";
    assert_eq!(error.to_string(), text);
    // The set is the first one's again.
    world.write(0, 1, 1);
    world.rollback(one).unwrap();
}

/// A world whose first region's pages changed in checkpoints 2 and 3.
fn world_with_history() -> World {
    let mut world = world();
    world.add(60).unwrap();
    world.checkpoint().unwrap();
    for byte in 1..=2 {
        (0..60).for_each(|page| world.write(0, page * PAGE_SIZE, byte));
        world.checkpoint().unwrap();
    }
    world
}

#[test]
fn filling_fresh_memory_costs_no_history() {
    let mut world = world_with_history();
    let bytes = [1, 2, 3].map(|id| world.engine.checkpoint_figures(CheckpointId(id)).unwrap().bytes);
    // One page had something in it already, and a page's entry is smaller than a chunk.
    assert!(bytes[0] < 60 * 64 && bytes[1] >= 60 * 64 && bytes[2] == 0, "{bytes:?}");
    world.rollback_to_all();
}

#[test]
fn dropping_a_region_frees_its_history() {
    let mut world = world_with_history();
    let changed =
        [1, 2, 3].map(|id| world.engine.checkpoint_figures(CheckpointId(id)).unwrap().pages_changed);
    assert_eq!(changed, [1, 60, 60]);
    world.remove(0);
    let figures = world.engine.figures();
    assert_eq!((figures.mirror_bytes, figures.regions), (0, 0));
    assert_eq!(world.history_bytes(), 0);
}

#[test]
fn zero_pages_are_not_stored() {
    let mut world = world();
    world.add(50).unwrap();
    world.checkpoint().unwrap();
    assert_eq!(world.engine.figures().mirror_bytes, 4096);
    world.write(0, 0, 3);
    world.checkpoint().unwrap();
    assert_eq!(world.engine.figures().mirror_bytes, 2 * 4096);
}

#[test]
fn names_and_limits() {
    let mut engine = engine(Config { max_region_bytes: 2 * 4096, ..Config::default() });
    let (two, one) = (Memory::new(2), Memory::new(1));
    assert!(matches!(engine.add_region(name("none"), Memory::new(0).live()), Err(EngineError::EmptyRegion)));
    let id = engine.add_region(name("a"), one.live()).unwrap();
    assert!(matches!(engine.add_region(name("a"), Memory::new(1).live()), Err(EngineError::NameTaken(_))));
    assert!(
        matches!(engine.add_region(name("b"), one.live()), Err(EngineError::Overlap(other)) if other == id)
    );
    let error = engine.add_region(name("b"), two.live()).unwrap_err();
    assert!(matches!(error, EngineError::TooManyBytes { bytes: 12_288, max: 8192 }));
    engine.remove_region(id).unwrap();
    assert_eq!(engine.add_region(name("a"), two.live()).unwrap(), RegionId(2));
}

#[test]
fn as_many_regions_as_are_allowed() {
    let mut engine = engine(Config::default());
    let memories: Vec<_> = (0..=MAX_REGIONS).map(|_| Memory::new(1)).collect();
    for (at, memory) in memories[..MAX_REGIONS].iter().enumerate() {
        engine.add_region(name(&format!("{at}")), memory.live()).unwrap();
    }
    let error = engine.add_region(name("more"), memories[MAX_REGIONS].live()).unwrap_err();
    assert!(matches!(error, EngineError::TooManyRegions { max: MAX_REGIONS }));
}

#[test]
fn hot_pages_are_opened_and_cold_ones_protected() {
    let mut world = world();
    let id = world.add(100).unwrap();
    world.checkpoint().unwrap();
    for epoch in 0..60u8 {
        (0..10).for_each(|page| world.write(0, page * PAGE_SIZE, epoch + 1));
        world.write(0, (20 + usize::from(epoch)) * PAGE_SIZE, 1);
        world.checkpoint().unwrap();
    }
    assert_eq!(world.engine.figures().pages_open, 10);
    assert_eq!(world.engine.tracker().open_pages(id), 10);
    assert!(world.engine.figures().faults_avoided > 10 * 55);
    for _ in 0..12 {
        world.checkpoint().unwrap();
    }
    assert_eq!(world.engine.tracker().open_pages(id), 0);
}

#[test]
fn what_was_undone_stays_open_for_the_next_try() {
    for (rule, open) in [(Rule::Model, 5), (Rule::Always, 0)] {
        let mut world = World::new(rule, 8, FakeTracker { protects_engine: true, ..FakeTracker::default() });
        let region = world.add(100).unwrap();
        let first = world.checkpoint().unwrap();
        (20..30).for_each(|page| world.write(0, page * PAGE_SIZE, 1));
        world.checkpoint().unwrap();
        (0..5).for_each(|page| world.write(0, page * PAGE_SIZE, 1));
        world.rollback(first).unwrap();
        // Of the ten pages that only the older version made it write, none for that reason.
        assert!(world.engine.tracker().open_pages(region) >= open);
        for _ in 0..20 {
            world.checkpoint().unwrap();
        }
        assert_eq!(world.engine.tracker().open_pages(region), 0);
    }
}

#[test]
fn an_engine_may_move_to_another_thread() {
    fn assert_send<T: Send>() {}
    struct Nothing;
    impl crate::Tracker for Nothing {
        fn attach(&mut self, _: RegionId, _: &crate::LiveMemory) -> Result<(), crate::TrackError> {
            Ok(())
        }
        fn detach(&mut self, _: RegionId) {}
        fn collect(&mut self, _: RegionId, _: &mut crate::PageSet) -> Result<(), crate::TrackError> {
            Ok(())
        }
        fn protect(&mut self, _: RegionId, _: &crate::PageSet) -> Result<(), crate::TrackError> {
            Ok(())
        }
    }
    assert_send::<Engine<Nothing>>();
}

#[test]
fn where_the_program_hints_nothing_else_is_looked_at() {
    let mut engine = engine(Config::default());
    let memory = Memory::new(200);
    let id = engine.add_hinted_region(name("a"), memory.live(), true).unwrap();
    assert_eq!(engine.checkpoint().unwrap(), CheckpointId(1));
    assert_eq!(engine.figures().pages_compared, 0);
    memory.write(70 * PAGE_SIZE, 1);
    memory.write(130 * PAGE_SIZE, 1);
    // Beyond the region there's nothing to look at.
    for (word, bits) in [(1, 1 << 6 | 1 << 7), (3, u64::MAX << 8), (4, 1), (usize::MAX, 1)] {
        engine.hint(id, word, bits).unwrap();
    }
    let second = engine.checkpoint().unwrap();
    let figures = engine.figures();
    assert_eq!((figures.pages_compared, figures.pages_changed, figures.pages_protected), (2, 1, 0));
    engine.rollback(CheckpointId(1)).unwrap();
    assert_eq!((memory.read_page(70)[0], memory.read_page(130)[0]), (0, 1));
    engine.rollback(second).unwrap();
    assert_eq!(memory.read_page(70)[0], 1);
    assert!(matches!(engine.hint(RegionId(2), 0, 1), Err(EngineError::NoRegion(_))));
}

#[test]
fn what_holds_something_already_is_taken_by_the_first_checkpoint() {
    let mut engine = engine(Config::default());
    let memory = Memory::new(3);
    memory.write(PAGE_SIZE, 7);
    engine.add_hinted_region(name("a"), memory.live(), false).unwrap();
    let id = engine.checkpoint().unwrap();
    memory.write(PAGE_SIZE, 8);
    engine.hint(RegionId(1), 0, 2).unwrap();
    engine.rollback(id).unwrap();
    assert_eq!(memory.read_page(1)[0], 7);
}

#[test]
fn the_tree_is_walked_by_ids() {
    let mut world = world();
    for _ in 0..4 {
        world.checkpoint().unwrap();
    }
    world.release(CheckpointId(2)).unwrap();
    let next = |after| world.engine.next_checkpoint_figures(CheckpointId(after)).map(|one| one.id.0).ok();
    assert_eq!([0, 1, 2, 3, 4, u64::MAX].map(next), [Some(1), Some(3), Some(3), Some(4), None, None]);
}

#[test]
fn pages_that_become_zeros_give_their_memory_back() {
    let mut world = World::new(Rule::Always, 8, FakeTracker::default());
    world.add(100).unwrap();
    (0..100).for_each(|page| world.write_page(0, page, 5));
    world.checkpoint().unwrap();
    assert_eq!(world.engine.figures().mirror_bytes, 100 * 4096);
    (10..70).for_each(|page| world.write_page(0, page, 0));
    world.checkpoint().unwrap();
    // They may change again soon; now they didn't.
    assert_eq!(world.engine.figures().mirror_bytes, 100 * 4096);
    world.checkpoint().unwrap();
    assert_eq!(world.engine.figures().mirror_bytes, 40 * 4096);
    world.write(0, 20 * PAGE_SIZE, 1);
    world.checkpoint().unwrap();
    assert_eq!(world.engine.figures().mirror_bytes, 41 * 4096);
    world.rollback_to_all();
}

#[test]
fn zeros_that_a_rollback_brings_back_are_zeros_again() {
    let mut world = World::new(Rule::Always, 8, FakeTracker::default());
    world.add(100).unwrap();
    let first = world.checkpoint().unwrap();
    for byte in [5, 6] {
        (0..100).for_each(|page| world.write_page(0, page, byte));
        world.checkpoint().unwrap();
        // One page had something in it already.
        let bytes = world.engine.checkpoint_figures(first).unwrap().bytes;
        assert!(bytes < 2 * 4096, "{bytes}: filling fresh memory costs no history");
        world.rollback(first).unwrap();
        assert_eq!(world.engine.figures().mirror_bytes, 100 * 4096, "they may be filled again soon");
    }
    // They weren't.
    world.rollback(first).unwrap();
    assert_eq!(world.engine.figures().mirror_bytes, 4096);
    world.rollback_to_all();
}
