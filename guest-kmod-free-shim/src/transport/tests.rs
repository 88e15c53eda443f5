//! The transport against devices that behave, that are slow, and that lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_abi::{CheckpointId, RegionName, ReplyBody, SessionKey, Span, Status};

use super::*;
use crate::fake::{Fake, PATIENCE, put_reply, put_used, serve, set_polling};

const CHECKPOINT: Envelope = Envelope { key: SessionKey([7; 16]), cursor: 3, request: Request::Checkpoint };

fn register() -> Request {
    let name = RegionName::new(b"table").expect("a name");
    let mode = cairn_abi::RegionMode::Tracked;
    Request::Register { span: Span { address: 0x1000, len: 0x1000 }, name, mode, tag: 0 }
}

fn taken(id: u64) -> Reply {
    Reply::done(ReplyBody::Checkpoint(CheckpointId(id)))
}

#[test]
fn the_device_is_brought_up_in_the_order_of_the_standard() {
    let fake = Fake::answering(|_| taken(1));
    fake.state().offered = 1 << 32 | 1 << 33 | 1 << 28 | 1;
    let transport = fake.start(PATIENCE).expect("a device that behaves");
    {
        let state = fake.state();
        assert_eq!(state.history, [0, 1, 1 | 2, 1 | 2 | 8, 1 | 2 | 8 | 4]);
        assert_eq!(state.accepted, 1 << 32 | 1 << 33, "nothing else is understood");
        assert_eq!(state.addresses, fake.ring.addresses());
        assert_eq!((state.queue_size, state.queue_enable), (2, 1));
    }
    drop(transport);
    assert_eq!(fake.state().history.last(), Some(&0), "dropping it resets the device");
}

#[test]
fn a_device_that_does_not_come_up_is_told_so() {
    type Break = fn(&mut crate::fake::State);
    let error = |break_it: Break| {
        let fake = Fake::answering(|_| taken(1));
        break_it(&mut fake.state());
        let error = fake.start(PATIENCE).expect_err("a device that is broken");
        (error, fake.state().status & status::FAILED != 0)
    };
    assert!(
        matches!(error(|s| s.offered = 1 << 33), (StartError::NotVersion1 { offered }, true) if offered == 1 << 33)
    );
    assert!(matches!(error(|s| s.stuck_clear = 8), (StartError::Features { .. }, true)));
    assert!(matches!(error(|s| s.versions = [3, 2]), (StartError::Version { oldest: 2, newest: 3 }, true)));
    assert!(matches!(error(|s| s.versions = [0, 0]), (StartError::Version { .. }, true)));
    assert!(matches!(error(|s| s.queues = 0), (StartError::Queue { queues: 0, size: 64 }, true)));
    assert!(matches!(error(|s| s.queue_size = 1), (StartError::Queue { queues: 1, size: 1 }, true)));
    assert!(matches!(error(|s| s.notify_offset = 1), (StartError::Doorbell { offset: 4 }, true)));
    assert!(matches!(error(|s| s.notify_offset = u16::MAX), (StartError::Doorbell { .. }, true)));
    assert!(matches!(error(|s| s.stuck_clear = 4), (StartError::Failed { .. }, true)));
    assert!(matches!(error(|s| s.stuck_set = 1), (StartError::Reset { status: 1 }, false)));
}

#[test]
fn a_request_is_answered_when_the_doorbell_returns() {
    let fake = Fake::answering(|envelope| {
        assert_eq!(envelope, CHECKPOINT);
        taken(9)
    });
    let mut transport =
        fake.start(Patience { polling: 0, notified: 1, yielding: 0, ..PATIENCE }).expect("a device");
    assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(9));
    assert_eq!(fake.state().doorbells, 1);
}

/// Ring indices are 16 bits and wrap.
#[test]
fn the_ring_wraps() {
    let mut id = 0;
    let fake = Fake::answering(move |_| {
        id += 1;
        taken(id)
    });
    let mut transport = fake.start(PATIENCE).expect("a device");
    for id in 1..=70_000 {
        assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(id));
    }
}

#[test]
fn a_status_that_is_no_success_is_a_reply_all_the_same() {
    let fake = Fake::answering(|_| Reply::refusal(Status::NoMemory, 0));
    let mut transport = fake.start(PATIENCE).expect("a device");
    for _ in 0..2 {
        assert_eq!(transport.call(&CHECKPOINT).expect("a reply").status, Status::NoMemory);
    }
}

#[test]
fn a_polling_device_is_not_notified() {
    let fake = Fake::answering(|_| taken(0));
    let mut transport = fake.start(Patience { polling: u32::MAX, ..PATIENCE }).expect("a device");
    set_polling(&fake.ring, true);
    let stop = Arc::new(AtomicBool::new(false));
    let poller = std::thread::spawn({
        let (ring, stop) = (fake.ring.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                serve(&ring, &mut |_| taken(5));
                std::thread::yield_now();
            }
        }
    });
    for _ in 0..100 {
        assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(5));
    }
    stop.store(true, Ordering::Relaxed);
    poller.join().expect("the poller ends");
    assert_eq!(fake.state().doorbells, 0);
}

#[test]
fn a_poller_that_sleeps_is_notified_after_a_bounded_time() {
    let fake = Fake::answering(|_| taken(5));
    let mut transport = fake.start(PATIENCE).expect("a device");
    set_polling(&fake.ring, true);
    assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(5));
    assert_eq!(fake.state().doorbells, 1);
}

