//! Which pages each epoch writes.

use crate::pattern::{Dirty, Pattern};
use crate::random::XorShift;
use crate::zipf::Zipf;

/// Epochs after which the set of `phase` is another one: long enough for an engine that adapts within ten to gain by it,
/// and short enough for every engine's cycles to have some changes among them.
pub const PHASE: u32 = 16;
/// Pages by which that set moves then: it meets itself again after many changes only, for any share of a tenth or less.
const PHASE_STEP: u32 = 7;
/// Pages of a run, 8 MiB: several of the large pages that an operating system may map.
const RUN: u32 = 2048;

/// The page sets of successive epochs. Two streams made alike yield the same sets.
#[derive(Clone, Debug)]
pub struct Epochs {
    pages: u32,
    dirty: u32,
    source: Source,
}

/// How a set is made.
#[derive(Clone, Debug)]
enum Source {
    /// The first pages, which are all or none.
    First,
    /// Runs of [`RUN`] pages, spread evenly.
    Runs,
    /// Spread evenly, so many pages further after each [`PHASE`] epochs.
    Spread {
        step: u32,
        epoch: u32,
    },
    /// From here on, round the end.
    Window {
        start: u32,
    },
    /// The first page, and from here on behind it, round the end.
    Tail {
        start: u32,
    },
    /// All pages, shuffled further with each set.
    Shuffled {
        order: Vec<u32>,
        random: XorShift,
    },
    Zipf(Box<Zipf>),
}

impl Epochs {
    /// Sets of `dirty` of `pages` pages, of which there is at least one. More than there are means all. None for `reset`,
    /// whose inputs decide what is written.
    #[must_use]
    pub fn new(pattern: Pattern, pages: u32, dirty: u32, seed: u64) -> Self {
        let dirty = match pattern.dirty() {
            Dirty::All => pages,
            Dirty::Any => dirty.min(pages),
            Dirty::Fixed(_) => 0,
        };
        let source = match pattern {
            Pattern::Dense | Pattern::Idle | Pattern::Reset => Source::First,
            Pattern::Hot => Source::Spread { step: 0, epoch: 0 },
            Pattern::Runs => Source::Runs,
            Pattern::Phase => Source::Spread { step: PHASE_STEP, epoch: 0 },
            Pattern::Sweep => Source::Window { start: 0 },
            Pattern::Append => Source::Tail { start: 0 },
            Pattern::Random => Source::Shuffled { order: (0..pages).collect(), random: XorShift::new(seed) },
            Pattern::Zipf => Source::Zipf(Box::new(Zipf::new(pages, seed))),
        };
        Self { pages, dirty, source }
    }

    /// Appends the next epoch's pages to `set`.
    pub fn append_next(&mut self, set: &mut Vec<u32>) {
        let (dirty, pages) = (self.dirty, self.pages);
        match &mut self.source {
            Source::First => set.extend(0..dirty),
            Source::Runs => {
                let runs = dirty.div_ceil(RUN);
                // No run reaches into the next, as all together have no more pages than there are.
                let page = |index| spread(index / RUN, runs, pages - dirty) + index;
                set.extend((0..dirty).map(page));
            }
            Source::Spread { step, epoch } => {
                let start = scaled(*epoch / PHASE, *step, pages);
                set.extend((0..dirty).map(|index| wrapped(start, spread(index, dirty, pages), pages)));
                *epoch = epoch.wrapping_add(1);
            }
            Source::Window { start } => {
                set.extend((0..dirty).map(|index| wrapped(*start, index, pages)));
                *start = wrapped(*start, dirty, pages);
            }
            Source::Tail { start } => {
                set.extend(
                    (0..dirty.min(1))
                        .chain((1..dirty).map(|index| 1 + wrapped(*start, index - 1, pages - 1))),
                );
                // The last page isn't full: the next epoch begins in it.
                *start = wrapped(*start, dirty.saturating_sub(2).max(1), (pages - 1).max(1));
            }
            Source::Shuffled { order, random } => {
                // The first steps of a Fisher-Yates shuffle draw a set without repetition, whatever the order before.
                for index in 0..dirty {
                    let other = index + random.below(pages - index);
                    order.swap(index as usize, other as usize);
                }
                set.extend(&order[..dirty as usize]);
            }
            Source::Zipf(zipf) => zipf.append_set(dirty, set),
        }
    }

    /// Pages in each set.
    #[must_use]
    pub fn dirty(&self) -> u32 {
        self.dirty
    }
}

