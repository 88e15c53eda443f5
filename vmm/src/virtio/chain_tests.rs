//! Tests of the walk along a chain: which fault is named.

use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestMemoryMmap;

use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const TABLE: Table = Table { address: GuestAddress(0x1000), size: 4 };

/// A descriptor's address, length, flags and next.
type Raw = (u64, u32, u16, u16);

/// Walks a chain of these descriptors from the first, for a request of at most 8 bytes.
fn walk(descriptors: &[Raw]) -> (Result<usize, ChainError>, ReplySpace) {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap();
    for (index, &(address, len, flags, next)) in (0_u64..).zip(descriptors) {
        let descriptor = Descriptor::new(address, len, flags, next);
        memory.write_obj(descriptor, GuestAddress(0x1000 + index * DESCRIPTOR_LEN)).unwrap();
    }
    let mut reply = ReplySpace::default();
    (TABLE.walk(&memory, 0, &mut [0; 8], &mut reply), reply)
}

#[test]
fn every_fault_has_its_name() {
    let cases: [(&[Raw], Result<usize, ChainError>); 9] = [
        (&[(0x1100, 8, 0, 0)], Ok(8)),
        (&[(0x1100, 3, NEXT, 2), (0, 0, 0, 0), (0x1200, 4, NEXT, 1)], Err(ChainError::Empty { index: 1 })),
        (&[(0x1100, 9, 0, 0)], Err(ChainError::RequestTooLong { limit: 8 })),
        (&[(0x1100, 8, NEXT, 1), (0x1100, 1, 0, 0)], Err(ChainError::RequestTooLong { limit: 8 })),
        (&[(0x1ffc, 8, 0, 0)], Err(ChainError::Unreadable { address: 0x1ffc, len: 8 })),
        (&[(0x1100, 8, NEXT, 4)], Err(ChainError::OutOfTable { index: 4, size: 4 })),
        (&[(0x1100, 8, NEXT | WRITE, 0)], Err(ChainError::TooLong { limit: MAX_CHAIN })),
        (&[(0x1100, 32, INDIRECT, 0)], Err(ChainError::Indirect { index: 0 })),
        (&[(0x1100, 8, NEXT | WRITE, 1), (0x1100, 8, 0, 0)], Err(ChainError::Order { index: 1 })),
    ];
    for (descriptors, expected) in cases {
        assert_eq!(walk(descriptors).0, expected, "{descriptors:x?}");
    }
}

#[test]
fn a_table_outside_of_memory_is_named() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap();
    for address in [0x2000, u64::MAX - 8] {
        let table = Table { address: GuestAddress(address), size: 4 };
        let walked = table.walk(&memory, 3, &mut [0; 8], &mut ReplySpace::default());
        assert_eq!(walked, Err(ChainError::Table { index: 3 }));
    }
}

#[test]
fn a_reply_is_spread_over_its_buffers() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap();
    let (walked, reply) =
        walk(&[(0x1100, 8, NEXT, 1), (0x1200, 3, NEXT | WRITE, 2), (0x1300, 100, WRITE, 0)]);
    assert_eq!(walked, Ok(8));
    assert!(reply.holds(&memory, 103) && !reply.holds(&memory, 104));
    assert_eq!(reply.write(&memory, b"checkpoint"), Some(10));
    assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x1200)).unwrap(), *b"che\0");
    assert_eq!(memory.read_obj::<[u8; 8]>(GuestAddress(0x1300)).unwrap(), *b"ckpoint\0");
    assert_eq!(reply.write(&memory, &[0; 104]), None);
}
