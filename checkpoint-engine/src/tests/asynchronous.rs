//! Asynchronous checkpoints, step by step.

use cairn_abi::CheckpointId;

use super::model::World;
use super::tracker::FakeTracker;
use crate::{Config, EngineError, PAGE_SIZE, Rule, Ticket};

/// Pages of the first region.
const PAGES: usize = 100;

/// A world with two regions, a checkpoint, and writes after it.
fn world(config: Config) -> World {
    let mut world = World::with_config(config, FakeTracker::default());
    world.add(PAGES).unwrap();
    world.add(20).unwrap();
    (0..PAGES).for_each(|page| world.write(0, page * PAGE_SIZE, 3));
    world.checkpoint().unwrap();
    (0..PAGES / 2).for_each(|page| world.write(page % 2, page * PAGE_SIZE + page, 1));
    world
}

fn started(world: &mut World) -> Ticket {
    let ticket = world.checkpoint_async().unwrap();
    assert!(!ticket.done && world.engine.tracker().holds_any());
    ticket
}

#[test]
fn a_page_that_is_written_is_taken_first() {
    let mut world = world(Config::default());
    let ticket = started(&mut world);
    for page in (0..PAGES).rev() {
        world.write(0, page * PAGE_SIZE + 9, 7);
        world.write(0, page * PAGE_SIZE + 9, 8);
    }
    world.ask(true);
    world.rollback(ticket.id).unwrap();
    world.rollback_to_all();
}

#[test]
fn every_call_finishes_what_was_begun() {
    type Call = fn(&mut World);
    let calls: [Call; 6] = [
        |world| assert!(world.checkpoint().is_ok()),
        |world| world.rollback(CheckpointId(1)).unwrap(),
        |world| world.release(CheckpointId(2)).unwrap(),
        |world| assert!(world.add(3).is_ok()),
        |world| world.remove(0),
        |world| assert!(world.checkpoint_async().is_ok()),
    ];
    for call in calls {
        for batches in [0, 1, 3, 1000] {
            let mut world = world(Config::default());
            started(&mut world);
            for _ in 0..batches {
                world.engine.copying().copy_some();
            }
            world.write(1, 3 * PAGE_SIZE, 99);
            call(&mut world);
            world.checkpoint().unwrap();
            world.rollback_to_all();
        }
    }
}

#[test]
fn where_nobody_can_be_held_back_the_ticket_is_done_at_once() {
    let mut world = world(Config::default());
    world.engine.tracker_mut().never_freezes = true;
    assert_eq!(world.checkpoint_async().unwrap(), Ticket { id: CheckpointId(2), done: true });
    for failing in 3..=4 {
        world.engine.tracker_mut().never_freezes = false;
        world.write(0, 0, 50);
        world.write(1, 0, 50);
        // The first calls collect, the next two freeze.
        world.engine.tracker_mut().fail_in = failing;
        assert!(world.checkpoint_async().unwrap().done, "the second try takes the pages at once");
        assert!(!world.engine.tracker().holds_any());
    }
    world.rollback_to_all();
}

#[test]
fn one_that_fails_says_so_and_changes_nothing() {
    for limit in [3000, 5000, 8000] {
        for batches in [0, 2, 1000] {
            let config = Config { max_history_bytes: limit, rule: Rule::Always, ..Config::default() };
            let mut world = World::with_config(config, FakeTracker::default());
            world.add(PAGES).unwrap();
            world.checkpoint().unwrap();
            let before = world.read();
            (0..PAGES).for_each(|page| world.write(0, page * PAGE_SIZE, 1));
            // Pages that were zeros take little of the history.
            world.engine.checkpoint().unwrap();
            (0..PAGES).for_each(|page| world.write(0, page * PAGE_SIZE, 2));
            let after = world.read();
            let ticket = world.engine.checkpoint_async().unwrap();
            assert_eq!(ticket, Ticket { id: CheckpointId(3), done: false });
            for _ in 0..batches {
                world.engine.copying().copy_some();
            }
            assert!(matches!(world.engine.ticket(ticket.id, true), Err(EngineError::NoMemory)));
            assert!(matches!(world.engine.ticket(ticket.id, false), Err(EngineError::NoMemory)));
            assert!(matches!(world.engine.ticket(CheckpointId(4), false), Err(EngineError::NoCheckpoint(_))));
            assert!(matches!(world.engine.rollback(ticket.id), Err(EngineError::NoCheckpoint(_))));
            assert!(!world.engine.tracker().holds_any() && world.read() == after);
            assert_eq!(world.engine.figures().checkpoints, 2);
            // All that was written is undone, so it was known to be written; and the id is never used again.
            world.engine.rollback(CheckpointId(1)).unwrap();
            assert!(world.read() == before);
            assert_eq!(world.engine.checkpoint().unwrap(), CheckpointId(4));
        }
    }
}

#[test]
fn tickets_are_known_after_their_checkpoints_are_gone() {
    let mut world = world(Config::default());
    let ticket = started(&mut world);
    world.ask(true);
    world.release(ticket.id).unwrap();
    assert!(world.engine.ticket(ticket.id, false).unwrap().done);
    for id in [CheckpointId(0), CheckpointId(9), CheckpointId(u64::MAX)] {
        assert!(matches!(world.engine.ticket(id, true), Err(EngineError::NoCheckpoint(no)) if no == id));
    }
}

#[test]
fn an_engine_that_goes_holds_nobody_back() {
    let mut world = world(Config::default());
    started(&mut world);
    let copying = std::sync::Arc::clone(world.engine.copying());
    let address = world.regions[0].2.live().address();
    drop(world);
    assert!(!copying.copy_some() && !copying.copy_at(address));
}

#[test]
fn another_thread_copies_while_pages_are_written() {
    let mut world = world(Config::default());
    for epoch in 0..40 {
        let ticket = world.checkpoint_async().unwrap();
        let copying = std::sync::Arc::clone(world.engine.copying());
        let copier = std::thread::spawn(move || while copying.copy_some() {});
        for page in 0..PAGES {
            world.write(0, (page * 37 % PAGES) * PAGE_SIZE + epoch, 5);
        }
        world.ask(epoch % 2 == 0);
        world.rollback(ticket.id).unwrap();
        copier.join().unwrap();
        world.write(1, epoch * PAGE_SIZE, 6);
    }
    world.rollback_to_all();
}
