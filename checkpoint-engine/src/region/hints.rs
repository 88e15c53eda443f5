//! What the program said that it writes in a region.

use std::collections::TryReserveError;

use cairn_abi::RegionMode;

use crate::PageSet;

/// The hinted pages of one region, and what they mean there.
#[derive(Debug)]
pub(crate) struct Hints {
    mode: RegionMode,
    pages: PageSet,
    /// Whether `pages` may hold any.
    any: bool,
}

impl Hints {
    /// Of a region of `pages` pages, none of them hinted.
    pub(super) fn new(mode: RegionMode, pages: usize) -> Result<Self, TryReserveError> {
        Ok(Self { mode, pages: PageSet::new(pages)?, any: false })
    }

    /// Whether only hinted pages are looked at.
    pub(crate) fn rule(&self) -> bool {
        self.mode == RegionMode::Hinted
    }

    /// Adds pages: bit `i` of `bits` is page `64 * word + i`. Pages beyond the region are ignored.
    pub(crate) fn add(&mut self, word: usize, bits: u64) {
        if let Some(known) = self.pages.words_mut().get_mut(word) {
            *known |= bits;
            self.any = true;
        }
    }

    /// Adds every page.
    pub(crate) fn add_all(&mut self) {
        self.pages.fill();
        self.any = true;
    }

    /// Adds the hinted pages to `set`.
    pub(crate) fn add_to(&self, set: &mut PageSet) {
        if self.any {
            set.union_with(&self.pages);
        }
    }

    /// Takes the hinted pages out of `set`. Answers whether there were any hints.
    pub(super) fn take_from(&self, set: &mut PageSet) -> bool {
        if self.any {
            set.subtract(&self.pages);
        }
        self.any
    }

    /// The hints are used up, but for `left`: pages that were written while an operation was at work.
    pub(super) fn use_up(&mut self, left: Option<&PageSet>) {
        if std::mem::take(&mut self.any) {
            self.pages.clear();
        }
        if let Some(left) = left.filter(|left| self.rule() && !left.is_empty()) {
            self.pages.union_with(left);
            self.any = true;
        }
    }

    /// Bytes of the bitmap.
    pub(super) fn table_bytes(&self) -> usize {
        self.pages.bytes()
    }
}
