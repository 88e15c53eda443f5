//! Tests of the session's decisions about the store.

use cairn_abi::reply::{Durability, StoreFigures, StoredRegion};
use cairn_abi::{FEATURE_DURABLE, Level};

use super::*;

const ID: CheckpointId = CheckpointId(5);

/// A session with a region and a store.
fn durable() -> Session {
    let mut session = Session::new(LIMITS);
    let hello = Request::Hello { version: 1, features: FEATURE_DURABLE };
    let dropped = pending(ask(&mut session, hello), Effect::DropAll);
    assert_eq!(reply(session.complete(dropped, Outcome::Done)).status, Status::Ok);
    add(&mut session, 1, RegionId(1));
    session
}

/// Every request about the store, what it leads to, and how that can end.
fn requests() -> [(Request, Effect, Outcome, ReplyBody); 6] {
    let name = RegionName::new(b"table").unwrap();
    let (level, checkpoint) = (Level::Written, Some(ID));
    let durability = Durability { id: ID, reached: Some(level) };
    let figures = StoreFigures { written: 5, ..StoreFigures::default() };
    let stored = StoredRegion { checkpoint: ID, name, span: Span { address: 0, len: PAGE_SIZE }, tag: 3 };
    let of = |durability| (Outcome::Durability(durability), ReplyBody::Durability(durability));
    let (outcome, body) = of(durability);
    [
        (Request::CheckpointDurable { level }, Effect::CheckpointDurable(level, Again::No), outcome, body),
        (Request::Durability { checkpoint: ID, wait: None }, Effect::Durability(ID, None), outcome, body),
        (
            Request::Durability { checkpoint: ID, wait: Some(level) },
            Effect::Durability(ID, Some(level)),
            outcome,
            body,
        ),
        (Request::Store, Effect::StoreFigures, Outcome::Store(figures), ReplyBody::Store(figures)),
        (
            Request::Recover { checkpoint },
            Effect::Recover(checkpoint),
            Outcome::Checkpoint(ID),
            ReplyBody::Checkpoint(ID),
        ),
        (
            Request::Stored { checkpoint, name },
            Effect::Stored(checkpoint, name),
            Outcome::Stored(stored),
            ReplyBody::Stored(stored),
        ),
    ]
}

#[test]
fn a_store_is_an_offer_that_must_be_taken() {
    let mut without = open();
    let Request::Register { span, name, mode, .. } = register(8) else { panic!("another request") };
    let tagged = Request::Register { span, name, mode, tag: 1 };
    assert_eq!(reply(ask(&mut without, tagged)), Reply::refusal(Status::Unsupported, 0));
    let mut with = durable();
    assert!(matches!(ask(&mut with, tagged), Step::Act(_)));
    for (request, effect, outcome, body) in requests() {
        assert_eq!(reply(ask(&mut without, request)), Reply::refusal(Status::Unsupported, 0), "{request:?}");
        let asked = pending(ask(&mut with, request), effect);
        assert_eq!(reply(with.complete(asked, outcome)), Reply::done(body), "{request:?}");
        let asked = pending(ask(&mut with, request), effect);
        assert_eq!(reply(with.complete(asked, Outcome::Done)).status, Status::Host, "it can't end so");
    }
}

#[test]
fn what_may_wait_for_the_disk_waits_for_a_notification() {
    let polled = Caller { notified: false, ..HERE };
    for (request, ..) in requests() {
        let mut session = durable();
        let left = matches!(session.accept(polled, &envelope(KEY, 0, request), &mut || KEY), Step::Leave);
        let at_once = matches!(request, Request::Store | Request::Durability { wait: None, .. });
        assert_eq!(left, !at_once, "{request:?}");
    }
}

#[test]
fn a_durable_checkpoint_goes_on_like_any_other() {
    let mut session = durable();
    let (request, level) = (Request::CheckpointDurable { level: Level::Synced }, Level::Synced);
    let first = pending(ask(&mut session, request), Effect::CheckpointDurable(level, Again::No));
    let missing = Missing::new(&[Span { address: PAGE_SIZE, len: PAGE_SIZE }]);
    let again = reply(session.complete(first, Outcome::Missing { ask: Ask::Touch, missing }));
    assert_eq!(again.status, Status::Again);
    let step = session.accept(HERE, &envelope(KEY, again.cursor, request), &mut || KEY);
    let _ = pending(step, Effect::CheckpointDurable(level, Again::Yes));
}

#[test]
fn failures_say_what_they_are_about() {
    let name = RegionName::new(b"table").unwrap();
    let stored = StoredRegion { checkpoint: ID, name, span: Span { address: 0, len: PAGE_SIZE }, tag: 3 };
    let body = ReplyBody::Stored(stored);
    let mismatch = |region, stored| Failure::Mismatch { region, stored };
    let region = Some(RegionId(4));
    for (failure, expected) in [
        (Failure::Store(28), Reply::refusal(Status::Store, 28)),
        (Failure::Busy, Reply::refusal(Status::Busy, 0)),
        (Failure::NotFresh, Reply::refusal(Status::NotFresh, 0)),
        (mismatch(region, None), Reply::refusal(Status::Mismatch, 4)),
        (mismatch(region, Some(stored)), Reply { body, ..Reply::refusal(Status::Mismatch, 4) }),
        (mismatch(None, Some(stored)), Reply { body, ..Reply::refusal(Status::Mismatch, 0) }),
    ] {
        let mut session = durable();
        let asked = pending(ask(&mut session, Request::Recover { checkpoint: None }), Effect::Recover(None));
        assert_eq!(reply(session.complete(asked, Outcome::Failed(failure))), expected);
    }
}
