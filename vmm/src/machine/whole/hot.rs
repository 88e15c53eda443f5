//! Pages that a program writes again and again: they stay writable, so that it doesn't fault on them, and are compared with
//! a copy of what the last checkpoint has of them.
//!
//! The rule is simpler than the engine's predictor: a page that changed in two checkpoints in a row stays writable, and is
//! protected again after some compares that found nothing.

use std::collections::{HashMap, HashSet};

use cairn_store::{CHUNK_SIZE, PAGE_SIZE};

/// Compares that find nothing until a page is protected again.
const QUIET: u8 = 4;
/// Copies that are kept at most: 64 MiB.
const MOST_HOT: usize = 16_384;

/// Chunks of a page: bit i is chunk i.
type Mask = u64;

/// A page as the last checkpoint has it.
#[derive(Debug)]
struct Kept {
    bytes: Box<[u8; PAGE_SIZE]>,
    /// Compares in a row that found nothing.
    quiet: u8,
    /// Whether it was reported for the checkpoint that is being made.
    reported: bool,
}

/// The pages, and those that may become such.
#[derive(Debug, Default)]
pub(crate) struct HotPages {
    kept: HashMap<u64, Kept>,
    /// Pages that changed until the last checkpoint, and aren't kept.
    changed: HashSet<u64>,
    /// Those that changed until the next one.
    changing: HashSet<u64>,
}

/// What a page is since the last checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It may be anything: all of it counts.
    Whole,
    /// These chunks differ, and the others are the last checkpoint's: maybe none.
    Chunks(Mask),
}

impl HotPages {
    /// Whether a page that was reported as written stays writable, and so is reported by the next checkpoint too.
    pub(crate) fn stays_writable(&self, page: u64) -> bool {
        match self.kept.get(&page) {
            Some(kept) => kept.quiet < QUIET,
            None => self.kept.len() < MOST_HOT && self.changed.contains(&page),
        }
    }

    /// What a page that was reported is, of which the checkpoint that is being made has these bytes.
    pub(crate) fn change(&mut self, page: u64, bytes: &[u8; PAGE_SIZE]) -> Change {
        let stays = self.stays_writable(page);
        let Some(kept) = self.kept.get_mut(&page) else {
            if stays {
                self.kept.insert(page, Kept { bytes: Box::new(*bytes), quiet: 0, reported: true });
            } else {
                self.changing.insert(page);
            }
            return Change::Whole;
        };
        let mask = difference(&kept.bytes, bytes);
        if stays {
            kept.quiet = if mask == 0 { kept.quiet + 1 } else { 0 };
            *kept.bytes = *bytes;
            kept.reported = true;
        } else {
            self.kept.remove(&page);
            if mask != 0 {
                self.changing.insert(page);
            }
        }
        Change::Chunks(mask)
    }

    /// These pages are zeros in the checkpoint that is being made.
    pub(crate) fn blank(&mut self, pages: &std::ops::Range<u64>) {
        if self.kept.len() as u64 <= pages.end - pages.start {
            self.kept.retain(|page, _| !pages.contains(page));
        } else {
            pages.clone().for_each(|page| drop(self.kept.remove(&page)));
        }
    }

    /// The checkpoint is made.
    pub(crate) fn commit(&mut self) {
        std::mem::swap(&mut self.changed, &mut self.changing);
        self.changing.clear();
        // One that is writable is always reported. What only the monitor writes isn't, and was left alone now.
        self.kept.retain(|_, kept| std::mem::take(&mut kept.reported));
    }

    /// What the last checkpoint has isn't known any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The chunks in which two pages differ.
fn difference(before: &[u8; PAGE_SIZE], now: &[u8; PAGE_SIZE]) -> Mask {
    let chunks = before.chunks_exact(CHUNK_SIZE).zip(now.chunks_exact(CHUNK_SIZE));
    (0..).zip(chunks).fold(0, |mask, (chunk, (before, now))| mask | Mask::from(before != now) << chunk)
}

/// The chunks of `mask`, one after another.
pub(crate) fn gather(page: &[u8; PAGE_SIZE], mask: Mask, into: &mut Vec<u8>) {
    into.clear();
    for (chunk, bytes) in page.chunks_exact(CHUNK_SIZE).enumerate() {
        if mask & 1 << chunk != 0 {
            into.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: usize, value: u8) -> [u8; PAGE_SIZE] {
        let mut page = [7; PAGE_SIZE];
        page[byte] = value;
        page
    }

    /// One checkpoint in which page 5 was reported; whether it stayed writable, and what it was.
    fn reported(hot: &mut HotPages, bytes: &[u8; PAGE_SIZE]) -> (bool, Change) {
        let stays = hot.stays_writable(5);
        let change = hot.change(5, bytes);
        hot.commit();
        (stays, change)
    }

    #[test]
    fn a_page_is_hot_from_the_second_change_until_it_is_quiet() {
        let mut hot = HotPages::default();
        assert_eq!(reported(&mut hot, &page(0, 1)), (false, Change::Whole));
        assert_eq!(reported(&mut hot, &page(0, 2)), (true, Change::Whole));
        assert_eq!(reported(&mut hot, &page(64 * 3, 2)), (true, Change::Chunks(0b1001)));
        assert_eq!(reported(&mut hot, &page(4095, 2)), (true, Change::Chunks(1 << 63 | 0b1000)));
        for _ in 0..QUIET {
            assert_eq!(reported(&mut hot, &page(4095, 2)), (true, Change::Chunks(0)));
        }
        // Protected, and compared for the last time.
        assert_eq!(reported(&mut hot, &page(4095, 2)), (false, Change::Chunks(0)));
        assert_eq!(reported(&mut hot, &page(4095, 2)), (false, Change::Whole));
    }

    #[test]
    fn a_page_that_changed_long_ago_is_not_hot() {
        let mut hot = HotPages::default();
        assert_eq!(reported(&mut hot, &page(0, 1)), (false, Change::Whole));
        hot.commit();
        assert_eq!(reported(&mut hot, &page(0, 2)), (false, Change::Whole));
        assert_eq!(reported(&mut hot, &page(0, 3)), (true, Change::Whole));
        hot.commit();
        assert_eq!(reported(&mut hot, &page(0, 3)), (false, Change::Whole));
    }

    #[test]
    fn what_is_zeros_or_forgotten_is_not_compared() {
        for forget in [
            |hot: &mut HotPages| hot.blank(&(0..1000)),
            |hot: &mut HotPages| hot.blank(&(5..6)),
            HotPages::clear,
        ] {
            let mut hot = HotPages::default();
            reported(&mut hot, &page(0, 1));
            reported(&mut hot, &page(0, 2));
            forget(&mut hot);
            assert_eq!(reported(&mut hot, &page(0, 2)), (false, Change::Whole));
        }
    }

    #[test]
    fn chunks_are_gathered_in_order() {
        let mut bytes = Vec::new();
        gather(&page(64, 9), 0b11, &mut bytes);
        assert_eq!((bytes.len(), bytes[0], bytes[64]), (128, 7, 9));
    }
}