/// The `index`th of `count` pages that are spread evenly over `pages`.
fn spread(index: u32, count: u32, pages: u32) -> u32 {
    let page = u64::from(index) * u64::from(pages) / u64::from(count);
    u32::try_from(page).unwrap_or(u32::MAX)
}

/// `start + by`, round the end of `pages`.
fn wrapped(start: u32, by: u32, pages: u32) -> u32 {
    remainder(u64::from(start) + u64::from(by), pages)
}

/// `count * step`, round the end of `pages`.
fn scaled(count: u32, step: u32, pages: u32) -> u32 {
    remainder(u64::from(count) * u64::from(step), pages)
}

fn remainder(number: u64, pages: u32) -> u32 {
    u32::try_from(number % u64::from(pages)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sets(pattern: Pattern, pages: u32, dirty: u32, epochs: usize) -> Vec<Vec<u32>> {
        let mut stream = Epochs::new(pattern, pages, dirty, 7);
        let next = |_| {
            let mut set = Vec::new();
            stream.append_next(&mut set);
            set
        };
        (0..epochs).map(next).collect()
    }

    #[test]
    fn every_set_has_its_size_and_no_page_twice() {
        for pattern in Pattern::ALL {
            let size = match pattern.dirty() {
                Dirty::Any => 163,
                Dirty::All => 16_384,
                Dirty::Fixed(_) => 0,
            };
            for set in sets(pattern, 16_384, 163, 200) {
                let distinct: BTreeSet<_> = set.iter().collect();
                assert_eq!((set.len(), distinct.len()), (size, size), "{pattern}");
                assert!(set.iter().all(|page| *page < 16_384), "{pattern}");
            }
        }
    }

    #[test]
    fn streams_made_alike_yield_the_same() {
        for pattern in Pattern::ALL {
            assert_eq!(sets(pattern, 1000, 10, 50), sets(pattern, 1000, 10, 50));
        }
    }

    #[test]
    fn hot_stays_random_changes_and_sweep_moves_on() {
        let hot = sets(Pattern::Hot, 100, 4, 2);
        assert_eq!(hot, [[0, 25, 50, 75], [0, 25, 50, 75]]);
        let random = sets(Pattern::Random, 10_000, 10, 2);
        assert_ne!(random[0], random[1]);
        let sweep = sets(Pattern::Sweep, 10, 4, 3);
        assert_eq!(sweep, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]);
    }

    #[test]
    fn runs_are_long_and_stay() {
        let runs = sets(Pattern::Runs, 5 * RUN, 2 * RUN + 100, 2);
        assert_eq!(runs[0], runs[1]);
        let expected = [0..2048, 4062..6110, 8125..8225].into_iter().flatten();
        assert_eq!(runs[0], expected.collect::<Vec<_>>());
    }

    #[test]
    fn append_writes_the_length_and_a_tail_that_begins_where_it_ended() {
        let append = sets(Pattern::Append, 8, 4, 4);
        assert_eq!(append, [[0, 1, 2, 3], [0, 3, 4, 5], [0, 5, 6, 7], [0, 7, 1, 2]]);
        assert_eq!(sets(Pattern::Append, 8, 1, 2), [[0], [0]]);
        assert_eq!(sets(Pattern::Append, 8, 2, 3), [[0, 1], [0, 2], [0, 3]]);
    }

    #[test]
    fn phase_moves_at_once_and_seldom() {
        let phase = sets(Pattern::Phase, 1000, 100, 3 * PHASE as usize);
        for epochs in phase.chunks(PHASE as usize) {
            assert!(epochs.iter().all(|set| *set == epochs[0]));
        }
        let pages = |phase_number: u32| -> BTreeSet<u32> {
            phase[(phase_number * PHASE) as usize].iter().copied().collect()
        };
        assert!(pages(0).is_disjoint(&pages(1)) && pages(1).is_disjoint(&pages(2)));
    }

    #[test]
    fn random_reaches_every_page() {
        let reached: BTreeSet<_> = sets(Pattern::Random, 64, 8, 200).concat().into_iter().collect();
        assert_eq!(reached.len(), 64);
    }

    #[test]
    fn more_pages_than_there_are_means_all() {
        for pattern in Pattern::ALL.into_iter().filter(|pattern| pattern.dirty() == Dirty::Any) {
            for pages in [1, 2, 3] {
                let set: BTreeSet<_> = sets(pattern, pages, 9, 3)[2].iter().copied().collect();
                assert_eq!(set, (0..pages).collect(), "{pattern}");
            }
        }
    }
}
