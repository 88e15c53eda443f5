//! Sessions with devices that behave and with devices that don't.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use cairn_abi::reply::{Ask, Durability, Missing, StoredRegion};
use cairn_abi::{FEATURE_DURABLE, Level};

use super::*;
use crate::fake::{Fake, PATIENCE};

const KEY: SessionKey = SessionKey([9; 16]);
const PAGE: u64 = PAGE_SIZE;

fn hello() -> Reply {
    Reply::done(ReplyBody::Hello(Hello {
        version: 1,
        features: OFFERED_FEATURES,
        key: KEY,
        max_regions: 64,
        history: 8,
        max_bytes: 1 << 32,
    }))
}

/// A session with a device that answers HELLO by itself and all else by `answer`.
fn client(mut answer: impl FnMut(Envelope) -> Reply + Send + 'static) -> Client {
    let fake = Fake::answering(move |envelope| match envelope.request {
        Request::Hello { version: 1, features: OFFERED_FEATURES } if envelope.key == SessionKey([0; 16]) => {
            hello()
        }
        Request::Hello { .. } => Reply::refusal(Status::Malformed, 0),
        _ if envelope.key != KEY => Reply::refusal(Status::BadKey, 0),
        _ => answer(envelope),
    });
    Client::hello(fake.start(PATIENCE).expect("a device")).expect("a session")
}

/// Eight pages that live as long as the tests.
fn memory() -> RegionMemory {
    #[repr(align(4096))]
    struct Pages([u8; 8 * 4096]);
    let pages = Box::leak(Box::new(Pages([1; 8 * 4096])));
    RegionMemory::of_static(&mut pages.0)
}

fn name_of(text: &str) -> RegionName {
    RegionName::new(text.as_bytes()).expect("a name")
}

fn again(cursor: u32, span: Span) -> Reply {
    Reply::again(cursor, Ask::Touch, Missing::new(&[span]))
}

#[test]
fn every_request_has_its_result() {
    let figures =
        CheckpointFigures { id: CheckpointId(4), parent: Some(CheckpointId(3)), pages_changed: 2, bytes: 1 };
    let session = SessionFigures { regions: 1, retained: 2, ..SessionFigures::default() };
    let mut client = client(move |envelope| {
        Reply::done(match envelope.request {
            Request::Register { .. } => ReplyBody::Region(RegionId(3)),
            Request::Checkpoint => ReplyBody::Checkpoint(CheckpointId(4)),
            Request::CheckpointAsync => ReplyBody::Ticket(Ticket { id: CheckpointId(5), done: false }),
            // One that never waits, which is wrong.
            Request::Ticket { checkpoint, .. } => ReplyBody::Ticket(Ticket { id: checkpoint, done: false }),
            Request::Query { checkpoint: None } => ReplyBody::Session(session),
            Request::Query { checkpoint: Some(_) } => ReplyBody::CheckpointFigures(figures),
            Request::QueryNext { after: CheckpointId(4..) } => {
                return Reply::refusal(Status::NoCheckpoint, 0);
            }
            Request::QueryNext { .. } => ReplyBody::CheckpointFigures(figures),
            _ => ReplyBody::Empty,
        })
    });
    assert_eq!((client.limits().max_regions, client.limits().history), (64, 8));
    assert_eq!(
        client.register(memory(), name_of("table"), RegionMode::Tracked, 0).expect("a region"),
        RegionId(3)
    );
    assert_eq!(client.checkpoint().expect("a checkpoint"), CheckpointId(4));
    assert_eq!(client.query().expect("figures"), session);
    assert_eq!(client.query_checkpoint(CheckpointId(4)).expect("figures"), figures);
    assert!(matches!(client.query_checkpoint(CheckpointId(5)), Err(ShimError::WrongAnswer { .. })));
    let ticket = Ticket { id: CheckpointId(5), done: false };
    assert_eq!(client.checkpoint_async().expect("a ticket"), ticket);
    assert!(!client.is_done(ticket.id, false).expect("an answer"));
    assert!(matches!(client.is_done(ticket.id, true), Err(ShimError::WrongAnswer { .. })));
    assert_eq!(client.query_next(CheckpointId(3)).expect("figures"), Some(figures));
    assert_eq!(client.query_next(CheckpointId(4)).expect("the end"), None);
    client.rollback(CheckpointId(4)).expect("a rollback");
    client.release(CheckpointId(4)).expect("a release");
    client.unregister(RegionId(3)).expect("the region ends");
}

#[test]
fn a_refusal_carries_status_and_detail_and_says_what_failed() {
    let mut client = client(|_| Reply::refusal(Status::RegionSet, 7));
    let error = client.rollback(CheckpointId(1)).expect_err("a refusal");
    assert_eq!(error.status(), Some(Status::RegionSet));
    assert_eq!(
        error.to_string(),
        "the rollback failed: the checkpoint's regions are not the session's regions of today (region 7)"
    );
    let error = client.checkpoint().expect_err("a refusal");
    assert!(matches!(error, ShimError::Refused { status: Status::RegionSet, detail: 7, .. }));
}

