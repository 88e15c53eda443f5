//! The patterns by name, and what an epoch writes into its pages.

use std::fmt;
use std::str::FromStr;

use cairn_examples::fuzz::parser::PAGES_TOUCHED;
use serde::{Deserialize, Serialize};

/// 8-byte words in a page.
pub const WORDS_PER_PAGE: usize = crate::PAGE_BYTES / size_of::<u64>();

/// How the pages of successive epochs relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// The same set each time, spread evenly over the region.
    Hot,
    /// The same set each time, in long runs of neighbours that are spread evenly.
    Runs,
    /// A new set each time, drawn evenly from all pages.
    Random,
    /// A window that moves on by its own length each time, round the end.
    Sweep,
    /// A new set each time, in which few pages come often and many seldom (Zipf's law).
    Zipf,
    /// A log's tail, and the page with its length.
    Append,
    /// A set that stays the same for some epochs and then is another one.
    Phase,
    /// Every page each time.
    Dense,
    /// No page at all.
    Idle,
    /// What a fuzzer's parser writes, which is rolled back after each input.
    Reset,
}

/// How many pages a pattern's epochs write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dirty {
    /// As many as one likes.
    Any,
    /// All that there are.
    All,
    /// Always so many.
    Fixed(u32),
}

/// The text that is no pattern's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a pattern; the patterns are {all}", all = Pattern::ALL.map(Pattern::name).join(", "))]
pub struct UnknownPattern(String);

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 10] = [
        Self::Hot,
        Self::Runs,
        Self::Random,
        Self::Sweep,
        Self::Zipf,
        Self::Append,
        Self::Phase,
        Self::Dense,
        Self::Idle,
        Self::Reset,
    ];

    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Runs => "runs",
            Self::Random => "random",
            Self::Sweep => "sweep",
            Self::Zipf => "zipf",
            Self::Append => "append",
            Self::Phase => "phase",
            Self::Dense => "dense",
            Self::Idle => "idle",
            Self::Reset => "reset",
        }
    }

    /// How many pages its epochs write.
    #[must_use]
    pub fn dirty(self) -> Dirty {
        match self {
            Self::Hot | Self::Runs | Self::Random | Self::Sweep | Self::Zipf | Self::Append | Self::Phase => {
                Dirty::Any
            }
            Self::Dense => Dirty::All,
            Self::Idle => Dirty::Fixed(0),
            Self::Reset => Dirty::Fixed(PAGES_TOUCHED),
        }
    }

    /// What it means, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Hot => "the same pages each time",
            Self::Runs => "the same pages each time, in runs of 8 MiB",
            Self::Random => "other pages each time",
            Self::Sweep => "a window that moves on",
            Self::Zipf => "few pages often, many seldom",
            Self::Append => "a tail that moves on, and the page with its length",
            Self::Phase => "the same pages for some epochs, then others",
            Self::Dense => "all pages each time",
            Self::Idle => "nothing is written; only the checkpoint means something",
            Self::Reset => "a cycle is an input to a parser and the way back to the prepared state",
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

#[cfg(test)]
mod tests {
    use super::*;

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
