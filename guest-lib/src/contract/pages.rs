//! Memory of the program's own, to be adopted.

use super::Finding;
use crate::error::Error;
use crate::hints::RegionMode;
use crate::memory::{Block, PAGE};
use crate::region::Region;
use crate::session::Session;

/// Page-aligned memory that the program owns. It must outlive the region that adopts it.
#[derive(Debug)]
pub(super) struct Pages(Block);

impl Pages {
    /// `count` pages that hold `byte`.
    pub(super) fn filled(count: usize, byte: u8) -> Result<Self, Finding> {
        let mut block = Block::map(count * PAGE)
            .map_err(|error| Finding::new(format_args!("no memory to be adopted: {error}")))?;
        block.bytes_mut().fill(byte);
        Ok(Self(block))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    /// Registers all of it.
    ///
    /// The caller drops the region, or the session, before this value, and looks at the bytes only
    /// while no slice of the region lives. Every caller is in this module and does.
    pub(super) fn adopt(
        &mut self,
        session: &mut Session,
        name: &str,
        mode: RegionMode,
    ) -> Result<Region<u8>, Error> {
        // SAFETY: a private anonymous mapping, read-write until `self` goes, which by this method's
        // rule is after the region; it is reached otherwise only through `bytes` and `bytes_mut`,
        // and by that rule not while a slice of the region lives.
        unsafe { session.adopt_with(name, self.0.bytes_mut(), mode) }
    }

    /// Tries to register the `len` bytes from `offset` on, which is not whole pages.
    pub(super) fn adopt_part(
        &mut self,
        session: &mut Session,
        name: &str,
        offset: usize,
        len: usize,
    ) -> Result<Region<u8>, Error> {
        // SAFETY: as in `adopt`, for a part of the same mapping.
        unsafe { session.adopt(name, &mut self.0.bytes_mut()[offset..offset + len]) }
    }
}