#[test]
fn a_session_is_refused_by_status_version_feature_or_a_wrong_answer() {
    let open = |reply: Reply| {
        let fake = Fake::answering(move |_| reply);
        Client::hello(fake.start(PATIENCE).expect("a device")).expect_err("no session")
    };
    assert_eq!(open(Reply::refusal(Status::Version, 0)).status(), Some(Status::Version));
    assert!(matches!(open(Reply::done(ReplyBody::Empty)), ShimError::WrongAnswer { .. }));
    let ReplyBody::Hello(hello) = hello().body else { unreachable!() };
    for hello in
        [Hello { version: 2, ..hello }, Hello { version: 0, ..hello }, Hello { features: 1 << 3, ..hello }]
    {
        assert!(matches!(open(Reply::done(ReplyBody::Hello(hello))), ShimError::WrongAnswer { .. }));
    }
}

#[test]
fn an_answer_to_something_else_is_an_error() {
    let mut client = client(|_| Reply::done(ReplyBody::Session(SessionFigures::default())));
    assert!(matches!(
        client.register(memory(), name_of("a"), RegionMode::Tracked, 0),
        Err(ShimError::WrongAnswer { .. })
    ));
    assert!(matches!(client.checkpoint(), Err(ShimError::WrongAnswer { .. })));
    assert!(matches!(client.rollback(CheckpointId(1)), Err(ShimError::WrongAnswer { .. })));
    assert!(client.query().is_ok());
}

#[test]
fn a_request_is_resumed_with_the_cursor_until_it_is_done() {
    let memory = memory();
    let Span { address, len } = memory.span();
    let cursors = Arc::new(Mutex::new(Vec::new()));
    let mut client = client({
        let cursors = cursors.clone();
        move |envelope| {
            cursors.lock().expect("no panic").push(envelope.cursor);
            match (envelope.request, envelope.cursor) {
                (_, 0) => again(0x10, Span { address, len: PAGE }),
                (_, 0x10) => again(0xffff_ffff, Span { address: address + PAGE, len: len - PAGE }),
                (Request::Register { .. }, 0xffff_ffff) => Reply::done(ReplyBody::Region(RegionId(1))),
                (Request::Rollback { .. }, 0xffff_ffff) => Reply::done(ReplyBody::Empty),
                _ => Reply::refusal(Status::Malformed, 0),
            }
        }
    });
    client.register(memory, name_of("a"), RegionMode::Tracked, 0).expect("a region, at the third try");
    client.rollback(CheckpointId(1)).expect("a rollback, at the third try");
    assert_eq!(*cursors.lock().expect("no panic"), [0, 0x10, 0xffff_ffff, 0, 0x10, 0xffff_ffff]);
}

#[test]
fn only_memory_that_the_request_is_about_is_touched() {
    let (registered, other) = (memory(), memory());
    let spans = [registered.span(), other.span()];
    let asked = Arc::new(Mutex::new(spans[0]));
    let mut client = client({
        let asked = asked.clone();
        move |envelope| match (envelope.request, envelope.cursor) {
            (_, 0) => again(1, *asked.lock().expect("no panic")),
            (Request::Register { .. }, _) => Reply::done(ReplyBody::Region(RegionId(1))),
            (Request::Checkpoint, _) => Reply::done(ReplyBody::Checkpoint(CheckpointId(1))),
            _ => Reply::done(ReplyBody::Empty),
        }
    });
    client.register(registered, name_of("a"), RegionMode::Tracked, 0).expect("a region");
    // A region that is registered already isn't what REGISTER of another is about.
    let error = client.register(other, name_of("b"), RegionMode::Tracked, 0).expect_err("foreign memory");
    assert!(matches!(error, ShimError::ForeignMemory { span } if span == spans[0]));
    client.checkpoint().expect("a checkpoint");
    let over_the_end = Span { len: spans[0].len + 1, ..spans[0] };
    for span in [spans[1], over_the_end, Span { address: 0, len: PAGE }, Span { len: 0, ..spans[0] }] {
        *asked.lock().expect("no panic") = span;
        assert!(matches!(client.checkpoint(), Err(ShimError::ForeignMemory { span: is }) if is == span));
    }
    // What isn't a region any more isn't touched either.
    *asked.lock().expect("no panic") = Span { address: 1, len: 1 };
    assert!(client.unregister(RegionId(1)).is_err());
    *asked.lock().expect("no panic") = spans[0];
    client.unregister(RegionId(1)).expect("the region ends");
    assert!(matches!(client.checkpoint(), Err(ShimError::ForeignMemory { .. })));
}

