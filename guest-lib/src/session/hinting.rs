//! The program says what it writes.

use std::ops::RangeBounds;

use super::Session;
use crate::element::Element;
use crate::hints;
#[cfg(doc)]
use crate::hints::RegionMode;
use crate::region::Region;

impl Session {
    /// Says that the program writes these elements of the region, before the next checkpoint or rollback. It may
    /// be said before the write or after it, and holds for the pages that the elements are on, until a
    /// checkpoint or a rollback is done. Elements that the region doesn't have are left out.
    ///
    /// In a region of [`RegionMode::Hinted`] every write must be hinted so, from its registration on. A hint
    /// costs no request: hints go with the next checkpoint or rollback.
    ///
    /// ```
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// use cairn_guest::RegionMode;
    ///
    /// let mut session = cairn_guest::Session::open()?;
    /// let table = session.region_with::<u64>("table", 1 << 20, RegionMode::Hinted)?;
    /// let id = session.checkpoint()?;
    /// session.hint(&table, 7..9);
    /// session.slice_mut(&table)[7..9].fill(42);
    /// session.rollback(id)?;
    /// assert_eq!(session.slice(&table)[7], 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the region is another session's.
    #[track_caller]
    pub fn hint<T: Element>(&mut self, region: &Region<T>, range: impl RangeBounds<usize>) {
        let pages = hints::pages(&range, region.len(), size_of::<T>());
        let entry = self.regions.get_mut(region);
        if let Some(check) = &mut entry.check {
            check.hint(pages.clone());
        }
        self.backend.hint(entry.id, pages);
    }
}
