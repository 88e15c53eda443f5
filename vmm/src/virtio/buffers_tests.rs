//! Tests of the buffers of a chain.

use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestMemoryMmap;

use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const TABLE: Table = Table { address: GuestAddress(0x1000), size: 8 };
const SECOND: u64 = 0x1800;

/// A descriptor's address, length, flags and next.
type Raw = (u64, u32, u16, u16);

/// Memory with the first descriptors in [`TABLE`], the others at [`SECOND`].
fn memory(first: &[Raw], second: &[Raw]) -> GuestMemoryMmap<()> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x1000), 0x2000)]).unwrap();
    for (start, descriptors) in [(0x1000, first), (SECOND, second)] {
        for (index, &(address, len, flags, next)) in (0..).zip(descriptors) {
            let descriptor = Descriptor::new(address, len, flags, next);
            memory.write_obj(descriptor, GuestAddress(start + index * DESCRIPTOR_LEN)).unwrap();
        }
    }
    memory
}

#[test]
fn every_fault_has_its_name() {
    let cases: [(&[Raw], &[Raw], ChainError); 9] = [
        (&[(0x2000, 8, NEXT, 8)], &[], ChainError::OutOfTable { index: 8, size: 8 }),
        (&[(0x2000, 0, 0, 0)], &[], ChainError::Empty { index: 0 }),
        (&[(0x2000, 8, NEXT | WRITE, 1), (0x2000, 8, 0, 0)], &[], ChainError::Order { index: 1 }),
        (&[(0x2000, 8, NEXT, 0)], &[], ChainError::TooLong { limit: MAX_BUFFERS }),
        (&[(SECOND, 17, INDIRECT, 0)], &[], ChainError::IndirectTable { index: 0, len: 17 }),
        (&[(SECOND, 0, INDIRECT, 0)], &[], ChainError::IndirectTable { index: 0, len: 0 }),
        (&[(SECOND, 16, INDIRECT | NEXT, 1)], &[], ChainError::Indirect { index: 0 }),
        (&[(SECOND, 16, INDIRECT, 0)], &[(SECOND, 16, INDIRECT, 0)], ChainError::Indirect { index: 0 }),
        (&[(0x9000, 16, INDIRECT, 0)], &[], ChainError::Table { index: 0 }),
    ];
    for (first, second, expected) in cases {
        let found = TABLE.buffers(&memory(first, second), 0, true);
        assert_eq!(found.unwrap_err(), expected);
    }
    let indirect: &[Raw] = &[(SECOND, 16, INDIRECT, 0)];
    let refused = TABLE.buffers(&memory(indirect, &[(0x2000, 8, 0, 0)]), 0, false);
    assert_eq!(refused.unwrap_err(), ChainError::Indirect { index: 0 });
}

#[test]
fn an_indirect_table_is_followed() {
    let first: &[Raw] = &[(0x2000, 4, NEXT, 3), (0, 0, 0, 0), (0, 0, 0, 0), (SECOND, 32, INDIRECT, 0)];
    let second: &[Raw] = &[(0x2100, 4, NEXT, 1), (0x2200, 8, WRITE, 0)];
    let buffers = TABLE.buffers(&memory(first, second), 0, true).unwrap();
    assert_eq!((buffers.readable_len(), buffers.writable_len()), (8, 8));
}

#[test]
fn bytes_are_moved_across_buffers() {
    let chain: &[Raw] =
        &[(0x2000, 3, NEXT, 1), (0x2010, 5, NEXT, 2), (0x2100, 2, NEXT | WRITE, 3), (0x2200, 6, WRITE, 0)];
    let memory = memory(chain, &[]);
    memory.write_slice(b"abc", GuestAddress(0x2000)).unwrap();
    memory.write_slice(b"defgh", GuestAddress(0x2010)).unwrap();
    let buffers = TABLE.buffers(&memory, 0, false).unwrap();
    let mut data = [0; 4];
    buffers.read(&memory, 1, &mut data).unwrap();
    assert_eq!(&data, b"bcde");
    buffers.read(&memory, 8, &mut []).unwrap();
    assert_eq!(buffers.read(&memory, 5, &mut data), Err(BufferError::TooShort { offset: 5, len: 4 }));
    assert_eq!(buffers.read(&memory, u64::MAX, &mut data).ok(), None);

    buffers.write(&memory, 1, b"xyz").unwrap();
    assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x2100)).unwrap(), *b"\0x");
    assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(0x2200)).unwrap(), *b"yz\0");
    assert_eq!(buffers.write(&memory, 7, b"xy"), Err(BufferError::TooShort { offset: 7, len: 2 }));
}

#[test]
fn what_is_not_memory_is_named() {
    let memory = memory(&[(0x2ffe, 4, NEXT, 1), (u64::MAX - 1, u32::MAX, WRITE, 0)], &[]);
    let buffers = TABLE.buffers(&memory, 0, false).unwrap();
    assert_eq!(buffers.read(&memory, 0, &mut [0; 4]), Err(BufferError::Memory { address: 0x2ffe, len: 4 }));
    for offset in [0, 1, 2, 100] {
        assert!(matches!(buffers.write(&memory, offset, &[0; 4]), Err(BufferError::Memory { .. })));
    }
}

proptest! {
    /// Whatever is in the table, the walk ends, and moving bytes stays in memory.
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 512), head: u16, small: bool) {
        let memory = memory(&[], &[]);
        memory.write_slice(&bytes, GuestAddress(0x1000)).unwrap();
        if small {
            // Chains that go on: small indices, addresses in memory.
            for index in 0..8 {
                let at = 0x1000 + index * DESCRIPTOR_LEN;
                memory.write_obj(u16::from(bytes[0] & 7) , GuestAddress(at + 14)).unwrap();
                memory.write_obj(0x1000 + u64::from(bytes[1]) * 16, GuestAddress(at)).unwrap();
            }
        }
        if let Ok(buffers) = TABLE.buffers(&memory, head % 8, true) {
            let mut data = [0; 64];
            let _ = buffers.read(&memory, u64::from(head), &mut data);
            let _ = buffers.write(&memory, 0, &data);
        }
    }
}
