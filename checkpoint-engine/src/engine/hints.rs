//! Regions whose program says itself what it writes.

use cairn_abi::{RegionId, RegionMode, RegionName};

use super::Engine;
use crate::{EngineError, LiveMemory, Tracker};

impl<T: Tracker> Engine<T> {
    /// Registers `memory` as a region in which only [hinted](Self::hint) pages are looked at: nothing is watched
    /// or protected, and no write costs the program more than a write. What it writes elsewhere may be in a
    /// checkpoint or not, and may be undone or not.
    ///
    /// Unless the memory is known to be all `zeros`, everything counts as hinted until the first checkpoint.
    ///
    /// # Errors
    /// As for [`add_region`](Self::add_region).
    pub fn add_hinted_region(
        &mut self,
        name: RegionName,
        memory: LiveMemory,
        zeros: bool,
    ) -> Result<RegionId, EngineError> {
        let id = self.register(name, memory, RegionMode::Hinted)?;
        if !zeros && let Ok(at) = self.region_at(id) {
            self.regions[at].hints.add_all();
        }
        Ok(id)
    }

    /// The program says that it writes pages of `region`, before the next checkpoint or rollback that is done:
    /// bit `i` of `bits` is page `64 * word + i`. Pages beyond the region are ignored. In a region that is
    /// tracked, they stay writable and are compared at the end of the next epoch too.
    ///
    /// # Errors
    /// [`EngineError::NoRegion`].
    pub fn hint(&mut self, region: RegionId, word: usize, bits: u64) -> Result<(), EngineError> {
        let at = self.region_at(region)?;
        self.regions[at].hints.add(word, bits);
        Ok(())
    }
}
