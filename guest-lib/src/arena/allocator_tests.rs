//! The allocator beside a list of what it gave, with every block's bytes looked at.

use proptest::prelude::*;

use super::*;

/// Bytes of the region: few enough that it is often full.
const LEN: usize = 64 << 10;

/// Walks the row: the blocks tile it, free ones are where the rules put them, and the bins hold them all.
fn check(memory: Memory, root: usize, used: &[Given]) {
    let mut at = ((HEADER_BYTES + root + OWN).next_multiple_of(GRAIN)) - OWN;
    let (mut before_free, mut free, mut in_use) = (false, 0, 0);
    let top = memory.offset(header::TOP);
    while at < top {
        let (word, len) = (memory.offset(at), memory.block(at));
        assert!(LEAST <= len && len.is_multiple_of(GRAIN), "a block of {len}");
        assert_eq!(word & AFTER_FREE != 0, before_free);
        if word & FREE == 0 {
            in_use += 1;
            assert!(used.iter().any(|given| given.at == at + OWN && given.len <= len - OWN));
        } else {
            assert!(!before_free && at + len < top, "free blocks that are not one");
            assert_eq!(memory.offset(at + len - 8), len);
            let mut found = memory.offset(header::BINS + 8 * bin(len));
            while found != at {
                assert_ne!(found, 0, "a free block in no bin");
                found = memory.offset(found + 8);
            }
            free += len;
        }
        before_free = word & FREE != 0;
        at += len;
    }
    assert_eq!((at, before_free, in_use), (top, false, used.len()));
    assert_eq!(free, memory.offset(header::FREE));
    assert_eq!(memory.free(), free + LEN - OWN - top);
}

struct Given {
    at: usize,
    len: usize,
    fill: u64,
}

impl Given {
    fn words(&self) -> impl Iterator<Item = usize> {
        assert!(self.at + self.len <= LEN);
        (self.at..self.at + self.len).step_by(8)
    }

    fn fill(&self, memory: Memory) {
        self.words().for_each(|word| memory.set_word(word, self.fill));
    }
}

fn empty(root: usize) -> Memory {
    let memory = Memory::leaked(LEN);
    memory.initialise(LEN, root).unwrap();
    memory
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    Give(usize),
    Extend(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![0..100_usize, 0..3000_usize, Just(20_000)];
    let step = prop_oneof![
        3 => size.clone().prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::Give),
        1 => (any::<usize>(), size).prop_map(|(which, size)| Step::Extend(which, size)),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn blocks_never_overlap_and_all_memory_comes_back(steps in steps(), root in 0..300_usize) {
        let memory = empty(root);
        let all = memory.free();
        let mut used: Vec<Given> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Take(len) => match memory.allocate(len) {
                    Ok((at, usable)) => {
                        prop_assert!(len <= usable && at.is_multiple_of(GRAIN));
                        let given = Given { at, len: usable, fill: number as u64 };
                        given.fill(memory);
                        used.push(given);
                    }
                    Err(full) => prop_assert_eq!(full, Full { needed: len, free: memory.free(), size: LEN }),
                },
                Step::Give(which) if !used.is_empty() => {
                    let given = used.swap_remove(which % used.len());
                    memory.release(given.at);
                }
                Step::Extend(which, len) if !used.is_empty() => {
                    let which = which % used.len();
                    let given = &mut used[which];
                    if let Some(usable) = memory.extend(given.at, len) {
                        prop_assert!(len.max(given.len) <= usable);
                        given.len = usable;
                        given.fill(memory);
                    }
                }
                Step::Give(_) | Step::Extend(..) => {}
            }
            check(memory, root, &used);
            for given in &used {
                prop_assert!(given.words().all(|word| memory.word(word) == given.fill));
            }
        }
        for given in used.drain(..) {
            memory.release(given.at);
        }
        check(memory, root, &[]);
        prop_assert_eq!(memory.free(), all);
    }
}

#[test]
fn sizes_at_the_end_of_the_numbers_are_refused() {
    let memory = empty(0);
    let (at, _) = memory.allocate(1).unwrap();
    for bytes in [usize::MAX, usize::MAX - OWN, usize::MAX - 64, LEN] {
        assert_eq!(memory.allocate(bytes).unwrap_err().needed, bytes);
        assert_eq!(memory.extend(at, bytes), None);
    }
    let rest = memory.free();
    memory.allocate(rest - OWN).unwrap();
    assert_eq!(memory.free(), 0);
    assert!(memory.allocate(0).is_err());
}

#[test]
fn a_root_that_does_not_fit_is_refused() {
    let memory = Memory::leaked(4096);
    let room = 4096 - OWN - HEADER_BYTES;
    assert!(memory.initialise(4096, room + 1).is_err());
    assert!(memory.initialise(4096, usize::MAX).is_err());
    memory.initialise(4096, room).unwrap();
    assert_eq!(memory.free(), 0);
}

#[test]
fn later_bins_have_larger_blocks() {
    let sizes: Vec<usize> = (2..100_000).map(|grains| grains * GRAIN).collect();
    for pair in sizes.windows(2) {
        assert!(bin(pair[0]) <= bin(pair[1]));
    }
    assert_eq!(bin(usize::MAX & !FLAGS), BINS - 1);
}
