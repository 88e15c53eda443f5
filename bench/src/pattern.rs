//! Which pages an epoch writes, and what it writes into them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 8-byte words in a page.
pub const WORDS_PER_PAGE: usize = crate::PAGE_BYTES / size_of::<u64>();

/// How the pages of successive epochs relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// The same set each time, spread evenly over the region.
    Hot,
    /// A new set each time, drawn evenly from all pages.
    Random,
    /// A window that moves on by its own length each time, round the end.
    Sweep,
    /// Every page each time.
    Dense,
    /// No page at all.
    Idle,
}

/// The text that is no pattern's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a pattern; the patterns are {all}", all = Pattern::ALL.map(Pattern::name).join(", "))]
pub struct UnknownPattern(String);

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 5] = [Self::Hot, Self::Random, Self::Sweep, Self::Dense, Self::Idle];

    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Random => "random",
            Self::Sweep => "sweep",
            Self::Dense => "dense",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Pattern {
    type Err = UnknownPattern;

    fn from_str(name: &str) -> Result<Self, UnknownPattern> {
        let found = Self::ALL.into_iter().find(|pattern| pattern.name() == name);
        found.ok_or_else(|| UnknownPattern(name.to_owned()))
    }
}

/// The page sets of successive epochs. Two streams made alike yield the same sets.
#[derive(Clone, Debug)]
pub struct Epochs {
    pattern: Pattern,
    pages: u32,
    dirty: u32,
    /// Where the window of `sweep` begins next.
    window: u32,
    /// All pages, shuffled further with every set of `random`; empty for the others.
    shuffled: Vec<u32>,
    random: XorShift,
}

impl Epochs {
    /// Sets of `dirty` of `pages` pages. More than there are means all.
    #[must_use]
    pub fn new(pattern: Pattern, pages: u32, dirty: u32, seed: u64) -> Self {
        let dirty = match pattern {
            Pattern::Dense => pages,
            Pattern::Idle => 0,
            Pattern::Hot | Pattern::Random | Pattern::Sweep => dirty.min(pages),
        };
        let shuffled = if pattern == Pattern::Random { (0..pages).collect() } else { Vec::new() };
        Self { pattern, pages, dirty, window: 0, shuffled, random: XorShift::new(seed) }
    }

    /// Appends the next epoch's pages to `set`.
    pub fn append_next(&mut self, set: &mut Vec<u32>) {
        match self.pattern {
            Pattern::Idle => {}
            Pattern::Dense => set.extend(0..self.pages),
            Pattern::Hot => set.extend((0..self.dirty).map(|index| spread(index, self.dirty, self.pages))),
            Pattern::Sweep => {
                let (start, pages) = (self.window, self.pages);
                set.extend((0..self.dirty).map(|index| wrapped(start, index, pages)));
                self.window = wrapped(start, self.dirty, pages);
            }
            Pattern::Random => {
                // The first steps of a Fisher-Yates shuffle draw a set without repetition, whatever the order before.
                for index in 0..self.dirty {
                    let other = index + self.random.below(self.pages - index);
                    self.shuffled.swap(index as usize, other as usize);
                }
                set.extend(&self.shuffled[..self.dirty as usize]);
            }
        }
    }

    /// Pages in each set.
    #[must_use]
    pub fn dirty(&self) -> u32 {
        self.dirty
    }
}

/// Which word of `page` the epoch writes: a different one for neighbours in space and in time.
#[must_use]
pub fn word_of(page: u32, epoch: u32) -> usize {
    (page as usize * 37 + epoch as usize * 11) % WORDS_PER_PAGE
}

/// What the epoch writes there: never 0, never twice the same in one place.
#[must_use]
pub fn value_of(page: u32, epoch: u32) -> u64 {
    (u64::from(epoch) + 1) << 32 | u64::from(page)
}

/// Makes the writes of an epoch to `memory`, one word in each page of the set.
pub fn write_epoch(memory: &mut [u64], set: &[u32], epoch: u32) {
    for &page in set {
        memory[page as usize * WORDS_PER_PAGE + word_of(page, epoch)] = value_of(page, epoch);
    }
}

/// The `index`th of `count` pages that are spread evenly over `pages`.
fn spread(index: u32, count: u32, pages: u32) -> u32 {
    let page = u64::from(index) * u64::from(pages) / u64::from(count);
    u32::try_from(page).unwrap_or(u32::MAX)
}

/// `start + by`, round the end of `pages`.
fn wrapped(start: u32, by: u32, pages: u32) -> u32 {
    let page = (u64::from(start) + u64::from(by)) % u64::from(pages);
    u32::try_from(page).unwrap_or(u32::MAX)
}

/// Marsaglia's xorshift64: fast, and the same everywhere.
#[derive(Clone, Debug)]
struct XorShift(u64);

impl XorShift {
    fn new(seed: u64) -> Self {
        // 0 is the one state that never changes.
        Self(seed.max(1))
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let scaled = ((self.0 >> 32) * u64::from(bound)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }
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
        for (pattern, size) in [
            (Pattern::Hot, 163),
            (Pattern::Random, 163),
            (Pattern::Sweep, 163),
            (Pattern::Dense, 16_384),
            (Pattern::Idle, 0),
        ] {
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
    fn random_reaches_every_page() {
        let reached: BTreeSet<_> = sets(Pattern::Random, 64, 8, 200).concat().into_iter().collect();
        assert_eq!(reached.len(), 64);
    }

    #[test]
    fn more_pages_than_there_are_means_all() {
        for pattern in [Pattern::Hot, Pattern::Random, Pattern::Sweep] {
            let set: BTreeSet<_> = sets(pattern, 3, 9, 1).concat().into_iter().collect();
            assert_eq!(set, (0..3).collect(), "{pattern}");
        }
    }

    #[test]
    fn an_epoch_writes_one_new_word_in_each_page_of_its_set() {
        let mut memory = vec![0; 4 * WORDS_PER_PAGE];
        write_epoch(&mut memory, &[1, 3], 0);
        let first = memory.clone();
        write_epoch(&mut memory, &[1, 3], 1);
        let changed: Vec<_> = (0..memory.len()).filter(|at| memory[*at] != first[*at]).collect();
        assert_eq!(changed, [WORDS_PER_PAGE + word_of(1, 1), 3 * WORDS_PER_PAGE + word_of(3, 1)]);
    }

    #[test]
    fn every_name_leads_back_to_its_pattern() {
        for pattern in Pattern::ALL {
            assert_eq!(pattern.name().parse(), Ok(pattern));
        }
        assert!("Hot".parse::<Pattern>().is_err());
    }
}
