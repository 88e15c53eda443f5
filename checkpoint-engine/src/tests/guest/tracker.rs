//! A tracker that reads the fake guest's page tables.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use cairn_abi::RegionId;

use super::frames::{Guest, Slot};
use crate::tests::memory::Memory;
use crate::{LiveMemory, PagePlaces, PageSet, TrackError, Tracker};

pub(super) struct GuestTracker {
    guest: Guest,
    places: BTreeMap<RegionId, Arc<PagePlaces>>,
    /// Fail at this call from now, if not 0.
    pub(super) fail_in: u64,
    /// In `before_restore`, find about one page in this many read-only after all, if not 0.
    pub(super) surprise: usize,
    /// Pages that the engine said it will write.
    pub(super) to_write: usize,
}

impl GuestTracker {
    pub(super) fn new(guest: Guest) -> Self {
        Self { guest, places: BTreeMap::new(), fail_in: 0, surprise: 0, to_write: 0 }
    }

    fn call(&mut self, call: &'static str, region: RegionId) -> Result<(), TrackError> {
        if self.fail_in > 0 {
            self.fail_in -= 1;
            if self.fail_in == 0 {
                let source = io::Error::from_raw_os_error(libc::ENOMEM);
                return Err(TrackError::Os { call, region, source });
            }
        }
        Ok(())
    }
}

impl Tracker for GuestTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.call("attach", region)?;
        self.places.insert(region, Arc::clone(memory.places().unwrap()));
        self.guest.kernel().map(region, memory.pages());
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        self.places.remove(&region).unwrap();
        self.guest.kernel().unmap(region);
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        assert!(written.is_empty());
        self.call("collect", region)?;
        let kernel = self.guest.kernel();
        let table = &kernel.tables[&region];
        for (page, slot) in table.slots.iter().enumerate() {
            match slot {
                Slot::Frame { frame, writable } => {
                    kernel.memory.put(&self.places[&region], page, *frame, *writable);
                }
                Slot::Swapped(_) => Memory::take_away(&self.places[&region], page),
            }
        }
        written.union_with(&table.open);
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        assert!(!pages.is_empty(), "a call for nothing");
        self.call("protect", region)?;
        self.guest.kernel().tables.get_mut(&region).unwrap().open.subtract(pages);
        Ok(())
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        assert!(!pages.is_empty(), "a call for nothing");
        self.call("before_restore", region)?;
        let mut kernel = self.guest.kernel();
        for page in pages {
            let Slot::Frame { frame, writable } = kernel.slot(region, page) else {
                panic!("page {page} is asked for and absent")
            };
            let surprise = self.surprise > 0 && kernel.next_random(self.surprise) == 0;
            if surprise && writable {
                kernel.share(region, page);
            }
            kernel.memory.put(&self.places[&region], page, frame, writable && !surprise);
        }
        self.to_write += pages.count();
        Ok(())
    }
}
