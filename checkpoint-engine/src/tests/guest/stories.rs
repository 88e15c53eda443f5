//! Named cases of absent and read-only pages.

use cairn_abi::CheckpointId;

use super::frames::{Kernel, Slot};
use super::model::{Between, World};
use crate::{Config, EngineError, PAGE_SIZE, Rule};

fn world(frames: usize, pages: usize) -> World {
    world_with(Rule::Model, frames, pages)
}

fn world_with(rule: Rule, frames: usize, pages: usize) -> World {
    let mut world = World::new(frames, rule, 8);
    world.add(pages).unwrap();
    world
}

fn sweep(world: &World, pages: std::ops::Range<usize>, byte: u8) {
    pages.for_each(|page| world.write(0, page * PAGE_SIZE + page, byte));
}

fn swap_out(world: &World, pages: std::ops::Range<usize>) {
    let region = world.regions[0].0;
    pages.for_each(|page| world.kernel().swap_out(region, page));
}

#[test]
fn a_region_larger_than_the_guest_s_memory() {
    let mut world = world(20, 300);
    for byte in 1..4 {
        sweep(&world, 0..300, byte);
        world.checkpoint(usize::MAX, Between::Quiet).unwrap();
    }
    assert_eq!(world.engine.checkpoint_figures(CheckpointId(3)).unwrap().pages_changed, 300);
    sweep(&world, 100..200, 9);
    for id in [1, 3, 2] {
        world.rollback(CheckpointId(id), usize::MAX, Between::Quiet).unwrap();
    }
    assert!(world.retries > 60);
    world.check_all();
}

#[test]
fn only_pages_that_may_have_changed_must_be_present() {
    let mut world = world(100, 80);
    sweep(&world, 0..80, 1);
    world.checkpoint(1, Between::Quiet).unwrap();
    swap_out(&world, 0..60);
    world.checkpoint(1, Between::Quiet).unwrap();
    sweep(&world, 70..80, 2);
    swap_out(&world, 75..79);
    assert!(matches!(world.engine.checkpoint(), Err(EngineError::Absent)));
    assert!(world.engine.absent().eq([(world.regions[0].0, 75..79)]));
    world.checkpoint(usize::MAX, Between::Quiet).unwrap();
    world.check_all();
}

#[test]
fn a_page_that_is_right_is_not_asked_to_be_writable() {
    let mut world = world(100, 80);
    let region = world.regions[0].0;
    world.write(0, 0, 1);
    world.write(0, PAGE_SIZE, 1);
    let first = world.checkpoint(1, Between::Quiet).unwrap();
    world.write(0, 0, 2);
    // All of them, but for the first, are as they were.
    (1..80).for_each(|page| world.kernel().touch_to_write(region, page));
    (1..80).for_each(|page| world.kernel().share(region, page));
    world.rollback(first, 1, Between::Quiet).unwrap();
    assert_eq!(world.engine.tracker().to_write, 1);
    assert_eq!(world.kernel().slot(region, 9), Slot::Frame { frame: 0, writable: false });
    world.check_all();
}

#[test]
fn a_read_only_page_that_differs_is_asked_for() {
    let mut world = world(100, 80);
    let region = world.regions[0].0;
    let first = world.checkpoint(1, Between::Quiet).unwrap();
    sweep(&world, 3..8, 5);
    (4..6).for_each(|page| world.kernel().share(region, page));
    assert!(matches!(world.engine.rollback(first), Err(EngineError::Absent)));
    assert!(world.engine.absent().eq([(region, 4..6)]));
    world.rollback(first, usize::MAX, Between::Quiet).unwrap();
    world.check_all();
}

#[test]
fn every_way_to_give_a_checkpoint_up() {
    for way in 0..6 {
        for tries in 1..4 {
            let mut world = world(30, 100);
            sweep(&world, 0..50, 1);
            let first = world.checkpoint(usize::MAX, Between::Quiet).unwrap();
            sweep(&world, 20..90, 2);
            assert!(world.checkpoint(tries, Between::Quiet).is_err());
            assert!(world.engine.figures().history_bytes > 0);
            give_up(&mut world, way, first);
            assert_eq!(world.engine.absent().next(), None);
            if way < 5 {
                world.check_all();
            }
        }
    }
}

