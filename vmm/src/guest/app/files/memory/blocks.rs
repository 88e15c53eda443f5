//! Which blocks of a memory file are its own, which are still those of a host's file beneath, and which
//! changed since they were last given to an image.

use std::{ops::Range, os::fd::OwnedFd};

use rangemap::RangeSet;

use super::{super::status::Status, BLOCK_BYTES};

/// The host's file that shows through a memory file.
#[derive(Debug)]
pub(in crate::guest::app::files) struct Base {
    /// Open for reading.
    pub fd: OwnedFd,
    /// Where it is below the granted directory.
    pub path: Vec<u8>,
    /// What the host told of it when it was taken.
    pub status: Status,
    /// Bytes that show through at most: its size, or less once the file was cut.
    pub end: u64,
}

/// The blocks of one memory file.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    pub base: Option<Base>,
    /// Blocks before the base's end that the memory file holds itself.
    own: RangeSet<u64>,
    /// Blocks of its own that changed since the last image.
    changed: RangeSet<u64>,
    /// Bytes, a whole number of blocks, up to which the budget was charged; those that the base shows are
    /// free.
    pub charged_end: u64,
    /// A mapping may change any block at any time.
    pub mapped: bool,
    /// Bytes or attributes are no longer those of the base.
    pub modified: bool,
}

impl Blocks {
    pub(super) fn over(base: Base) -> Self {
        let charged_end = base.end.next_multiple_of(BLOCK_BYTES);
        Self { base: Some(base), charged_end, ..Self::default() }
    }

    /// Bytes that the base shows at most.
    pub(super) fn base_end(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.end)
    }

    /// The block after the last that the base has a part in.
    fn base_blocks(&self) -> u64 {
        self.base_end().div_ceil(BLOCK_BYTES)
    }

    /// The blocks among `blocks` that the base still shows.
    pub(super) fn shown(&self, blocks: &Range<u64>) -> Vec<Range<u64>> {
        let outer = blocks.start..blocks.end.min(self.base_blocks());
        if outer.is_empty() { Vec::new() } else { self.own.gaps(&outer).collect() }
    }

    /// Bytes that the budget must be charged before all of `blocks` are the file's own.
    pub(super) fn cost(&self, blocks: &Range<u64>) -> u64 {
        self.shown(blocks).iter().map(|gap| gap.end - gap.start).sum::<u64>() * BLOCK_BYTES
    }

    /// The file holds these blocks now, and they are news for the next image.
    pub(super) fn take(&mut self, blocks: Range<u64>) {
        if blocks.is_empty() {
            return;
        }
        let own = blocks.start..blocks.end.min(self.base_blocks());
        if !own.is_empty() {
            self.own.insert(own);
        }
        self.changed.insert(blocks);
        self.modified = true;
    }

    /// The file is `size` bytes long now; answers what the budget gets back.
    pub(super) fn cut(&mut self, size: u64) -> u64 {
        let target = size.next_multiple_of(BLOCK_BYTES);
        if self.charged_end <= target && self.base_end() <= size {
            return 0;
        }
        let shown_to = self.base_blocks() * BLOCK_BYTES;
        let mut back = self.charged_end.saturating_sub(target.max(shown_to));
        let behind = target / BLOCK_BYTES..u64::MAX;
        back += self.own.overlapping(&behind).map(|own| own.end - own.start.max(behind.start)).sum::<u64>()
            * BLOCK_BYTES;
        self.own.remove(behind.clone());
        self.changed.remove(behind);
        if let Some(base) = &mut self.base {
            base.end = base.end.min(size);
        }
        self.charged_end = self.charged_end.min(target);
        let last = size / BLOCK_BYTES..size.div_ceil(BLOCK_BYTES);
        if !last.is_empty() && self.shown(&last).is_empty() {
            // Behind the end it has zeros now.
            self.changed.insert(last);
        }
        back
    }

    /// Everything that the file holds itself, as bytes from its start to `size`.
    pub(super) fn own(&self, size: u64) -> Vec<Range<u64>> {
        let blocks = size.div_ceil(BLOCK_BYTES);
        let mut own: Vec<Range<u64>> = self.own.iter().cloned().collect();
        if self.base_blocks() < blocks {
            own.push(self.base_blocks()..blocks);
        }
        own
    }

    /// What the file holds of what the base could show.
    pub(super) fn own_of_base(&self) -> impl Iterator<Item = &Range<u64>> {
        self.own.iter()
    }

    /// Takes over from an image that these blocks are the file's own; none when the base has no part in them.
    pub(super) fn restore_own(&mut self, blocks: Range<u64>) -> Option<()> {
        let fits = !blocks.is_empty() && blocks.end <= self.base_blocks();
        fits.then(|| self.own.insert(blocks))
    }

    /// Blocks that an image must be given: all that a mapping may have changed, and those that were.
    pub(super) fn news(&self, size: u64) -> Vec<Range<u64>> {
        if self.mapped { self.own(size) } else { self.changed.iter().cloned().collect() }
    }

    /// An image has them.
    pub(super) fn forget_news(&mut self) {
        self.changed.clear();
    }
}

/// The blocks that a span of bytes touches.
pub(super) fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES)
}
