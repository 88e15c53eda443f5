//! Hint tables, good and bad.

use cairn_abi::hint::{HINT_SIZE, encode_header};
use cairn_abi::reply::Ask;
use cairn_abi::{Hint, RegionId, ReplyBody, Request, Status};
use vm_memory::{Bytes, GuestAddress};

use crate::support::engine::Mood;
use crate::support::guest::{Guest, HINTS, HOLE, register};

const SLOT: u64 = HINT_SIZE as u64;

fn hint(region: u32, word: u32, bits: u64) -> Hint {
    Hint { region: RegionId(region), word, bits }
}

/// A guest with regions 1 of one page and 2 of 40, whose table the device knows.
fn guest() -> Guest {
    let mut guest = Guest::with_session();
    assert_eq!(guest.ask(register(0x10_0000, 1, "a")).status, Status::Ok);
    assert_eq!(guest.ask(register(0x20_0000, 40, "b")).status, Status::Ok);
    fill(&guest, HINTS, &[]);
    assert_eq!(guest.ask(Request::Hints { table: HINTS }).status, Status::Ok);
    guest
}

fn fill(guest: &Guest, table: u64, hints: &[Hint]) {
    let count = u32::try_from(hints.len()).unwrap();
    guest.memory.write_slice(&encode_header(count), GuestAddress(table)).unwrap();
    for (slot, hint) in (1..).zip(hints) {
        guest.memory.write_slice(&hint.encode(), GuestAddress(table + slot * SLOT)).unwrap();
    }
}

#[test]
fn hints_reach_the_engine_before_the_checkpoint_does() {
    let mut guest = guest();
    let hints = [hint(2, 0, 1 << 39 | 1), hint(1, 0, 1), hint(2, 0, 1 << 7), hint(2, 0, 1)];
    fill(&guest, HINTS, &hints);
    let reply = guest.ask(Request::Checkpoint);
    let ReplyBody::Checkpoint(checkpoint) = reply.body else { panic!("{reply:?}") };
    assert_eq!(guest.engine.hints, hints);
    guest.engine.hints.clear();
    assert_eq!(guest.ask(Request::Rollback { checkpoint }).status, Status::Ok);
    assert_eq!(guest.engine.hints, hints, "the table is the driver's to clear");
    guest.engine.hints.clear();
    assert_eq!(guest.ask(Request::Release { checkpoint }).status, Status::Ok);
    assert!(guest.engine.hints.is_empty());
}

#[test]
fn what_is_about_nothing_is_ignored() {
    let mut guest = guest();
    let all = u64::MAX;
    let hints = [hint(1, 0, all), hint(1, 1, all), hint(2, 0, all), hint(2, u32::MAX, all), hint(3, 0, all)];
    fill(&guest, HINTS, &[&hints[..], &[hint(0, 0, all), hint(2, 0, 0), hint(2, 0, 1 << 40)]].concat());
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
    assert_eq!(guest.engine.hints, [hint(1, 0, 1), hint(2, 0, (1 << 40) - 1)]);
    guest.engine.hints.clear();
    let lost = guest.engine.lose_region().unwrap();
    guest.function.device_mut().forget_region(lost);
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
    assert_eq!(guest.engine.hints, [hint(2, 0, (1 << 40) - 1)]);
}

#[test]
fn a_table_holds_2047_hints_and_no_more() {
    let mut guest = guest();
    fill(&guest, HINTS, &[hint(2, 0, 2); 2047]);
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
    assert_eq!(guest.engine.hints.len(), 2047);
    for count in [2048, u32::MAX] {
        guest.engine.effects.clear();
        guest.memory.write_slice(&encode_header(count), GuestAddress(HINTS)).unwrap();
        for request in [Request::Checkpoint, Request::Hints { table: HINTS }] {
            assert_eq!(guest.ask(request).status, Status::Malformed, "{count}");
        }
        assert!(guest.engine.effects.is_empty(), "{count}");
    }
    fill(&guest, HINTS, &[]);
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
}

#[test]
fn a_table_that_is_not_there_is_asked_for() {
    let mut guest = guest();
    for (table, count) in [(HOLE, 0), (HOLE - SLOT, 1), (HOLE - 2 * SLOT, 3), (0, 0), (1 << 60, 0)] {
        if (HOLE - 2 * SLOT..HOLE).contains(&table) {
            guest.memory.write_slice(&encode_header(count), GuestAddress(table)).unwrap();
        }
        guest.engine.effects.clear();
        let reply = guest.ask(Request::Hints { table });
        assert_eq!((reply.status, reply.ask()), (Status::Again, Some(Ask::Touch)), "{table:#x}");
        let ReplyBody::Missing(missing) = reply.body else { panic!("{reply:?}") };
        assert_eq!(missing.spans().iter().map(|span| span.address).collect::<Vec<_>>(), [table]);
        // It's the session's table now, and no checkpoint comes before it.
        assert_eq!(guest.ask(Request::Checkpoint).status, Status::Again);
        assert!(
            !guest
                .engine
                .effects
                .iter()
                .any(|effect| matches!(effect, cairn_vmm::devices::checkpoint::Effect::Checkpoint(_)))
        );
    }
    for table in [HINTS + 8, u64::MAX, u64::MAX - 15, 1] {
        assert_eq!(guest.ask(Request::Hints { table }).status, Status::BadSpan, "{table:#x}");
    }
    assert_eq!(guest.ask(Request::Hints { table: HINTS }).status, Status::Ok);
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
}

#[test]
fn hints_are_read_again_with_each_try() {
    let mut guest = guest();
    guest.engine.mood = Mood::Missing;
    let first = guest.ask(Request::Checkpoint);
    assert_eq!(first.status, Status::Again);
    fill(&guest, HINTS, &[hint(1, 0, 1)]);
    guest.post(&guest.envelope(first.cursor, Request::Checkpoint));
    guest.notify();
    assert_eq!((guest.reply().status, guest.engine.hints.as_slice()), (Status::Ok, &[hint(1, 0, 1)][..]));
}

#[test]
fn checkpoints_are_listed_one_by_one() {
    let mut guest = guest();
    let ids: Vec<_> = (0..3)
        .map(|_| match guest.ask(Request::Checkpoint).body {
            ReplyBody::Checkpoint(id) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    guest.ask(Request::Release { checkpoint: ids[1] });
    let mut after = cairn_abi::CheckpointId(0);
    for expected in [ids[0], ids[2]] {
        let reply = guest.ask(Request::QueryNext { after });
        let ReplyBody::CheckpointFigures(figures) = reply.body else { panic!("{reply:?}") };
        assert_eq!(figures.id, expected);
        after = figures.id;
    }
    assert_eq!(guest.ask(Request::QueryNext { after }).status, Status::NoCheckpoint);
}
