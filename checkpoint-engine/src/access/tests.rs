//! Every vector width against plain slices.

use proptest::prelude::*;

use super::*;

/// A page of memory that is aligned like one.
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

fn page_with(changes: &[(usize, u8)]) -> Box<Page> {
    let mut page = Box::new(Page([0; PAGE_SIZE]));
    for &(at, byte) in changes {
        page.0[at] = byte;
    }
    page
}

fn live_of(page: &mut Page) -> LiveMemory {
    let base = std::ptr::NonNull::from(&mut *page).cast();
    // SAFETY: the page outlives the value in every test below, and nothing borrows it meanwhile.
    unsafe { LiveMemory::new(base, 1) }
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
            let mut live = page_with(&before);
            let mut old = vec![Chunk([9; CHUNK_SIZE])];
            let memory = live_of(&mut live);
            let first = access.take(&memory, &mut mirror, 0, None, &mut old).unwrap();
            let mask = naive_mask(&live.0, &[0; PAGE_SIZE]);
            prop_assert_eq!(first, Taken { mask, was_zero: true }, "{}", kernels.name);
            prop_assert_eq!(mirror.is_resident(0), mask != 0);
            prop_assert_eq!(&old, &[Chunk([9; CHUNK_SIZE])]);
            mirror.set_resident(0);
            old.clear();

            let before = live.0;
            let mut live = page_with(&after);
            let memory = live_of(&mut live);
            let Taken { mask, was_zero } = access.take(&memory, &mut mirror, 0, None, &mut old).unwrap();
            prop_assert_eq!(mask, naive_mask(&live.0, &before), "{}", kernels.name);
            prop_assert!(!was_zero);
            prop_assert_eq!(mirror.page_mut(0), &live.0);
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
            let mut live = page_with(&mirrored);
            access.take(&live_of(&mut live), &mut mirror, 0, None, &mut Vec::new()).unwrap();
            let wanted = live.0;
            let mut live = page_with(&written);
            let differed = live.0 != wanted;
            prop_assert_eq!(access.restore(&live_of(&mut live), &mirror, 0, None), differed, "{}", kernels.name);
            prop_assert!(live.0 == wanted);
            prop_assert!(!access.restore(&live_of(&mut live), &mirror, 0, None));
        }
    }
}

#[test]
fn the_last_byte_counts() {
    for kernels in Kernels::available() {
        let mut mirror = Mirror::new(1).unwrap();
        let mut live = page_with(&[(PAGE_SIZE - 1, 1)]);
        let mut old = Vec::new();
        mirror.set_resident(0);
        let taken = Access { kernels }.take(&live_of(&mut live), &mut mirror, 0, None, &mut old).unwrap();
        assert_eq!(taken, Taken { mask: 1 << 63, was_zero: false }, "{}", kernels.name);
        assert_eq!(old, [Chunk([0; CHUNK_SIZE])]);
    }
}

#[test]
#[should_panic(expected = "page 1 of a region of 1 pages")]
fn no_page_beyond_the_region() {
    let mut live = page_with(&[]);
    let mirror = Mirror::new(2).unwrap();
    Access::detect().restore(&live_of(&mut live), &mirror, 1, None);
}