#[test]
fn a_device_that_asks_without_end_is_given_up() {
    let memory = memory();
    let page = Span { len: PAGE, ..memory.span() };
    let mut rounds = 0;
    let mut endless = client(move |envelope| match envelope.request {
        Request::Register { .. } => Reply::done(ReplyBody::Region(RegionId(1))),
        // The same page again and again, then nothing at all again and again.
        Request::Checkpoint => {
            rounds += 1;
            again(rounds, page)
        }
        _ => Reply::again(0, Ask::Touch, Missing::new(&[])),
    });
    endless.register(memory, name_of("a"), RegionMode::Tracked, 0).expect("a region");
    assert!(matches!(endless.checkpoint(), Err(ShimError::Endless)));
    assert!(matches!(endless.rollback(CheckpointId(1)), Err(ShimError::Endless)));
    // A status that says Again without a list is no Again.
    let mut listless = client(|_| Reply::refusal(Status::Again, 0));
    assert!(matches!(listless.checkpoint(), Err(ShimError::WrongAnswer { .. })));
}

/// A page for which the device asks as often as the budget allows is fine; once more is not.
#[test]
fn the_budget_is_exact() {
    let rounds = (8 * TOUCHES_PER_PAGE + EXTRA_TOUCHES) / 2;
    for (asks, fine) in [(rounds, true), (rounds + 1, false)] {
        let memory = memory();
        let page = Span { len: PAGE, ..memory.span() };
        let mut client = client(move |envelope| match u64::from(envelope.cursor) {
            cursor if cursor < asks => again(envelope.cursor + 1, page),
            _ => Reply::done(ReplyBody::Region(RegionId(1))),
        });
        assert_eq!(client.register(memory, name_of("a"), RegionMode::Tracked, 0).is_ok(), fine);
    }
}

/// A settle round is about whole regions each time, and costs one of the budget.
#[test]
fn settling_costs_a_round() {
    let rounds = 8 * TOUCHES_PER_PAGE + EXTRA_TOUCHES;
    for (asks, fine) in [(rounds, true), (rounds + 1, false)] {
        let memory = memory();
        let whole = memory.span();
        let mut client = client(move |envelope| match u64::from(envelope.cursor) {
            cursor if cursor < asks => {
                Reply::again(envelope.cursor + 1, Ask::Settle, Missing::new(&[whole, whole]))
            }
            _ => Reply::done(ReplyBody::Region(RegionId(1))),
        });
        assert_eq!(client.register(memory, name_of("a"), RegionMode::Tracked, 0).is_ok(), fine);
    }
}

#[test]
fn only_memory_that_the_request_is_about_is_settled() {
    let mut client =
        client(|_| Reply::again(1, Ask::Settle, Missing::new(&[Span { address: 0x1000, len: PAGE }])));
    assert!(matches!(client.checkpoint(), Err(ShimError::ForeignMemory { .. })));
}

#[test]
fn memory_that_cannot_be_touched_is_an_error_and_no_crash() {
    let memory = memory();
    let span = memory.span();
    let mut client = client(move |envelope| match envelope.request {
        Request::Register { .. } => Reply::done(ReplyBody::Region(RegionId(1))),
        _ => again(1, span),
    });
    client.register(memory, name_of("a"), RegionMode::Tracked, 0).expect("a region");
    let page = std::ptr::with_exposed_provenance_mut(usize::try_from(span.address).expect("an address"));
    // SAFETY: a page of the leaked memory, which nobody uses but the client.
    unsafe { rustix::mm::mprotect(page, 4096, rustix::mm::MprotectFlags::READ) }.expect("fewer rights");
    let error = client.rollback(CheckpointId(1)).expect_err("a page that can't be written");
    assert!(matches!(error, ShimError::Untouchable { span: is, .. } if is == span));
}

#[test]
fn hints_cost_no_request_but_the_first_and_full_tables() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let mut client = client({
        let requests = requests.clone();
        let mut table = None;
        move |envelope| {
            let asked = match (envelope.request, envelope.cursor) {
                (Request::Hints { table: here }, 0) => {
                    table = Some(Span { address: here, len: 32768 });
                    "table"
                }
                // A page of the table is gone for a moment.
                (Request::Rollback { .. }, 0) => {
                    requests.lock().expect("no panic").push("absent");
                    return again(1, table.expect("the table is known"));
                }
                (Request::Rollback { .. }, _) => "rollback",
                (Request::Checkpoint, _) => "checkpoint",
                _ => "other",
            };
            requests.lock().expect("no panic").push(asked);
            Reply::done(match envelope.request {
                Request::Register { .. } => ReplyBody::Region(RegionId(1)),
                Request::Checkpoint => ReplyBody::Checkpoint(CheckpointId(1)),
                _ => ReplyBody::Empty,
            })
        }
    });
    client.register(memory(), name_of("a"), RegionMode::Hinted, 0).expect("a region");
    client.checkpoint().expect("a checkpoint without hints");
    client.hint(RegionId(1), 3..u64::MAX);
    client.hint(RegionId(7), 0..1);
    client.checkpoint().expect("a checkpoint with the first hint");
    client.hint(RegionId(1), 0..1);
    client.rollback(CheckpointId(1)).expect("a rollback");
    client.checkpoint().expect("a checkpoint without hints");
    assert_eq!(
        *requests.lock().expect("no panic"),
        ["other", "checkpoint", "table", "checkpoint", "absent", "rollback", "checkpoint"]
    );
}

