//! Mappings that grow, shrink and move.

use std::ops::Range;

use nix::errno::Errno;

use super::{AddressSpace, align_for};
use crate::guest::app::mapping::{Content, Mapping, Place, SpaceError};
use crate::memory::layout::is_program;
use crate::memory::rights::Rights;

impl AddressSpace {
    /// Makes the mapping at `old` (its length) `new_len` bytes long, elsewhere if it must and
    /// `may_move`, or at `fixed`. Answers where it is.
    ///
    /// # Errors
    /// [`SpaceError`]: EFAULT when `old` isn't one mapping, `Full` when there is no room, ENOMEM when
    /// what should grow is a file's.
    pub fn remap(
        &mut self,
        old: &Range<u64>,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, SpaceError> {
        let mapping = match self.mappings.get_key_value(&old.start) {
            Some((range, mapping)) if old.end <= range.end && is_program(old) => mapping.clone(),
            _ => return Err(SpaceError::Host(Errno::EFAULT)),
        };
        let old_len = old.end - old.start;
        if fixed.is_none() && new_len <= old_len {
            if new_len < old_len {
                self.unmap(&(old.start + new_len..old.end))?;
            }
            return Ok(old.start);
        }
        if mapping.charged {
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
                self.relocate(old, start..start.checked_add(new_len).ok_or(SpaceError::Range)?, mapping)
            }
            None if may_move => {
                let range = self.place(Place::Anywhere(new_len), align_for(new_len))?;
                self.relocate(old, range, mapping)
            }
            None => Err(SpaceError::Full),
        }
    }

    fn relocate(
        &mut self,
        old: &Range<u64>,
        new: Range<u64>,
        mut mapping: Mapping,
    ) -> Result<u64, SpaceError> {
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
        if let Some(arriving) = &self.arriving {
            // Only what is there moves.
            arriving.hasten(&kept).map_err(SpaceError::Host)?;
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
        Ok(self.enter(moved, mapping)?.start)
    }
}
