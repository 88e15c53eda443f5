//! Queues that are full, too full, or nowhere.

use cairn_abi::{CheckpointId, ReplyBody, Request};
use cairn_vmm::devices::checkpoint::device::{MAX_SERVED, Rest, Served};
use vm_memory::{Bytes, GuestAddress};

use crate::support::exercise::a_good_program_is_served;
use crate::support::guest::{AVAILABLE, DESCRIPTORS, Guest, HOLE, NEEDS_RESET, QUEUE_SIZE, USED};

#[test]
fn requests_are_served_together_and_each_once() {
    let mut guest = Guest::with_session();
    let request = guest.envelope(0, Request::Checkpoint);
    for _ in 0..QUEUE_SIZE / 2 {
        guest.post(&request);
    }
    assert_eq!(guest.notify(), Some(Served { requests: QUEUE_SIZE / 2, rest: Rest::Empty }));
    assert_eq!(guest.notify(), Some(Served { requests: 0, rest: Rest::Empty }));
    assert_eq!(guest.reply().body, ReplyBody::Checkpoint(CheckpointId(8)));
}

#[test]
fn one_call_serves_a_bounded_number() {
    let mut guest = Guest::new();
    guest.bring_up_with(MAX_SERVED, [DESCRIPTORS, AVAILABLE, USED]);
    // All entries of the ring name the chain at 0; the driver is a whole queue ahead, then one more.
    guest.post(&[0; 128]);
    guest.memory.write_obj(MAX_SERVED, GuestAddress(AVAILABLE + 2)).unwrap();
    assert_eq!(guest.notify(), Some(Served { requests: MAX_SERVED, rest: Rest::Unknown }));
    assert_eq!(guest.notify(), Some(Served { requests: 0, rest: Rest::Empty }));
    guest.memory.write_obj(2 * MAX_SERVED + 1, GuestAddress(AVAILABLE + 2)).unwrap();
    assert_eq!(guest.notify(), Some(Served { requests: 0, rest: Rest::Unusable }));
    assert_ne!(guest.status() & NEEDS_RESET, 0);
}

#[test]
fn rings_out_of_reach_are_left_as_they_are() {
    let nowhere = HOLE;
    let rings = [
        [nowhere, AVAILABLE, USED],
        [DESCRIPTORS, nowhere, USED],
        [DESCRIPTORS, AVAILABLE, nowhere],
        [DESCRIPTORS, HOLE - 4, USED],
        [DESCRIPTORS, u64::MAX - 3, USED],
        [DESCRIPTORS, AVAILABLE, u64::MAX - 3],
        [u64::MAX - 15, AVAILABLE, USED],
        [0, 0, 0],
    ];
    for addresses in rings {
        let mut guest = Guest::new();
        guest.bring_up_with(QUEUE_SIZE, addresses);
        guest.memory.write_slice(&[0xff; 4], GuestAddress(HOLE - 4)).unwrap();
        guest.post(&guest.envelope(0, Request::Checkpoint));
        let left = Served { requests: 0, rest: Rest::OutOfReach };
        for _ in 0..3 {
            assert_eq!(guest.notify(), Some(left), "{addresses:x?}");
            assert_eq!(guest.poll(), left, "{addresses:x?}");
        }
        assert_eq!(guest.status() & NEEDS_RESET, 0, "{addresses:x?}");
        assert_eq!(guest.used().0, 0, "{addresses:x?}");
        a_good_program_is_served(&mut guest);
    }
}

#[test]
fn heads_outside_the_table_and_positions_too_far_stop_the_device() {
    for (position, head) in [(1, QUEUE_SIZE), (1, u16::MAX), (QUEUE_SIZE + 1, 0), (u16::MAX, 0)] {
        let mut guest = Guest::new();
        guest.bring_up();
        guest.post(&[0; 128]);
        guest.memory.write_obj(head, GuestAddress(AVAILABLE + 4)).unwrap();
        guest.memory.write_obj(position, GuestAddress(AVAILABLE + 2)).unwrap();
        assert_eq!(guest.notify().unwrap().rest, Rest::Unusable, "{position} {head}");
        assert_ne!(guest.status() & NEEDS_RESET, 0);
        a_good_program_is_served(&mut guest);
    }
}