/// Answers BUSY to the first requests about the store, and then by `answer`.
fn storing(answer: impl Fn(Envelope) -> Reply + Send + 'static) -> Client {
    let busy = AtomicU32::new(3);
    with_features(FEATURE_DURABLE, move |envelope| match envelope.request {
        Request::CheckpointDurable { .. } | Request::Recover { .. } | Request::Stored { .. }
            if busy
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok() =>
        {
            Reply::refusal(Status::Busy, 0)
        }
        _ => answer(envelope),
    })
}

fn with_features(features: u64, answer: impl Fn(Envelope) -> Reply + Send + 'static) -> Client {
    let fake = Fake::answering(move |envelope| match (envelope.request, hello().body) {
        (Request::Hello { .. }, ReplyBody::Hello(hello)) => {
            Reply::done(ReplyBody::Hello(Hello { features, ..hello }))
        }
        _ => answer(envelope),
    });
    Client::hello(fake.start(PATIENCE).expect("a device")).expect("a session")
}

#[test]
fn what_the_store_is_not_ready_for_is_asked_for_again() {
    let id = CheckpointId(9);
    let durability = move |reached| Reply::done(ReplyBody::Durability(Durability { id, reached }));
    let asked = AtomicU32::new(0);
    let mut client = storing(move |envelope| match envelope.request {
        Request::CheckpointDurable { level: Level::Synced } => durability(None),
        Request::Durability { wait: None, .. } => durability(Some(Level::Written)),
        Request::Durability { wait: Some(Level::Synced), .. } => {
            // At the third look.
            durability(if asked.fetch_add(1, Ordering::Relaxed) < 2 { None } else { Some(Level::Synced) })
        }
        _ => Reply::refusal(Status::Malformed, 0),
    });
    assert!(client.has_store());
    assert_eq!(client.checkpoint_durable(Level::Synced).expect("a checkpoint"), id);
    assert!(client.is_durable(id, Level::Written, false).expect("an answer"));
    assert!(!client.is_durable(id, Level::Synced, false).expect("an answer"));
    assert!(client.is_durable(id, Level::Synced, true).expect("an answer"));
    assert!(matches!(
        client.is_durable(CheckpointId(8), Level::Synced, true),
        Err(ShimError::WrongAnswer { .. })
    ));
    let mut client = storing(|_| Reply::done(ReplyBody::Checkpoint(CheckpointId(9))));
    assert_eq!(client.recover(None).expect("a checkpoint"), id);
    assert!(matches!(client.stored(None, name_of("a")), Err(ShimError::WrongAnswer { .. })));
}

#[test]
fn what_does_not_fit_is_told_with_what_is_stored() {
    let stored = StoredRegion {
        checkpoint: CheckpointId(4),
        name: name_of("table"),
        span: Span { address: 0, len: 4096 },
        tag: 1,
    };
    let mut client =
        storing(move |_| Reply { body: ReplyBody::Stored(stored), ..Reply::refusal(Status::Mismatch, 3) });
    let error = client.recover(None).expect_err("a mismatch");
    assert!(
        matches!(error, ShimError::Mismatch { region: Some(RegionId(3)), stored: Some(told) } if told == stored)
    );
    for status in [Status::NoRegion, Status::NoCheckpoint] {
        let mut client = storing(move |_| Reply::refusal(status, 0));
        assert_eq!(client.stored(None, name_of("table")).expect("an answer"), None);
    }
    let mut client = storing(|_| Reply::refusal(Status::Store, 28));
    let error = client.checkpoint_durable(Level::Written).expect_err("a failure");
    assert!(matches!(error, ShimError::Refused { status: Status::Store, detail: 28, .. }));
}

/// A tag means something to a store only.
#[test]
fn without_a_store_no_tag_is_sent() {
    let mut client = with_features(0, |envelope| match envelope.request {
        Request::Register { tag: 0, .. } => Reply::done(ReplyBody::Region(RegionId(3))),
        _ => Reply::refusal(Status::Unsupported, 0),
    });
    assert!(!client.has_store());
    assert!(client.register(memory(), name_of("table"), RegionMode::Tracked, 77).is_ok());
}