#[test]
fn a_poller_that_says_it_sleeps_is_notified_at_once() {
    let fake = Fake::answering(|_| taken(5));
    let mut transport = fake.start(Patience { polling: u32::MAX, ..PATIENCE }).expect("a device");
    set_polling(&fake.ring, true);
    let sleeper = std::thread::spawn({
        let ring = fake.ring.clone();
        move || {
            while ring.page().available.index.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            set_polling(&ring, false);
        }
    });
    assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(5));
    sleeper.join().expect("the thread ends");
    assert_eq!(fake.state().doorbells, 1);
}

#[test]
fn what_a_poller_leaves_is_notified_at_once() {
    let fake = Fake::answering(|_| Reply::refusal(Status::Malformed, 0));
    let mut transport = fake.start(Patience { polling: u32::MAX, ..PATIENCE }).expect("a device");
    set_polling(&fake.ring, true);
    let hello = Request::Hello { version: 1, features: 0 };
    for request in [hello, register(), Request::Unregister { region: cairn_abi::RegionId(1) }] {
        let reply = transport.call(&Envelope { request, ..CHECKPOINT }).expect("a reply");
        assert_eq!(reply.status, Status::Malformed);
    }
    assert_eq!(fake.state().doorbells, 3);
}

#[test]
fn a_device_that_never_answers_is_given_up() {
    let fake = Fake::new(|_, _| {});
    let mut transport = fake.start(PATIENCE).expect("a device");
    assert!(matches!(transport.call(&CHECKPOINT), Err(CallError::NoAnswer)));
    assert_ne!(fake.state().status & status::FAILED, 0, "the device is told");
    assert_eq!(fake.state().doorbells, 3, "once, and twice in case that the ring couldn't be reached");
    assert!(matches!(transport.call(&CHECKPOINT), Err(CallError::Broken)));
    assert_eq!(fake.state().doorbells, 3, "nothing is sent any more");
}

/// The guest's kernel may be moving the ring's page when the device looks for it.
#[test]
fn a_device_that_could_not_reach_the_ring_is_notified_again() {
    let fake = Fake::new(|ring, state| {
        if state.doorbells % 3 == 0 {
            serve(ring, &mut |_| taken(4));
        }
    });
    let mut transport = fake.start(PATIENCE).expect("a device");
    for requests in 1..=3 {
        assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(4));
        assert_eq!(fake.state().doorbells, 3 * requests);
    }
}

/// Such a page may be that of the whole session: the child has neither registers nor ring, and must not miss
/// them.
#[test]
fn a_forked_child_is_told_so_and_leaves_the_device_alone() {
    let fake = Fake::answering(|_| taken(5));
    let mut transport = fake.start(PATIENCE).expect("a device");
    let status = fake.state().status;
    // SAFETY: the child uses memory and system calls only, and ends without unwinding. It takes no lock that
    // another thread of this process could have had: the fake device's are this test's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let told = matches!(transport.call(&CHECKPOINT), Err(CallError::ForkedChild));
        drop(transport);
        let untouched = fake.state().status == status && fake.state().doorbells == 0;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if told && untouched { 0 } else { 1 }) };
    }
    let mut ended = -1;
    // SAFETY: waits for the child above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut ended, 0) }, child);
    assert_eq!(ended, 0);
    assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(5), "the parent goes on");
}

#[test]
fn a_device_that_needs_a_reset_is_told_from_a_dead_one() {
    let fake = Fake::new(|_, state| state.status |= status::DEVICE_NEEDS_RESET);
    let mut transport = fake.start(PATIENCE).expect("a device");
    assert!(matches!(transport.call(&CHECKPOINT), Err(CallError::NeedsReset { status: 0x4f })));
}

#[test]
fn a_slow_device_is_waited_for() {
    let fake = Fake::new(|_, _| {});
    let mut transport = fake.start(Patience { yielding: u32::MAX - 10, ..PATIENCE }).expect("a device");
    let slow = std::thread::spawn({
        let fake = fake.clone();
        move || {
            while fake.state().doorbells == 0 {
                std::thread::yield_now();
            }
            serve(&fake.ring, &mut |_| taken(6));
        }
    });
    assert_eq!(transport.call(&CHECKPOINT).expect("a reply"), taken(6));
    slow.join().expect("the thread ends");
}

#[test]
fn lies_in_the_used_ring_are_errors() {
    type Lie = fn(&Ring);
    let error = |lie: Lie| {
        let fake = Fake::new(move |ring, _| lie(ring));
        let mut transport = fake.start(PATIENCE).expect("a device");
        let error = transport.call(&CHECKPOINT).expect_err("a device that lies");
        assert!(matches!(transport.call(&CHECKPOINT), Err(CallError::Broken)));
        error
    };
    assert!(matches!(error(|ring| put_used(ring, 0, 272, 2)), CallError::UsedIndex { index: 2, want: 1 }));
    assert!(matches!(
        error(|ring| put_used(ring, 0, 272, u16::MAX)),
        CallError::UsedIndex { index: u16::MAX, .. }
    ));
    assert!(matches!(error(|ring| put_used(ring, 1, 272, 1)), CallError::UsedId(1)));
    assert!(matches!(error(|ring| put_used(ring, u32::MAX, 272, 1)), CallError::UsedId(u32::MAX)));
    for (len, lie) in [
        (0, (|ring| put_used(ring, 0, 0, 1)) as Lie),
        (271, |ring| put_used(ring, 0, 271, 1)),
        (273, |ring| put_used(ring, 0, 273, 1)),
        (u32::MAX, |ring| put_used(ring, 0, u32::MAX, 1)),
    ] {
        assert!(matches!(error(lie), CallError::ReplyLen(is) if is == len));
    }
    let garbage: Lie = |ring| {
        put_reply(ring, &[0xff; REPLY_SIZE]);
        put_used(ring, 0, 272, 1);
    };
    assert!(matches!(error(garbage), CallError::Reply(DecodeError::UnknownStatus(u16::MAX))));
}
