//! Who may ask, and what ends a session.

use cairn_abi::{Request, SessionKey, Status};
use cairn_vmm::devices::checkpoint::device::Rest;
use cairn_vmm::devices::checkpoint::{AddressSpace, Effect, Failure};

use crate::support::engine::Mood;
use crate::support::exercise::a_good_program_is_served;
use crate::support::guest::{Guest, register};

#[test]
fn a_good_program_is_served_from_the_start_and_again() {
    let mut guest = Guest::new();
    for _ in 0..3 {
        a_good_program_is_served(&mut guest);
    }
}

#[test]
fn a_reset_drops_the_session_at_once() {
    let mut guest = Guest::with_session();
    guest.ask(register(0x10_0000, 1, "a"));
    guest.write(20, &[0]);
    assert_eq!(guest.engine.effects.last(), Some(&Effect::DropAll));
    assert_eq!(guest.engine.regions(), 0);
}

#[test]
fn a_drop_that_failed_comes_before_anything_else() {
    let mut guest = Guest::with_session();
    guest.ask(register(0x10_0000, 1, "a"));
    guest.engine.mood = Mood::Failing(Failure::Host);
    guest.bring_up();
    assert_eq!(guest.engine.regions(), 1);
    guest.engine.effects.clear();
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::BadKey);
    assert_eq!(guest.engine.effects, [Effect::DropAll]);
    assert_eq!(guest.engine.regions(), 0);
}

#[test]
fn a_forked_child_is_ignored_and_harms_nobody() {
    let mut guest = Guest::with_session();
    let (before, _) = guest.used();
    guest.post(&guest.envelope(0, Request::Checkpoint));
    guest.address_space = AddressSpace(2);
    assert_eq!(guest.notify().unwrap().rest, Rest::Foreign);
    assert_eq!(guest.used().0, before);
    guest.address_space = AddressSpace(1);
    assert_eq!(guest.notify().unwrap().requests, 1);
    assert_eq!(guest.reply().status, Status::Ok);
}

#[test]
fn a_successor_resets_the_device_and_has_it_for_itself() {
    let mut guest = Guest::with_session();
    guest.ask(register(0x10_0000, 1, "a"));
    guest.address_space = AddressSpace(2);
    guest.bring_up();
    assert_eq!(guest.engine.regions(), 0);
    guest.hello();
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok);
}

#[test]
fn a_wrong_key_ends_the_session() {
    let mut guest = Guest::with_session();
    guest.ask(register(0x10_0000, 1, "a"));
    let key = std::mem::replace(&mut guest.key, SessionKey([7; 16]));
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::BadKey);
    assert_eq!(guest.engine.regions(), 0);
    guest.key = key;
    assert_eq!(guest.ask(Request::Checkpoint).status, Status::BadKey);
}
