//! Descriptor chains that no good driver makes.

use cairn_abi::{Request, Status};
use cairn_vmm::devices::checkpoint::device::{Rest, Served};
use cairn_vmm::devices::checkpoint::{Again, Effect};
use vm_memory::{Bytes, GuestAddress};

use crate::support::guest::{
    DESCRIPTORS, Descriptor, Guest, HOLE, INDIRECT, NEXT, QUEUE_SIZE, REPLY, REPLY_LEN, REQUEST, REQUEST_LEN,
    WRITE,
};

/// A request that is answered in spite of its chain, or isn't.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Obeyed as if nothing were odd.
    Obeyed,
    /// Answered with [`Status::Malformed`], and nothing was done.
    Malformed,
    /// Used with length 0, and nothing was done.
    Dropped,
}

/// A descriptor's address, length, flags and next, in the order of the table.
type Raw = (u64, u32, u16, u16);

fn describe_all(guest: &Guest, chain: &[Raw]) {
    for (index, &(address, len, flags, next)) in (0..).zip(chain) {
        guest.describe(index, Descriptor { address, len, flags, next });
    }
}

#[test]
fn hostile_chains_are_answered_or_dropped() {
    use End::{Dropped, Malformed, Obeyed};
    const LAST: u64 = HOLE + 0x1000 + 0x1000;
    let cases: &[(&str, End, &[Raw])] = &[
        ("as it should be", Obeyed, &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)]),
        ("more room than needed", Obeyed, &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, 0x1000, WRITE, 0)]),
        ("room beyond memory", Obeyed, &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, u32::MAX, WRITE, 0)]),
        (
            "in pieces",
            Obeyed,
            &[
                (REQUEST, 100, NEXT, 1),
                (REQUEST + 100, 28, NEXT, 2),
                (REPLY, 1, NEXT | WRITE, 3),
                (REPLY + 1, 271, WRITE, 0),
            ],
        ),
        (
            "next is not followed without its flag",
            Obeyed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 77)],
        ),
        ("one byte too few to write", Dropped, &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, 271, WRITE, 0)]),
        ("nothing to write", Dropped, &[(REQUEST, REQUEST_LEN, 0, 0)]),
        ("one byte too few to read", Malformed, &[(REQUEST, 127, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)]),
        ("one byte too many to read", Malformed, &[(REQUEST, 129, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)]),
        ("gigabytes to read", Malformed, &[(REQUEST, u32::MAX, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)]),
        ("nothing to read", Malformed, &[(REPLY, REPLY_LEN, WRITE, 0)]),
        ("no bytes", Malformed, &[(REQUEST, 0, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)]),
        (
            "no bytes behind the room",
            Malformed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE | NEXT, 2), (REPLY, 0, WRITE, 0)],
        ),
        (
            "to write before to read",
            Malformed,
            &[(REPLY, REPLY_LEN, WRITE | NEXT, 1), (REQUEST, REQUEST_LEN, 0, 0)],
        ),
        ("a descriptor that follows itself", Dropped, &[(REQUEST, 1, NEXT, 0)]),
        (
            "a loop of room",
            Malformed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE | NEXT, 1)],
        ),
        (
            "a loop over both",
            Malformed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE | NEXT, 0)],
        ),
        (
            "next outside the table",
            Malformed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE | NEXT, QUEUE_SIZE)],
        ),
        ("an indirect table", Dropped, &[(DESCRIPTORS, 32, INDIRECT, 0)]),
        (
            "an indirect table behind the room",
            Malformed,
            &[
                (REQUEST, REQUEST_LEN, NEXT, 1),
                (REPLY, REPLY_LEN, WRITE | NEXT, 2),
                (DESCRIPTORS, 32, INDIRECT, 0),
            ],
        ),
        ("a request in a hole", Malformed, &[(HOLE, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)]),
        (
            "a request into a hole",
            Malformed,
            &[(HOLE - 64, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)],
        ),
        (
            "a request around the end",
            Malformed,
            &[(u64::MAX - 3, REQUEST_LEN, NEXT, 1), (REPLY, REPLY_LEN, WRITE, 0)],
        ),
        ("a reply in a hole", Dropped, &[(REQUEST, REQUEST_LEN, NEXT, 1), (HOLE, REPLY_LEN, WRITE, 0)]),
        (
            "a reply into a hole",
            Dropped,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (HOLE - 271, REPLY_LEN, WRITE, 0)],
        ),
        (
            "a reply around the end",
            Dropped,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (u64::MAX - 3, 0x1000, WRITE, 0)],
        ),
        (
            "a reply up to the end",
            Obeyed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (LAST - 272, REPLY_LEN, WRITE, 0)],
        ),
        (
            "a reply over its request",
            Obeyed,
            &[(REQUEST, REQUEST_LEN, NEXT, 1), (REQUEST, REPLY_LEN, WRITE, 0)],
        ),
    ];
    for (what, end, chain) in cases {
        let mut guest = Guest::with_session();
        guest.engine.effects.clear();
        guest.memory.write_slice(&guest.envelope(0, Request::Checkpoint), GuestAddress(REQUEST)).unwrap();
        describe_all(&guest, chain);
        guest.make_available(0);
        assert_eq!(guest.notify(), Some(Served { requests: 1, rest: Rest::Empty }), "{what}");
        let written = if *end == Dropped { 0 } else { REPLY_LEN };
        assert_eq!(guest.used(), (2, written), "{what}");
        let done: &[Effect] = if *end == Obeyed { &[Effect::Checkpoint(Again::No)] } else { &[] };
        assert_eq!(guest.engine.effects, done, "{what}");
        if *end == Malformed {
            assert_eq!(guest.reply().status, Status::Malformed, "{what}");
        }
        assert_eq!(guest.ask(Request::Checkpoint).status, Status::Ok, "after {what}");
    }
}

#[test]
fn chains_may_be_as_long_as_the_bound_and_no_longer() {
    for (pieces, end) in [(7, Status::Ok), (8, Status::Malformed)] {
        let mut guest = Guest::with_session();
        guest.memory.write_slice(&guest.envelope(0, Request::Checkpoint), GuestAddress(REQUEST)).unwrap();
        guest.describe(0, Descriptor { address: REQUEST, len: REQUEST_LEN, flags: NEXT, next: 1 });
        for piece in 1..=pieces {
            let flags = if piece == pieces { WRITE } else { WRITE | NEXT };
            let address = REPLY + u64::from(piece - 1) * 64;
            guest.describe(piece, Descriptor { address, len: 64, flags, next: piece + 1 });
        }
        guest.make_available(0);
        guest.notify();
        assert_eq!(guest.used(), (2, REPLY_LEN));
        assert_eq!(guest.reply().status, end);
    }
}
