//! Memory that comes by and by, of a program that was brought back; and memory that goes.

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use rangemap::RangeSet;

use super::{AddressSpace, clip};
use crate::guest::app::mapping::{Content, FileBytes, SpaceError};
use crate::memory::layout::is_program;

/// Content of memory that isn't there yet: a program that was brought back runs before all of its memory is read.
pub trait Arrival: Send + Sync {
    /// What `range` held is of no interest any more: nothing comes for it from now on.
    fn cancel(&self, range: &Range<u64>);

    /// Page numbers of what is still to come. It goes on coming: whoever tells by what there is which pages were never
    /// touched has to ask for this first.
    fn pending(&self) -> RangeSet<u64>;

    /// Brings what is to come for `range` now.
    ///
    /// # Errors
    /// EIO when it can't be had.
    fn hasten(&self, range: &Range<u64>) -> Result<(), Errno>;

    /// As [`hasten`](Self::hasten) for anonymous memory, which nobody waits for from now on: so it may move.
    ///
    /// # Errors
    /// As for `hasten`, and what the host says.
    fn hand_over(&self, range: &Range<u64>) -> Result<(), Errno>;
}

/// Whoever brings it.
pub type Arriving = Arc<dyn Arrival>;

impl AddressSpace {
    /// Who brings what the mappings hold. Whoever drops, moves or replaces memory tells it.
    pub fn set_arriving(&mut self, arriving: Arriving) {
        self.arriving = Some(arriving);
    }

    /// Who brings what isn't there yet, if that is so.
    #[must_use]
    pub fn arriving(&self) -> Option<Arriving> {
        self.arriving.clone()
    }

    /// Drops the pages of `range` (MADV_DONTNEED), and the content with them where it is private.
    ///
    /// # Errors
    /// ENOMEM when a part isn't mapped.
    pub fn discard(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if !is_program(range) || self.mappings.gaps(range).next().is_some() {
            return Err(SpaceError::Host(Errno::ENOMEM));
        }
        for piece in self.discardable(range) {
            if let Some(owner) = self.watched_by(&piece) {
                // Pages that a checkpoint has frozen vanish like any other, and nobody waits.
                owner.read_all(&piece);
            }
            self.cancel_arrival(&piece);
            // A region's tracker can't see pages vanish: to it this is a write of zeros.
            self.memory.touch(&piece);
            self.memory.window().advise(&piece, MmapAdvise::MADV_DONTNEED).map_err(SpaceError::Host)?;
        }
        Ok(())
    }

    /// What of `range` may be dropped: it comes back as zeros or from its file. Copies of files wouldn't, and shared
    /// memory keeps its content without the pages of a mapping.
    fn discardable(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let stays = |content: &Content| {
            matches!(content, Content::Shared | Content::File { bytes: FileBytes::Copied, .. })
        };
        let pieces = self.mappings.overlapping(range).filter(|(_, mapping)| !stays(&mapping.content));
        pieces.map(|(piece, _)| clip(piece, range)).collect()
    }

    pub(super) fn cancel_arrival(&self, range: &Range<u64>) {
        if let Some(arriving) = &self.arriving {
            arriving.cancel(range);
        }
    }
}
