//! A device that is taken away between two requests, and comes back as another one.

use cairn_abi::{RegionId, ReplyBody, Request, Status};
use cairn_store::section;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::support::engine::Mood;
use crate::support::exercise::a_good_program_is_served;
use crate::support::guest::{AtRest, Guest, register};

#[test]
fn what_was_posted_is_served_by_the_device_that_comes_back() {
    let mut guest = Guest::with_session();
    guest.ask(register(0x10_0000, 1, "a"));
    for _ in 0..40 {
        assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
    }
    let (before, _) = guest.used();
    guest.post(&guest.envelope(0, Request::Checkpoint));
    guest.rest();
    guest.notify();
    assert_eq!((guest.used().0, guest.reply().status), (before + 1, Status::Ok));
    assert_eq!(guest.ask(register(0x10_0000, 1, "b")).status, Status::Overlap);
    guest.post(&guest.envelope(0, Request::Checkpoint));
    guest.rest();
    guest.poll();
    assert_eq!(guest.reply().status, Status::Ok);
}

#[test]
fn a_request_that_is_to_come_again_goes_on() {
    let mut guest = Guest::with_session();
    guest.engine.mood = Mood::Missing;
    let again = guest.ask(register(0x10_0000, 1, "a"));
    assert_eq!(again.status, Status::Again);
    guest.rest();
    let reply = guest.ask_bytes(&guest.envelope(again.cursor, register(0x10_0000, 1, "a")));
    assert!(matches!(reply.body, ReplyBody::Region(_)), "{reply:?}");
    guest.rest();
    let stale = guest.ask_bytes(&guest.envelope(again.cursor, Request::Checkpoint));
    assert_eq!(stale.status, Status::Malformed);
}

#[test]
fn a_device_without_a_driver_rests_too() {
    let mut guest = Guest::new();
    guest.rest();
    a_good_program_is_served(&mut guest);
    guest.write(20, &[128]);
    guest.rest();
    a_good_program_is_served(&mut guest);
}

fn resting() -> (Guest, AtRest) {
    let mut guest = Guest::with_session();
    guest.ask(register(0x10_0000, 1, "a"));
    guest.engine.mood = Mood::Missing;
    guest.ask(register(0x20_0000, 2, "b"));
    let rest = guest.at_rest();
    (guest, rest)
}

/// It's refused, or it's some device; a driver that begins anew is served.
fn is_refused_or_works(bytes: &[u8]) -> TestCaseResult {
    let (mut guest, rest) = resting();
    let Ok(state) = section::decode(bytes, 1 << 16) else { return Ok(()) };
    if guest.bring_back(&AtRest { state, regions: rest.regions }).is_ok() {
        guest.poll();
        guest.notify();
        guest.handle_config(0x40, &[1, 2, 3, 4]);
    }
    a_good_program_is_served(&mut guest);
    Ok(())
}

#[test]
fn each_byte_may_be_wrong() {
    let bytes = section::encode(&resting().1.state).unwrap();
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            is_refused_or_works(&bytes).unwrap();
        }
    }
}

#[test]
fn regions_that_clash_are_refused() {
    let (mut guest, rest) = resting();
    let one = rest.regions[0];
    let mut other = one;
    other.id = RegionId(9);
    for regions in [vec![one, one], vec![one, other]] {
        assert!(guest.bring_back(&AtRest { regions, ..rest.clone() }).is_err());
    }
    let mut huge = one;
    huge.span.len = u64::MAX - 0xfff;
    assert!(guest.bring_back(&AtRest { regions: vec![huge], ..rest }).is_err());
}

proptest! {
    #[test]
    fn any_bytes_may_come_back(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        is_refused_or_works(&bytes)?;
    }
}
