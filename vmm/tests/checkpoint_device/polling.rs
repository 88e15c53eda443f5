//! Serving a program that doesn't notify.

use cairn_abi::{Request, SessionKey, Status};
use cairn_vmm::devices::checkpoint::Effect;
use cairn_vmm::devices::checkpoint::device::{Rest, Served};
use vm_memory::{Bytes, GuestAddress};

use crate::support::guest::{AVAILABLE, DESCRIPTORS, Guest, HOLE, NEEDS_RESET, QUEUE_SIZE, USED, register};

const NO_NOTIFY: u16 = 1;

#[test]
fn polling_serves_all_but_what_needs_the_program_to_stand_still() {
    let mut guest = Guest::with_session();
    guest.post(&guest.envelope(0, Request::Checkpoint));
    assert_eq!(guest.poll(), Served { requests: 1, rest: Rest::Empty });
    assert_eq!(guest.reply().status, Status::Ok);
    guest.engine.effects.clear();
    let hello = Request::Hello { version: 1, features: 0 };
    for request in [register(0x10_0000, 1, "a"), hello] {
        guest.post(&guest.envelope(0, request));
        for _ in 0..3 {
            assert_eq!(guest.poll(), Served { requests: 0, rest: Rest::ForNotification });
        }
        assert_eq!(guest.engine.effects, []);
        assert_eq!(guest.notify(), Some(Served { requests: 1, rest: Rest::Empty }));
        assert_eq!(guest.reply().status, Status::Ok);
        guest.engine.effects.clear();
    }
}

#[test]
fn polling_leaves_a_wrong_key_for_the_notification() {
    let mut guest = Guest::with_session();
    guest.key = SessionKey([7; 16]);
    guest.post(&guest.envelope(0, Request::Checkpoint));
    assert_eq!(guest.poll(), Served { requests: 0, rest: Rest::ForNotification });
    assert_eq!(guest.engine.effects, [Effect::DropAll], "HELLO's alone");
    guest.notify();
    assert_eq!(guest.reply().status, Status::BadKey);
    assert_eq!(guest.engine.effects, [Effect::DropAll; 2]);
}

#[test]
fn the_driver_learns_whether_somebody_polls() {
    let mut guest = Guest::with_session();
    let flags = |guest: &Guest| guest.memory.read_obj::<u16>(GuestAddress(USED)).unwrap();
    assert!(!guest.function.device_mut().announce_polling(&guest.memory, true));
    assert_eq!(flags(&guest), NO_NOTIFY);
    guest.post(&guest.envelope(0, Request::Checkpoint));
    assert!(guest.function.device_mut().announce_polling(&guest.memory, false), "one slipped in");
    assert_eq!(flags(&guest), 0);
    guest.poll();
    assert!(!guest.function.device_mut().announce_polling(&guest.memory, false));
}

#[test]
fn rings_out_of_reach_are_not_polled() {
    let mut guest = Guest::new();
    guest.bring_up_with(QUEUE_SIZE, [DESCRIPTORS, AVAILABLE, HOLE]);
    guest.post(&guest.envelope(0, register(0x10_0000, 1, "a")));
    assert_eq!(guest.poll(), Served { requests: 0, rest: Rest::OutOfReach });
    assert!(!guest.function.device_mut().announce_polling(&guest.memory, true));
    assert_eq!(guest.status() & NEEDS_RESET, 0);
}
