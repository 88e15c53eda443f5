//! Queues that are full, too full, or nowhere.

use cairn_abi::{CheckpointId, ReplyBody, Request};
use cairn_vmm::devices::checkpoint::device::{MAX_SERVED, Rest, Served};
use cairn_vmm::devices::checkpoint::{Again, Effect};
use vm_memory::{Bytes, GuestAddress};

use crate::support::exercise::a_good_program_is_served;
use crate::support::guest::{
    AVAILABLE, DESCRIPTORS, Descriptor, Guest, HOLE, NEEDS_RESET, NEXT, QUEUE_SIZE, REPLY, REPLY_LEN,
    REQUEST, REQUEST_LEN, USED, WRITE,
};

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
fn where_a_kernel_waits_one_long_request_is_served_at_a_time() {
    let mut guest = Guest::with_session();
    guest.ask(Request::Checkpoint);
    guest.engine.effects.clear();
    let (id, figures) = (CheckpointId(1), Request::Query { checkpoint: None });
    let requests = [Request::Rollback { checkpoint: id }, figures, Request::Checkpoint, figures, figures];
    for (slot, request) in (0..).zip(requests) {
        let address = REQUEST + u64::from(slot) * u64::from(REQUEST_LEN);
        guest.memory.write_slice(&guest.envelope(0, request), GuestAddress(address)).unwrap();
        guest.describe(2 * slot, Descriptor { address, len: REQUEST_LEN, flags: NEXT, next: 2 * slot + 1 });
        guest.describe(2 * slot + 1, Descriptor { address: REPLY, len: REPLY_LEN, flags: WRITE, next: 0 });
        guest.make_available(2 * slot);
    }
    assert_eq!(guest.notify_until_long(), Served { requests: 1, rest: Rest::Unknown });
    assert_eq!(guest.engine.effects, [Effect::Rollback(id, Again::No)]);
    // What is quick doesn't end a turn, and nothing is forgotten.
    assert_eq!(guest.notify_until_long(), Served { requests: 2, rest: Rest::Unknown });
    assert_eq!(guest.reply().body, ReplyBody::Checkpoint(CheckpointId(2)));
    assert_eq!(guest.notify_until_long(), Served { requests: 2, rest: Rest::Empty });
    assert_eq!(guest.engine.effects.len(), requests.len());
    assert_eq!(guest.notify_until_long(), Served { requests: 0, rest: Rest::Empty });
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
