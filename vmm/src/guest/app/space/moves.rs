//! Mappings that grow, shrink and move.

use std::ops::Range;

use nix::errno::Errno;

use super::{AddressSpace, align_for, clip};
use crate::guest::app::mapping::{Content, Mapping, Place, SpaceError};
use crate::memory::layout::is_program;
use crate::memory::rights::Rights;

impl AddressSpace {
    /// Makes the mapping at `old` (its length) `new_len` bytes long, elsewhere if it must and
    /// `may_move`, or at `fixed`. Answers where it is.
    ///
    /// # Errors
    /// [`SpaceError`]: EFAULT when nothing is at the start of `old`, or what stays of it isn't one mapping, `Full` when
    /// there is no room, ENOMEM when what should grow is a file's.
    pub fn remap(
        &mut self,
        old: &Range<u64>,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, SpaceError> {
        if !is_program(old) || self.mapping(old.start).is_none() {
            return Err(SpaceError::Host(Errno::EFAULT));
        }
        let old_len = old.end - old.start;
        if fixed.is_none() && new_len <= old_len {
            // No more than an munmap, whatever is there.
            if new_len < old_len {
                self.unmap(&(old.start + new_len..old.end))?;
            }
            return Ok(old.start);
        }
        let pieces = self.one_mapping(&(old.start..old.start + old_len.min(new_len)))?;
        let mapping = pieces[0].1.clone();
        if pieces.iter().any(|(_, mapping)| mapping.charged) {
            self.check_limit(new_len.saturating_sub(old_len))?;
        }
        let grown = old.end..old.start.checked_add(new_len).ok_or(SpaceError::Range)?;
        if fixed.is_none() && mapping.is_memory() && is_program(&grown) && self.is_free(&grown) {
            self.map_memory(Place::Exactly(grown), mapping.rights, mapping.content)?;
            return Ok(old.start);
        }
        if old_len < new_len && !mapping.is_memory() {
            // More of the file would have to be mapped, and its descriptor may be gone.
            return Err(SpaceError::Host(Errno::ENOMEM));
        }
        match fixed {
            Some(start) => {
                self.relocate(old, start..start.checked_add(new_len).ok_or(SpaceError::Range)?, &pieces)
            }
            None if may_move => {
                let range = self.place(Place::Anywhere(new_len), align_for(new_len))?;
                self.relocate(old, range, &pieces)
            }
            None => Err(SpaceError::Full),
        }
    }

    /// What is mapped at `range`, at least one piece, if it's one mapping to the program. Pieces can differ in what is
    /// charged for them: parts that were writable once. Linux counts these as mappings of their own, but only where they
    /// were written too, which isn't known here.
    fn one_mapping(&self, range: &Range<u64>) -> Result<Vec<(Range<u64>, Mapping)>, SpaceError> {
        let pieces = self.mappings.overlapping(range);
        let pieces: Vec<_> = pieces.map(|(piece, mapping)| (clip(piece, range), mapping.clone())).collect();
        let is_one = pieces.first().is_some_and(|(_, first)| {
            let alike =
                |mapping: &Mapping| (mapping.rights, &mapping.content) == (first.rights, &first.content);
            pieces.iter().all(|(_, mapping)| alike(mapping))
        });
        let is_whole = self.mappings.gaps(range).next().is_none();
        if is_one && is_whole { Ok(pieces) } else { Err(SpaceError::Host(Errno::EFAULT)) }
    }

    /// Moves `pieces`, the start of what is at `old`, to the start of `new`.
    fn relocate(
        &mut self,
        old: &Range<u64>,
        new: Range<u64>,
        pieces: &[(Range<u64>, Mapping)],
    ) -> Result<u64, SpaceError> {
        let mut mapping = pieces[0].1.clone();
        if !is_program(&new) || new.start < old.end && old.start < new.end {
            return Err(SpaceError::Range);
        }
        self.admit(&new, &Mapping { charged: false, ..mapping.clone() })?;
        self.release(&new)?;
        let len = (old.end - old.start).min(new.end - new.start);
        let (kept, moved) = (old.start..old.start + len, new.start..new.start + len);
        self.release(&(kept.end..old.end))?;
        let more = moved.end..new.end;
        if !more.is_empty() {
            // First, because it may fail: the pages move when all else is done.
            self.map_memory(Place::Exactly(more.clone()), mapping.rights, mapping.content.clone())?;
        }
        self.leave(&kept);
        if let (Some(arriving), false) = (&self.arriving, mapping.is_of_host_file()) {
            // Only what is there moves, and all of it.
            arriving.hand_over(&kept).map_err(SpaceError::Host)?;
        }
        self.tables.map(&kept, Rights::NONE, false);
        if let Err(errno) = self.memory.window().relocate(&kept, &moved) {
            self.reinstate(&kept);
            self.release(&more)?;
            return Err(SpaceError::Host(errno));
        }
        self.memory.renew(&kept);
        self.strike(kept);
        if let Content::File { delta, .. } = &mut mapping.content {
            *delta = delta.wrapping_add(old.start).wrapping_sub(new.start);
        }
        let range = self.enter(moved, mapping.clone())?;
        for (piece, Mapping { charged, .. }) in
            pieces.iter().filter(|(_, one)| one.charged != mapping.charged)
        {
            let to = |at: u64| at - old.start + range.start;
            self.list(to(piece.start)..to(piece.end), Mapping { charged: *charged, ..mapping.clone() });
        }
        Ok(range.start)
    }
}
