//! Tests of the session's decisions.

use cairn_abi::reply::{Ask, Missing, SessionFigures};
use cairn_abi::{CheckpointId, PAGE_SIZE, RegionId};
use proptest::prelude::*;

#[path = "session_store_tests.rs"]
mod store;

use super::*;
use crate::devices::checkpoint::RegionSpan;

const LIMITS: Limits = Limits { max_regions: 2, max_bytes: 16 * PAGE_SIZE, history: 4, features: u64::MAX };
const HERE: Caller = Caller { address_space: AddressSpace(1), notified: true };
const KEY: SessionKey = SessionKey([9; 16]);

fn envelope(key: SessionKey, cursor: u32, request: Request) -> Envelope {
    Envelope { key, cursor, request }
}

fn ask(session: &mut Session, request: Request) -> Step {
    session.accept(HERE, &envelope(KEY, 0, request), &mut || KEY)
}

#[track_caller]
fn pending(step: Step, effect: Effect) -> Pending {
    let Step::Act(pending) = step else { panic!("{step:?} isn't {effect:?}") };
    assert_eq!(pending.effect(), effect);
    pending
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a step is taken once")]
fn reply(step: Step) -> Reply {
    let Step::Reply(reply) = step else { panic!("{step:?} isn't a reply") };
    reply
}

fn hello() -> Request {
    Request::Hello { version: 1, features: FEATURE_ASYNC }
}

fn register(page: u64) -> Request {
    let name = RegionName::new(format!("at {page}").as_bytes()).unwrap();
    let mode = RegionMode::Tracked;
    Request::Register { span: Span { address: page * PAGE_SIZE, len: PAGE_SIZE }, name, mode, tag: 0 }
}

/// A session with a region.
fn open() -> Session {
    let mut session = Session::new(LIMITS);
    let dropped = pending(ask(&mut session, hello()), Effect::DropAll);
    assert_eq!(reply(session.complete(dropped, Outcome::Done)).status, Status::Ok);
    add(&mut session, 1, RegionId(1));
    session
}

fn add(session: &mut Session, page: u64, id: RegionId) {
    let Step::Act(prepare) = ask(session, register(page)) else { panic!("refused") };
    let Step::Act(add) = session.complete(prepare, Outcome::Done) else { panic!("not prepared") };
    assert_eq!(reply(session.complete(add, Outcome::Region(id))), Reply::done(ReplyBody::Region(id)));
}

#[test]
fn hello_agrees_on_a_version_and_tells_the_limits() {
    for (newest, version) in [(0, None), (1, Some(1)), (2, Some(1)), (u32::MAX, Some(1))] {
        let mut session = Session::new(LIMITS);
        let request = Request::Hello { version: newest, features: u64::MAX };
        let step = ask(&mut session, request);
        let Some(version) = version else {
            assert_eq!(reply(step), Reply::refusal(Status::Version, 0));
            continue;
        };
        let dropped = pending(step, Effect::DropAll);
        assert_eq!(session.address_space(), None);
        let Limits { max_regions, max_bytes, history, .. } = LIMITS;
        let hello = Hello { version, features: OFFERED_FEATURES, key: KEY, max_regions, history, max_bytes };
        assert_eq!(reply(session.complete(dropped, Outcome::Done)), Reply::done(ReplyBody::Hello(hello)));
        assert_eq!(session.address_space(), Some(HERE.address_space));
    }
}

#[test]
fn what_the_device_or_the_driver_lacks_is_not_agreed_on() {
    let wanted = [(u64::MAX, 0, 0), (0, u64::MAX, 0), (FEATURE_ASYNC, FEATURE_ASYNC, FEATURE_ASYNC)];
    for (had, wanted, agreed) in wanted {
        let mut session = Session::new(Limits { features: had, ..LIMITS });
        let step = ask(&mut session, Request::Hello { version: 1, features: wanted });
        let dropped = pending(step, Effect::DropAll);
        let ReplyBody::Hello(hello) = reply(session.complete(dropped, Outcome::Done)).body else {
            panic!("no session")
        };
        assert_eq!(hello.features, agreed);
        let ticket = Request::Ticket { checkpoint: CheckpointId(1), wait: true };
        for request in [Request::CheckpointAsync, ticket] {
            match ask(&mut session, request) {
                Step::Reply(reply) => assert_eq!((reply.status, agreed), (Status::Unsupported, 0)),
                step => assert!(matches!(step, Step::Act(_)) && agreed != 0),
            }
        }
    }
}

#[test]
fn a_hello_that_is_refused_leaves_the_session() {
    let mut session = open();
    assert_eq!(reply(ask(&mut session, Request::Hello { version: 0, features: 0 })).status, Status::Version);
    let resumed = session.accept(HERE, &envelope(KEY, 1, hello()), &mut || panic!("no key is needed"));
    assert_eq!(reply(resumed).status, Status::Malformed);
    let _ = pending(ask(&mut session, Request::Checkpoint), Effect::Checkpoint(Again::No));
}

#[test]
fn a_session_begins_only_after_the_last_one_is_dropped() {
    let mut session = open();
    let dropped = pending(ask(&mut session, hello()), Effect::DropAll);
    let failed = session.complete(dropped, Outcome::Failed(Failure::NoMemory));
    assert_eq!(reply(failed).status, Status::NoMemory);
    assert_eq!(session.address_space(), None);
    let dropped = pending(ask(&mut session, Request::Checkpoint), Effect::DropAll);
    assert_eq!(reply(session.complete(dropped, Outcome::Done)).status, Status::BadKey);
    assert_eq!(reply(ask(&mut session, Request::Checkpoint)).status, Status::BadKey);
}

#[test]
fn an_effect_that_is_lost_does_not_lose_the_drop() {
    let mut session = open();
    let wrong = envelope(SessionKey([0; 16]), 0, Request::Checkpoint);
    drop(pending(session.accept(HERE, &wrong, &mut || KEY), Effect::DropAll));
    let owed = session.owed().unwrap();
    assert_eq!(owed.effect(), Effect::DropAll);
    let _ = session.complete(owed, Outcome::Checkpoint(CheckpointId(1)));
    assert!(session.owed().is_some(), "an outcome that isn't one changes nothing");
    let owed = session.owed().unwrap();
    let _ = session.complete(owed, Outcome::Done);
    assert!(session.owed().is_none());
}

#[test]
fn ending_a_session_owes_a_drop_and_ending_none_owes_nothing() {
    let mut session = Session::new(LIMITS);
    session.end();
    assert!(session.owed().is_none());
    let mut session = open();
    assert!(session.owed().is_none());
    session.end();
    assert!(session.owed().is_some());
}

#[test]
fn each_request_becomes_its_effect_and_its_reply() {
    let checkpoint = CheckpointId(5);
    let figures = SessionFigures { regions: 1, ..SessionFigures::default() };
    let cases = [
        (
            Request::Checkpoint,
            Effect::Checkpoint(Again::No),
            Outcome::Checkpoint(checkpoint),
            ReplyBody::Checkpoint(checkpoint),
        ),
        (
            Request::CheckpointAsync,
            Effect::CheckpointAsync,
            Outcome::Ticket { id: checkpoint, done: false },
            ReplyBody::Ticket(Ticket { id: checkpoint, done: false }),
        ),
        (
            Request::Ticket { checkpoint, wait: true },
            Effect::Ticket(checkpoint, true),
            Outcome::Ticket { id: checkpoint, done: true },
            ReplyBody::Ticket(Ticket { id: checkpoint, done: true }),
        ),
        (
            Request::Rollback { checkpoint },
            Effect::Rollback(checkpoint, Again::No),
            Outcome::Done,
            ReplyBody::Empty,
        ),
        (Request::Release { checkpoint }, Effect::Release(checkpoint), Outcome::Done, ReplyBody::Empty),
        (
            Request::Query { checkpoint: None },
            Effect::SessionFigures,
            Outcome::Session(figures),
            ReplyBody::Session(figures),
        ),
        (
            Request::Unregister { region: RegionId(1) },
            Effect::RemoveRegion(RegionId(1)),
            Outcome::Done,
            ReplyBody::Empty,
        ),
    ];
    for (request, effect, outcome, body) in cases {
        let mut session = open();
        let act = pending(ask(&mut session, request), effect);
        assert_eq!(reply(session.complete(act, outcome)), Reply::done(body), "{request:?}");
        let mut session = open();
        let act = pending(ask(&mut session, request), effect);
        let failed = session.complete(act, Outcome::Failed(Failure::RegionSet(RegionId(3))));
        assert_eq!(reply(failed), Reply::refusal(Status::RegionSet, 3), "{request:?}");
        let act = pending(ask(&mut session, request), effect);
        let mad = session.complete(act, Outcome::Region(RegionId(9)));
        assert_eq!(reply(mad).status, Status::Host, "{request:?}");
    }
}

#[test]
fn regions_come_and_go() {
    let mut session = open();
    assert_eq!(reply(ask(&mut session, register(1))), Reply::refusal(Status::Overlap, 1));
    add(&mut session, 2, RegionId(2));
    assert_eq!(reply(ask(&mut session, register(3))).status, Status::Limit);
    let unregister = Request::Unregister { region: RegionId(1) };
    let remove = pending(ask(&mut session, unregister), Effect::RemoveRegion(RegionId(1)));
    assert_eq!(reply(session.complete(remove, Outcome::Failed(Failure::Host))).status, Status::Host);
    let remove = pending(ask(&mut session, unregister), Effect::RemoveRegion(RegionId(1)));
    assert_eq!(reply(session.complete(remove, Outcome::Done)).status, Status::Ok);
    assert_eq!(reply(ask(&mut session, unregister)).status, Status::NoRegion);
    add(&mut session, 1, RegionId(3));
}

#[test]
fn a_region_whose_memory_is_gone_makes_room() {
    let mut session = open();
    session.forget_region(RegionId(1));
    session.forget_region(RegionId(7));
    assert_eq!(
        reply(ask(&mut session, Request::Unregister { region: RegionId(1) })).status,
        Status::NoRegion
    );
    add(&mut session, 1, RegionId(2));
    let mut closed = Session::new(LIMITS);
    closed.forget_region(RegionId(1));
    assert!(closed.owed().is_none());
}

#[test]
fn a_region_that_could_not_be_prepared_or_added_is_not_there() {
    let mut session = open();
    let Step::Act(prepare) = ask(&mut session, register(2)) else { panic!("refused") };
    let failed = session.complete(prepare, Outcome::Failed(Failure::NotMapped));
    assert_eq!(reply(failed).status, Status::NotMapped);
    let Step::Act(prepare) = ask(&mut session, register(2)) else { panic!("refused") };
    let Step::Act(added) = session.complete(prepare, Outcome::Done) else { panic!("not prepared") };
    assert_eq!(reply(session.complete(added, Outcome::Failed(Failure::NoMemory))).status, Status::NoMemory);
    add(&mut session, 2, RegionId(2));
}

#[test]
fn a_request_is_resumed_with_its_own_cursor_only() {
    let spans = Missing::new(&[Span { address: PAGE_SIZE, len: PAGE_SIZE }]);
    for request in [register(2), Request::Checkpoint, Request::Rollback { checkpoint: CheckpointId(1) }] {
        let mut session = open();
        let Step::Act(act) = ask(&mut session, request) else { panic!("refused") };
        let again = reply(session.complete(act, Outcome::Missing { ask: Ask::Touch, missing: spans }));
        assert_eq!((again.status, again.body), (Status::Again, ReplyBody::Missing(spans)));
        assert_ne!(again.cursor, 0);
        // The same again, twice: each round has a cursor of its own.
        let resume = |session: &mut Session, cursor, request| {
            session.accept(HERE, &envelope(KEY, cursor, request), &mut || KEY)
        };
        let Step::Act(act) = resume(&mut session, again.cursor, request) else { panic!("refused") };
        let second = reply(session.complete(act, Outcome::Missing { ask: Ask::Settle, missing: spans }));
        assert_ne!(second.cursor, again.cursor);
        assert_eq!((again.ask(), second.ask()), (Some(Ask::Touch), Some(Ask::Settle)));
        assert_eq!(reply(resume(&mut session, again.cursor, request)).status, Status::Malformed);
        assert_eq!(
            reply(resume(&mut session, second.cursor, request)).status,
            Status::Malformed,
            "begun anew"
        );
        let Step::Act(act) = ask(&mut session, request) else { panic!("refused") };
        let third = reply(session.complete(act, Outcome::Missing { ask: Ask::Touch, missing: spans }));
        let other = Request::Query { checkpoint: None };
        assert_eq!(reply(resume(&mut session, third.cursor, other)).status, Status::Malformed, "another's");
    }
}

#[test]
fn cursors_are_never_zero() {
    let mut session = open();
    let State::Open(open) = &mut session.state else { panic!("not open") };
    open.last_cursor = u32::MAX;
    assert_eq!(open.suspend(Request::Checkpoint, Again::Yes), 1);
}

#[test]
fn strangers_get_nowhere() {
    let child = Caller { address_space: AddressSpace(2), notified: true };
    let mut session = open();
    for key in [KEY, SessionKey([1; 16])] {
        let step = session.accept(child, &envelope(key, 0, Request::Checkpoint), &mut || KEY);
        assert_eq!(reply(step).status, Status::BadKey);
    }
    let polled = Caller { notified: false, ..HERE };
    let wrong = envelope(SessionKey([1; 16]), 0, Request::Checkpoint);
    assert!(matches!(session.accept(polled, &wrong, &mut || KEY), Step::Leave));
    let _ = pending(ask(&mut session, Request::Checkpoint), Effect::Checkpoint(Again::No));
    let dropped = pending(session.accept(HERE, &wrong, &mut || KEY), Effect::DropAll);
    assert_eq!(reply(session.complete(dropped, Outcome::Done)).status, Status::BadKey);
    assert_eq!(reply(ask(&mut session, Request::Checkpoint)).status, Status::BadKey);
}

#[test]
fn a_program_takes_the_device_over_with_hello() {
    let next = Caller { address_space: AddressSpace(2), notified: true };
    let mut session = open();
    let key = SessionKey([5; 16]);
    let step = session.accept(next, &envelope(SessionKey([0; 16]), 0, hello()), &mut || key);
    let dropped = pending(step, Effect::DropAll);
    assert_eq!(reply(session.complete(dropped, Outcome::Done)).status, Status::Ok);
    assert_eq!(reply(ask(&mut session, Request::Checkpoint)).status, Status::BadKey);
    let step = session.accept(next, &envelope(key, 0, Request::Checkpoint), &mut || key);
    let _ = pending(step, Effect::Checkpoint(Again::No));
}

#[test]
fn a_poll_leaves_what_changes_the_layout() {
    let polled = Caller { notified: false, ..HERE };
    let mut session = open();
    let unregister = Request::Unregister { region: RegionId(1) };
    for request in
        [hello(), register(2), unregister, register(1), Request::Unregister { region: RegionId(8) }]
    {
        let step = session.accept(polled, &envelope(KEY, 0, request), &mut || panic!("no key is needed"));
        assert!(matches!(step, Step::Leave), "{request:?}");
    }
    let step = session.accept(polled, &envelope(KEY, 0, Request::Checkpoint), &mut || KEY);
    let _ = pending(step, Effect::Checkpoint(Again::No));
    let step = session.accept(polled, &envelope(KEY, 0, Request::CheckpointAsync), &mut || KEY);
    let _ = pending(step, Effect::CheckpointAsync);
}

proptest! {
    /// Regions that the session lets in are a plain set of pages that never overlap and keep to the limits.
    #[test]
    fn admitted_regions_never_clash(
        actions in proptest::collection::vec((any::<bool>(), 0_u64..24, 0_u64..6), 0..60),
    ) {
        let mut session = open();
        let mut pages = vec![(RegionId(1), 1..2)];
        let mut last = 1;
        for (add, page, count) in actions {
            if !add {
                let id = RegionId(u32::try_from(page).unwrap());
                let step = ask(&mut session, Request::Unregister { region: id });
                prop_assert_eq!(matches!(step, Step::Act(_)), pages.iter().any(|(other, _)| *other == id));
                if let Step::Act(act) = step {
                    let _ = session.complete(act, Outcome::Done);
                }
                pages.retain(|(other, _)| *other != id);
                continue;
            }
            let name = RegionName::new(format!("{page} {last}").as_bytes()).unwrap();
            let span = Span { address: page * PAGE_SIZE, len: count * PAGE_SIZE };
            let free = pages.iter().all(|(_, other)| other.end <= page || page + count <= other.start);
            let total: u64 = pages.iter().map(|(_, other)| other.end - other.start).sum();
            let fits = pages.len() < 2 && total + count <= 16;
            let step = ask(&mut session, Request::Register { span, name, mode: RegionMode::Tracked, tag: 0 });
            prop_assert_eq!(matches!(step, Step::Act(_)), count > 0 && free && fits);
            if let Step::Act(prepare) = step {
                let Step::Act(add) = session.complete(prepare, Outcome::Done) else { panic!("not prepared") };
                last += 1;
                let _ = session.complete(add, Outcome::Region(RegionId(last)));
                pages.push((RegionId(last), page..page + count));
            }
        }
    }
}

const TABLE: u64 = 0x5000;

/// A session with a region, the first page of memory, that takes hints.
fn hinting() -> Session {
    let mut session = Session::new(LIMITS);
    let hello = Request::Hello { version: 1, features: FEATURE_HINT };
    let dropped = pending(ask(&mut session, hello), Effect::DropAll);
    assert_eq!(reply(session.complete(dropped, Outcome::Done)).status, Status::Ok);
    add(&mut session, 1, RegionId(1));
    session
}

#[track_caller]
fn read_hints(step: Step) -> Hinted {
    let Step::ReadHints(hinted) = step else { panic!("{step:?} reads no hints") };
    assert_eq!(hinted.table().span().address, TABLE);
    hinted
}

#[test]
fn hints_are_an_offer_that_must_be_taken() {
    let mut session = open();
    let span = Span { address: 8 * PAGE_SIZE, len: PAGE_SIZE };
    let register = Request::Register {
        span,
        name: RegionName::new(b"hinted").unwrap(),
        mode: RegionMode::Hinted,
        tag: 0,
    };
    for request in [register, Request::Hints { table: TABLE }] {
        assert_eq!(reply(ask(&mut session, request)), Reply::refusal(Status::Unsupported, 0));
    }
    let mut session = hinting();
    let prepare = pending(
        ask(&mut session, register),
        Effect::PrepareRegion { span: RegionSpan::from_claim(span).unwrap() },
    );
    let Step::Act(add) = session.complete(prepare, Outcome::Done) else { panic!("not prepared") };
    assert!(matches!(add.effect(), Effect::AddRegion { mode: RegionMode::Hinted, .. }));
}

#[test]
fn a_table_is_read_before_checkpoints_and_rollbacks_once_it_is_known() {
    let mut session = hinting();
    let _ = pending(ask(&mut session, Request::Checkpoint), Effect::Checkpoint(Again::No));
    for bad in [TABLE + 8, TABLE + 1, u64::MAX - 15, u64::MAX - 0x7fff] {
        let refusal = ask(&mut session, Request::Hints { table: bad });
        assert_eq!(reply(refusal), Reply::refusal(Status::BadSpan, 0), "{bad:#x}");
    }
    let _ = pending(ask(&mut session, Request::Checkpoint), Effect::Checkpoint(Again::No));
    let hinted = read_hints(ask(&mut session, Request::Hints { table: TABLE }));
    assert_eq!(reply(session.hinted(hinted, Ok(()))), Reply::done(ReplyBody::Empty));
    let id = CheckpointId(1);
    for (request, effect) in [
        (Request::Checkpoint, Effect::Checkpoint(Again::No)),
        (Request::Rollback { checkpoint: id }, Effect::Rollback(id, Again::No)),
    ] {
        let hinted = read_hints(ask(&mut session, request));
        let _ = pending(session.hinted(hinted, Ok(())), effect);
    }
    let _ = pending(ask(&mut session, Request::Release { checkpoint: id }), Effect::Release(id));
    let _ = pending(ask(&mut session, Request::QueryNext { after: id }), Effect::NextCheckpointFigures(id));
    let dropped = pending(ask(&mut session, hello()), Effect::DropAll);
    let _ = session.complete(dropped, Outcome::Done);
    let _ = pending(ask(&mut session, Request::Checkpoint), Effect::Checkpoint(Again::No));
}

#[test]
fn a_table_that_is_absent_is_asked_for_and_one_that_is_nonsense_refused() {
    let mut session = hinting();
    let hinted = read_hints(ask(&mut session, Request::Hints { table: TABLE }));
    let again = reply(session.hinted(hinted, Err(HintFault::Absent)));
    assert_eq!((again.status, again.ask()), (Status::Again, Some(Ask::Touch)));
    let ReplyBody::Missing(missing) = again.body else { panic!("{again:?}") };
    assert_eq!(missing.spans(), [Span { address: TABLE, len: 32768 }]);
    // It goes on as any request that needs another try; another one in between ends it.
    let table = envelope(KEY, again.cursor, Request::Hints { table: TABLE });
    let hinted = read_hints(session.accept(HERE, &table, &mut || KEY));
    let _ = session.hinted(hinted, Ok(()));
    let hinted = read_hints(ask(&mut session, Request::Checkpoint));
    let again = reply(session.hinted(hinted, Err(HintFault::Absent)));
    let checkpoint = envelope(KEY, again.cursor, Request::Checkpoint);
    let hinted = read_hints(session.accept(HERE, &checkpoint, &mut || KEY));
    // The engine hasn't seen the first try. This one it does, and once more.
    let first = pending(session.hinted(hinted, Ok(())), Effect::Checkpoint(Again::No));
    let outcome = Outcome::Missing { ask: Ask::Touch, missing: Missing::new(&[]) };
    let mut again = reply(session.complete(first, outcome));
    for fault in [Err(HintFault::Absent), Ok(())] {
        let checkpoint = envelope(KEY, again.cursor, Request::Checkpoint);
        let hinted = read_hints(session.accept(HERE, &checkpoint, &mut || KEY));
        match session.hinted(hinted, fault) {
            Step::Reply(absent) => again = absent,
            step => drop(pending(step, Effect::Checkpoint(Again::Yes))),
        }
    }
    let hinted = read_hints(ask(&mut session, Request::Checkpoint));
    assert_eq!(reply(session.hinted(hinted, Err(HintFault::Count))), Reply::refusal(Status::Malformed, 0));
}

#[test]
fn a_hint_is_about_a_region_of_the_session() {
    let mut session = hinting();
    let hint = |region, word, bits| Hint { region: RegionId(region), word, bits };
    let known = hint(1, 0, 1);
    assert_eq!(session.hint(hint(1, 0, u64::MAX)), Some(Effect::Hint(known)));
    for nothing in [hint(1, 0, 2), hint(1, 1, 1), hint(2, 0, 1)] {
        assert_eq!(session.hint(nothing), None);
    }
    session.forget_region(RegionId(1));
    assert_eq!(session.hint(known), None);
    session.end();
    assert_eq!(session.hint(known), None);
}