#[test]
fn every_way_to_give_a_rollback_up() {
    for way in 0..6 {
        for tries in 1..4 {
            let mut world = world(30, 100);
            sweep(&world, 0..50, 1);
            let first = world.checkpoint(usize::MAX, Between::Quiet).unwrap();
            sweep(&world, 20..90, 2);
            let second = world.checkpoint(usize::MAX, Between::Quiet).unwrap();
            assert!(world.rollback(first, tries, Between::Quiet).is_err());
            assert_eq!(world.engine.figures().current, first.0);
            give_up(&mut world, way, second);
            if way < 5 {
                world.check_all();
            }
        }
    }
}

fn give_up(world: &mut World, way: usize, other: CheckpointId) {
    match way {
        0 => world.abandon(),
        1 => world.rollback(other, usize::MAX, Between::Quiet).unwrap(),
        2 => world.release(other).unwrap(),
        3 => drop(world.add(2).unwrap()),
        4 => {
            world.engine.tracker_mut().fail_in = 1;
            assert!(matches!(world.engine.checkpoint(), Err(EngineError::Track(_))));
        }
        _ => world.remove(0),
    }
}

#[test]
fn what_a_rollback_did_not_restore_counts_as_written() {
    let mut world = world(100, 80);
    sweep(&world, 0..10, 1);
    let first = world.checkpoint(1, Between::Quiet).unwrap();
    sweep(&world, 0..10, 2);
    let second = world.checkpoint(1, Between::Quiet).unwrap();
    // Nobody writes these again, and no tracker would report them.
    swap_out(&world, 4..10);
    assert!(matches!(world.rollback(first, 1, Between::Quiet), Err(EngineError::Absent)));
    world.abandon();
    let half = world.checkpoint(usize::MAX, Between::Quiet).unwrap();
    let figures = world.engine.checkpoint_figures(half).unwrap();
    assert_eq!((figures.parent, figures.pages_changed), (Some(first), 6));
    world.rollback(second, usize::MAX, Between::Quiet).unwrap();
    world.check_all();
}

#[test]
fn a_program_that_writes_between_the_tries_loses_nothing_later() {
    let mut world = world_with(Rule::Always, 100, 80);
    world.checkpoint(1, Between::Quiet).unwrap();
    sweep(&world, 0..20, 1);
    swap_out(&world, 10..11);
    assert!(matches!(world.checkpoint(1, Between::Quiet), Err(EngineError::Absent)));
    sweep(&world, 0..2, 3);
    swap_out(&world, 1..2);
    let region = world.regions[0].0;
    Kernel::touch(&mut world.kernel(), region, 10);
    let second = world.engine.checkpoint().unwrap();
    // What differs stays open; what is absent is reported when it is back; all others are protected.
    assert_eq!(world.kernel().tables[&region].open.iter().collect::<Vec<_>>(), [0]);
    Kernel::touch(&mut world.kernel(), region, 1);
    let third = world.checkpoint(1, Between::Quiet).unwrap();
    assert_eq!(world.engine.checkpoint_figures(third).unwrap().pages_changed, 2);
    world.engine.release(second).unwrap();
    world.rollback(third, usize::MAX, Between::Quiet).unwrap();
}

#[test]
fn the_history_limit_holds_for_an_unfinished_checkpoint() {
    let limit = 150 * 64;
    let mut world =
        World::with_config(20, Config { max_history_bytes: limit, rule: Rule::Always, ..Config::default() });
    world.add(300).unwrap();
    sweep(&world, 0..300, 1);
    let first = world.checkpoint(usize::MAX, Between::Quiet).unwrap();
    sweep(&world, 0..300, 2);
    let before = world.read();
    assert!(matches!(world.checkpoint(usize::MAX, Between::Quiet), Err(EngineError::NoMemory)));
    assert!(world.retries > 10 && world.read() == before);
    assert_eq!(world.engine.checkpoint_figures(first).unwrap().bytes, 0);
    world.rollback(first, usize::MAX, Between::Quiet).unwrap();
    sweep(&world, 0..60, 3);
    world.checkpoint(usize::MAX, Between::Quiet).unwrap();
    world.rollback(first, usize::MAX, Between::Quiet).unwrap();
}
