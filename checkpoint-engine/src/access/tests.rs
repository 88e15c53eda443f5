//! Every vector width against plain slices.

use proptest::prelude::*;

use super::*;
use crate::tests::memory::Memory;

fn page_with(changes: &[(usize, u8)]) -> Memory {
    let page = Memory::new(1);
    changes.iter().for_each(|&(at, byte)| page.write(at, byte));
    page
}

fn naive_mask(a: &[u8], b: &[u8]) -> u64 {
    let chunks = a.chunks(CHUNK_SIZE).zip(b.chunks(CHUNK_SIZE)).enumerate();
    chunks.fold(0, |mask, (i, (a, b))| mask | u64::from(a != b) << i)
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop_oneof![
        prop::collection::vec((0..PAGE_SIZE, any::<u8>()), 0..4),
        prop::collection::vec((0..PAGE_SIZE, any::<u8>()), 0..400),
    ]
}

proptest! {
    #[test]
    fn take_copies_exactly_what_differs(before in changes(), after in changes()) {
        for kernels in Kernels::available() {
            let access = Access { kernels };
            let mut mirror = Mirror::new(1).unwrap();
            let live = page_with(&before);
            let mut old = vec![Chunk([9; CHUNK_SIZE])];
            let first = access.take(&live.live(), &mut mirror.whole(), 0, None, &mut old).unwrap().unwrap();
            let mask = naive_mask(&live.read(), &[0; PAGE_SIZE]);
            prop_assert_eq!(first, Taken { mask, was_zero: true }, "{}", kernels.name);
            prop_assert_eq!(mirror.resident(0).is_some(), mask != 0);
            prop_assert_eq!(&old, &[Chunk([9; CHUNK_SIZE])]);
            mirror.whole().set_resident(0);
            old.clear();

            let before = live.read();
            let live = page_with(&after);
            let Taken { mask, was_zero } = access.take(&live.live(), &mut mirror.whole(), 0, None, &mut old).unwrap().unwrap();
            prop_assert_eq!(mask, naive_mask(&live.read(), &before), "{}", kernels.name);
            prop_assert!(!was_zero);
            prop_assert_eq!(mirror.resident(0).is_some(), live.read() != [0; PAGE_SIZE]);
            prop_assert!(mirror.page_mut(0)[..] == live.read());
            let kept = (0..PAGE_CHUNKS).filter(|i| mask >> i & 1 == 1);
            let expected: Vec<_> = kept.map(|i| &before[i * CHUNK_SIZE..][..CHUNK_SIZE]).collect();
            prop_assert!(old.iter().map(|chunk| &chunk.0[..]).eq(expected));
        }
    }

    #[test]
    fn restore_makes_live_memory_the_mirror(mirrored in changes(), written in changes()) {
        for kernels in Kernels::available() {
            let access = Access { kernels };
            let mut mirror = Mirror::new(1).unwrap();
            let live = page_with(&mirrored);
            access.take(&live.live(), &mut mirror.whole(), 0, None, &mut Vec::new()).unwrap();
            let wanted = live.read();
            let live = page_with(&written);
            let differed = live.read() != wanted;
            prop_assert_eq!(access.differs(&live.live(), &mirror, 0, None), Some(differed), "{}", kernels.name);
            prop_assert_eq!(access.restore(&live.live(), &mirror, 0, None), Some(differed), "{}", kernels.name);
            prop_assert!(live.read() == wanted);
            prop_assert_eq!(access.restore(&live.live(), &mirror, 0, None), Some(false));
        }
    }
}

#[test]
fn the_last_byte_counts() {
    for kernels in Kernels::available() {
        let mut mirror = Mirror::new(1).unwrap();
        let live = page_with(&[(PAGE_SIZE - 1, 1)]);
        let mut old = Vec::new();
        mirror.whole().set_resident(0);
        let taken =
            Access { kernels }.take(&live.live(), &mut mirror.whole(), 0, None, &mut old).unwrap().unwrap();
        assert_eq!(taken, Taken { mask: 1 << 63, was_zero: false }, "{}", kernels.name);
        assert_eq!(old, [Chunk([0; CHUNK_SIZE])]);
    }
}

#[test]
#[should_panic(expected = "page 1 of a region of 1 pages")]
fn no_page_beyond_the_region() {
    let live = page_with(&[]);
    let mirror = Mirror::new(2).unwrap();
    Access::detect().restore(&live.live(), &mirror, 1, None);
}
