//! Work on a region's pages, cut into parts for several threads.

use std::sync::{Mutex, PoisonError};

use crate::page_set::{WORD_PAGES, next_word};
use crate::pool::{MAX_PARTS, Pool};

/// Work on the pages of whole words of a region's sets.
pub(super) trait Part: Send + Sized {
    /// Cuts it before word `word` of the region's sets.
    fn split_at(self, word: usize) -> (Self, Self);

    /// Does it.
    fn work(&mut self);
}

/// Where work on a region is cut.
#[derive(Debug)]
pub(super) struct Cuts {
    /// Before these words.
    words: [usize; MAX_PARTS - 1],
    count: usize,
}

impl Cuts {
    /// Cuts work on the pages of `words` into parts of about as many pages each, for the threads of `pool`.
    pub(super) fn new(pool: Option<&Pool>, words: &[u64]) -> Self {
        let mut cuts = Self { words: [0; MAX_PARTS - 1], count: 0 };
        // A region that is smaller than what is worth sharing needn't be counted.
        let Some(pool) = pool.filter(|pool| 1 < pool.parts(words.len() * WORD_PAGES)) else { return cuts };
        let pages: usize = full_words(words).map(|(_, pages)| pages).sum();
        let parts = pool.parts(pages);
        let mut before = 0;
        for (word, pages_here) in full_words(words) {
            // The part that comes now begins where the ones before it should have ended.
            if (cuts.count + 1) * pages <= before * parts && cuts.count + 1 < parts {
                cuts.words[cuts.count] = word;
                cuts.count += 1;
            }
            before += pages_here;
        }
        cuts
    }

    /// Parts that result.
    pub(super) fn parts(&self) -> usize {
        self.count + 1
    }

    /// Cuts `whole` so, does all parts, and hands them to `finish` one after the other.
    pub(super) fn work<P: Part>(&self, pool: Option<&Pool>, mut whole: P, mut finish: impl FnMut(P)) {
        let (Some(pool), 1..) = (pool, self.count) else {
            whole.work();
            return finish(whole);
        };
        let parts: [Mutex<Option<P>>; MAX_PARTS] = std::array::from_fn(|_| Mutex::new(None));
        let lock = |at: usize| parts[at].lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = whole;
        for (at, &word) in self.words[..self.count].iter().enumerate() {
            let (part, later) = rest.split_at(word);
            *lock(at) = Some(part);
            rest = later;
        }
        *lock(self.count) = Some(rest);
        pool.run(self.parts(), &|at| {
            if let Some(part) = lock(at).as_mut() {
                part.work();
            }
        });
        for at in 0..self.parts() {
            if let Some(part) = lock(at).take() {
                finish(part);
            }
        }
    }
}

/// The words that aren't zero, with how many pages each has.
fn full_words(words: &[u64]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        let word = next_word(words, from)?;
        from = word + 1;
        Some((word, words[word].count_ones() as usize))
    })
}
