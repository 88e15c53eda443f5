//! The bytes that a region should hold: plain memory, of which only what epochs write is taken.
//!
//! Pages that no epoch writes are known without keeping them. A second copy of a large region would be most of the
//! time that a cell takes where the machine gets its memory from a hypervisor, page by page.

use crate::pattern::{WORDS_PER_PAGE, write_epoch};

/// A model of a region that was [filled](fill) and then written by epochs.
#[derive(Debug)]
pub(crate) struct Model {
    /// Zeros until a page is written, which take no memory.
    words: Vec<u64>,
    /// Whether a page has its content.
    held: Vec<bool>,
}

impl Model {
    /// Of a region of `pages` pages that was filled.
    pub(crate) fn new(pages: usize) -> Self {
        Self { words: vec![0; pages * WORDS_PER_PAGE], held: vec![false; pages] }
    }

    /// Gives the pages of `set` their content, so that writing them takes no longer than to memory in use.
    pub(crate) fn hold(&mut self, set: &[u32]) {
        for &page in set {
            let page = page as usize;
            if !std::mem::replace(&mut self.held[page], true) {
                self.words[page * WORDS_PER_PAGE] = first_word(page);
            }
        }
    }

    /// Makes the writes of an epoch, whose pages are [held](Self::hold).
    pub(crate) fn write(&mut self, set: &[u32], epoch: u32) {
        write_epoch(&mut self.words, set, epoch);
    }

    /// Whether `memory` is what the region should hold.
    pub(crate) fn is(&self, memory: &[u64]) -> bool {
        let pages = memory.chunks_exact(WORDS_PER_PAGE);
        let wanted = self.words.chunks_exact(WORDS_PER_PAGE);
        memory.len() == self.words.len()
            && pages.zip(wanted).zip(&self.held).enumerate().all(|(page, ((found, wanted), held))| {
                if *held {
                    found == wanted
                } else {
                    found[0] == first_word(page) && found[1..].iter().all(|word| *word == 0)
                }
            })
    }
}

/// Gives every page content, so that no engine gains from pages that were never written.
pub(crate) fn fill(memory: &mut [u64]) {
    for (page, words) in memory.chunks_exact_mut(WORDS_PER_PAGE).enumerate() {
        words[0] = first_word(page);
    }
}

/// What a page begins with before it is written.
fn first_word(page: usize) -> u64 {
    !(page as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_word_is_noticed() {
        let mut memory = vec![0; 4 * WORDS_PER_PAGE];
        fill(&mut memory);
        let mut model = Model::new(4);
        assert!(model.is(&memory));
        for epoch in 0..3 {
            model.hold(&[1, 3]);
            model.write(&[1, 3], epoch);
            assert!(!model.is(&memory));
            write_epoch(&mut memory, &[1, 3], epoch);
            assert!(model.is(&memory));
        }
        for at in 0..memory.len() {
            memory[at] ^= 1 << 40;
            assert!(!model.is(&memory), "word {at}");
            memory[at] ^= 1 << 40;
        }
        assert!(!model.is(&memory[WORDS_PER_PAGE..]));
    }
}
