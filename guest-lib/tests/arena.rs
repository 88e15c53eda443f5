//! Arenas: beside std's collections on every engine, and at their limits.

mod common;

use std::panic::{self, AssertUnwindSafe};

use cairn_guest::arena::{Arena, Full, Map, Text, Vector};
use cairn_guest::{EngineKind, Error, Options, Session, contract, region_data};

/// Steps of each random walk.
const STEPS: u32 = 5000;

region_data! {
    struct Notes<'r> {
        texts: Vector<'r, Text<'r>>,
        by_number: Map<'r, u32, u32>,
    }
}

fn open() -> Session {
    Session::open_with(EngineKind::FullCopy).unwrap()
}

fn notes(session: &mut Session, bytes: usize) -> Arena<Notes<'static>> {
    session.arena("notes", bytes, |heap| Ok(Notes { texts: heap.vector(), by_number: heap.map() })).unwrap()
}

fn walks_beside_the_model(kind: EngineKind) {
    if !common::works(&kind) {
        return;
    }
    for (seed, history) in [(1, 8), (2, 1), (3, 40)] {
        let mut session = Options::new().engine(kind).history(history).open().unwrap();
        let report = contract::walk_arenas(&mut session, seed, STEPS)
            .unwrap_or_else(|error| panic!("{kind}, {history}: {error:?}"));
        assert!(report.checkpoints > 400 && report.rollbacks > 100 && report.refusals > 50, "{report:?}");
    }
}

#[test]
fn full_copy() {
    walks_beside_the_model(EngineKind::FullCopy);
}

#[test]
fn mprotect() {
    walks_beside_the_model(EngineKind::Mprotect);
}

#[test]
fn fork() {
    walks_beside_the_model(EngineKind::Fork);
}

#[test]
fn uffd_wp() {
    walks_beside_the_model(EngineKind::UffdWp);
}

#[test]
fn user_compare() {
    walks_beside_the_model(EngineKind::UserCompare);
}

#[test]
fn a_full_arena_says_so_and_goes_on() {
    let mut session = open();
    let arena = notes(&mut session, 16 << 10);
    let (kept, full) = session.with(&arena, |root| {
        let heap = root.texts.heap();
        let full = loop {
            match heap.text("a text of some length").and_then(|text| root.texts.push(text)) {
                Ok(()) => {}
                Err(full) => break full,
            }
        };
        (root.texts.len(), full)
    });
    assert!(kept > 100 && full.size == 16 << 10, "{kept} {full}");
    assert!(full.to_string().starts_with("the arena is full: "), "{full}");
    let fits = session.with(&arena, |root| {
        assert!(root.texts.iter().all(|text| text == "a text of some length"));
        root.texts.truncate(kept / 2);
        let heap = root.texts.heap();
        (0..kept / 4).try_for_each(|_| root.texts.push(heap.text("a text of some length")?))
    });
    fits.unwrap();
    let huge = session.with(&arena, |root| root.texts.reserve(usize::MAX));
    assert_eq!(huge.unwrap_err().needed, usize::MAX);
}

#[test]
fn a_root_that_does_not_fit_leaves_no_region() {
    region_data! {
        struct Large {
            bytes: [u8; 10_000],
        }
    }
    let mut session = open();
    let large = session.arena::<Large>("large", 8192, |_| Ok(Large { bytes: [1; 10_000] }));
    assert!(matches!(large, Err(Error::Full(Full { needed: 10_000, .. }))), "{large:?}");
    let refused = session.arena::<Notes>("large", 4096, |heap| {
        heap.copy_of(&[0_u8; 4000])?;
        Ok(Notes { texts: heap.vector(), by_number: heap.map() })
    });
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        session.arena::<Large>("large", 1 << 20, |_| panic!("no root today"))
    }));
    assert!(panicked.is_err());
    let arena = session.arena::<Large>("large", 1 << 20, |_| Ok(Large { bytes: [1; 10_000] })).unwrap();
    assert_eq!(session.read(&arena, |root| root.bytes[9_999]), 1);
    assert_eq!(session.figures().unwrap().regions, 1);
}

#[test]
fn a_panic_leaves_what_was_done_and_a_rollback_takes_it_back() {
    let mut session = open();
    let arena = notes(&mut session, 1 << 16);
    let id = session.checkpoint().unwrap();
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        session.with(&arena, |root| {
            let heap = root.texts.heap();
            root.texts.push(heap.text("half").unwrap()).unwrap();
            let taken = root.texts.pop();
            root.by_number.insert(1, 2).unwrap();
            assert!(taken.is_none(), "on purpose");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(session.read(&arena, |root| (root.texts.len(), root.by_number.get(&1))), (0, Some(&2)));
    session.rollback(id).unwrap();
    assert!(session.read(&arena, |root| root.by_number.is_empty()));
}

#[test]
fn what_is_forgotten_costs_memory_until_the_rollback() {
    let mut session = open();
    let arena = notes(&mut session, 1 << 16);
    let free = |session: &mut Session| session.with(&arena, |root| root.texts.heap().free());
    let before = free(&mut session);
    let id = session.checkpoint().unwrap();
    session.with(&arena, |root| {
        let heap = root.texts.heap();
        std::mem::forget(heap.text("lost").unwrap());
        std::mem::forget(std::mem::replace(root, Notes { texts: heap.vector(), by_number: heap.map() }));
    });
    assert!(free(&mut session) < before);
    session.rollback(id).unwrap();
    assert_eq!(free(&mut session), before);
}

#[test]
#[should_panic(expected = "does not belong to")]
fn an_arena_of_another_session_is_refused() {
    let (mut home, mut away) = (open(), open());
    let arena = notes(&mut home, 1 << 16);
    let _ = notes(&mut away, 1 << 16);
    away.with(&arena, |root| root.texts.clear());
}

#[test]
fn elements_keep_their_order_and_lookups_find_them() {
    let mut session = open();
    let arena = notes(&mut session, 1 << 20);
    session.with(&arena, |root| {
        let map = &mut root.by_number;
        for number in 0..5000 {
            assert_eq!(map.insert(number, number + 1).unwrap(), None);
        }
        assert!(map.keys().copied().eq(0..5000));
        assert_eq!(map.insert(7, 0).unwrap(), Some(8));
        assert_eq!(map.remove(&0), Some(1));
        assert_eq!(map.remove(&0), None);
        assert_eq!(map.keys().next(), Some(&4999));
        for number in 1..4999 {
            assert!(map.remove(&number).is_some(), "{number}");
        }
        assert_eq!(format!("{map:?}"), "{4999: 5000}");
    });
}
