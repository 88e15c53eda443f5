//! Which frames of a Linux guest's memory the VMM wrote itself: KVM's dirty log doesn't see those.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::memory::layout::{PAGE, to_usize};

/// A mark for each frame of one span of guest memory, set by every write through `vm-memory`. A mark stays
/// until it's taken back.
///
/// `vm-memory` marks after it wrote, and a device's thread may write at any time. So whoever wants to know a
/// frame's content takes its mark back first and reads then: a write that it doesn't see leaves a mark.
#[derive(Clone, Debug, Default)]
pub struct FrameMarks {
    words: Arc<[AtomicU64]>,
}

/// The marks from some byte of the span on.
#[derive(Clone, Debug)]
pub struct MarksFrom {
    marks: FrameMarks,
    offset: usize,
}

impl FrameMarks {
    /// One word of the bitmap: bit i of word w is the span's frame 64 w + i. Words beyond the end are 0.
    #[must_use]
    pub fn load(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Takes the marks in `mask` of one word back.
    pub fn clear(&self, word: usize, mask: u64) {
        if let Some(word) = self.words.get(word) {
            word.fetch_and(!mask, Ordering::AcqRel);
        }
    }
}

impl NewBitmap for FrameMarks {
    fn with_len(len: usize) -> Self {
        let frames = len.div_ceil(to_usize(PAGE));
        Self { words: (0..frames.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl<'a> WithBitmapSlice<'a> for FrameMarks {
    type S = MarksFrom;
}

impl Bitmap for FrameMarks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (first, last) = (frame(offset), frame(offset.saturating_add(len - 1)));
        for frame in first..=last.min(self.words.len() * 64) {
            if let Some(word) = self.words.get(frame / 64) {
                word.fetch_or(1 << (frame % 64), Ordering::AcqRel);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.load(frame(offset) / 64) & (1 << (frame(offset) % 64)) != 0
    }

    fn slice_at(&self, offset: usize) -> MarksFrom {
        MarksFrom { marks: self.clone(), offset }
    }
}

impl<'a> WithBitmapSlice<'a> for MarksFrom {
    type S = Self;
}

impl BitmapSlice for MarksFrom {}

impl Bitmap for MarksFrom {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.marks.mark_dirty(self.offset.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.marks.dirty_at(self.offset.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { marks: self.marks.clone(), offset: self.offset.saturating_add(offset) }
    }
}

fn frame(offset: usize) -> usize {
    offset / to_usize(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_marks_the_frames_that_it_touches() {
        let marks = FrameMarks::with_len(130 * 4096);
        marks.mark_dirty(4095, 2);
        marks.slice_at(64 * 4096).slice_at(100).mark_dirty(0, 1);
        marks.mark_dirty(129 * 4096, 4096);
        marks.mark_dirty(usize::MAX - 5, 100);
        marks.mark_dirty(5 * 4096, 0);
        assert_eq!([marks.load(0), marks.load(1), marks.load(2), marks.load(3)], [0b11, 1, 0b10, 0]);
        assert!(marks.dirty_at(4096) && !marks.dirty_at(2 * 4096));
        marks.clear(0, 1);
        assert_eq!(marks.load(0), 0b10);
    }
}
