//! Claims: who is told what.

use super::testing::{FakeLog, SLOT};
use super::*;
use crate::memory::ram::MIN_BYTES;

const A: SessionIndex = SessionIndex(1);
const B: SessionIndex = SessionIndex(2);

fn frames() -> (FrameLog<FakeLog>, FakeLog) {
    let ram = Arc::new(Ram::new(MIN_BYTES).unwrap());
    let log = FakeLog::new(&ram);
    (FrameLog::new(log.clone(), ram), log)
}

fn page(frame: u64, page: u32) -> Claim {
    Claim { frame, content: Content::Page(0, page) }
}

/// What `session` is told: frames that the guest wrote, and news.
fn told(frames: &mut FrameLog<FakeLog>, session: SessionIndex) -> (Vec<u64>, Vec<u64>) {
    let (mut written, mut news) = (Vec::new(), Vec::new());
    frames.written(session, |claim| written.push(claim.frame), |claim| news.push(claim.frame)).unwrap();
    (written, news)
}

#[test]
fn claims_are_reported_until_they_are_protected_and_when_they_are_written() {
    let (mut frames, log) = frames();
    for at in 0..3 {
        frames.claim(A, page(at * PAGE, 0)).unwrap();
    }
    assert_eq!(told(&mut frames, A).0, [0, PAGE, 2 * PAGE]);
    assert_eq!(told(&mut frames, B).0, [0; 0]);
    frames.protect([0, 2 * PAGE].into_iter()).unwrap();
    assert_eq!(told(&mut frames, A).0, [PAGE]);
    log.write(2 * PAGE + 5);
    log.write(3 * PAGE);
    assert_eq!(told(&mut frames, A).0, [PAGE, 2 * PAGE]);
}

#[test]
fn only_slots_with_claims_are_logged() {
    let (mut frames, log) = frames();
    frames.claim(A, page(PAGE, 0)).unwrap();
    frames.claim(B, page(SLOT, 0)).unwrap();
    assert_eq!(log.logged(), 2);
    assert_ne!(frames.arming(), Duration::ZERO);
    frames.release(A, page(SLOT, 0));
    assert_eq!(log.logged(), 2, "somebody else's claim");
    frames.release(A, page(PAGE, 0));
    assert_eq!(log.logged(), 1);
}

#[test]
fn who_loses_a_frame_is_told_once() {
    let (mut frames, _) = frames();
    frames.claim(A, page(PAGE, 7)).unwrap();
    frames.protect(std::iter::once(PAGE)).unwrap();
    assert!(!frames.claim_free(B, page(PAGE, 1)).unwrap());
    assert!(frames.claim_free(A, page(PAGE, 7)).unwrap());
    frames.claim(B, page(PAGE, 1)).unwrap();
    assert!(!frames.holds(A, page(PAGE, 7)));
    assert_eq!(told(&mut frames, A), (vec![], vec![PAGE]));
    assert_eq!(told(&mut frames, A), (vec![], vec![]));
    frames.release(A, page(PAGE, 7));
    assert!(frames.holds(B, page(PAGE, 1)));
}

#[test]
fn what_the_monitor_writes_is_news_to_the_owner() {
    let (mut frames, _) = frames();
    frames.claim(A, page(PAGE, 0)).unwrap();
    frames.claim(B, page(2 * PAGE, 0)).unwrap();
    frames.protect([PAGE, 2 * PAGE].into_iter()).unwrap();
    frames.ram().mark(PAGE);
    frames.ram().mark(2 * PAGE + 100);
    frames.ram().mark(3 * PAGE);
    assert_eq!(told(&mut frames, A), (vec![], vec![PAGE]));
    // B doesn't look, and what it's to be told doesn't pile up.
    for _ in 0..3 {
        frames.ram().mark(2 * PAGE);
        assert_eq!(told(&mut frames, A), (vec![], vec![]));
    }
    assert_eq!(told(&mut frames, B), (vec![], vec![2 * PAGE]));
    assert_eq!(told(&mut frames, A), (vec![], vec![]));
}

#[test]
fn frames_that_are_not_memory_are_not_claimed() {
    let (mut frames, log) = frames();
    for frame in [MIN_BYTES, u64::MAX - PAGE + 1] {
        frames.claim(A, page(frame, 0)).unwrap();
        assert!(!frames.holds(A, page(frame, 0)));
        frames.release(A, page(frame, 0));
        frames.protect(std::iter::once(frame)).unwrap();
    }
    assert_eq!(log.logged(), 0);
}
