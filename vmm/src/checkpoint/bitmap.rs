//! The tracker over KVM's dirty bitmap, with manual protection.
//!
//! KVM sets a page's bit at the first write after the page was protected, and reading the log leaves
//! everything as it is: so the bits that are set are the open pages, always all of them, whether they
//! were just written or left open on purpose. CLEAR protects just the pages that it names, in one
//! system call for a region. What the VMM writes itself is marked beside KVM's bitmap.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_abi::RegionId;
use cairn_engine::{LiveMemory, PageSet, TrackError, Tracker};

use crate::kvm::slots::{SlotError, SlotMap};
use crate::memory::program::ProgramMemory;
use crate::memory::written::WrittenPages;

/// Tracks regions that have a memslot of their own.
#[derive(Debug)]
pub struct BitmapTracker {
    slots: Arc<Mutex<SlotMap>>,
    memory: Arc<ProgramMemory>,
    /// Few, and found by id.
    regions: Vec<(RegionId, Arc<WrittenPages>)>,
}

impl BitmapTracker {
    /// A tracker without regions.
    #[must_use]
    pub fn new(slots: Arc<Mutex<SlotMap>>, memory: Arc<ProgramMemory>) -> Self {
        Self { slots, memory, regions: Vec::new() }
    }

    /// The region that shares memory with `range`, if there is one.
    #[must_use]
    pub fn region_in(&self, range: &Range<u64>) -> Option<RegionId> {
        let shares = |region: &Range<u64>| range.start < region.end && region.start < range.end;
        self.regions.iter().find(|(_, written)| shares(written.range())).map(|(id, _)| *id)
    }

    fn written(&self, region: RegionId) -> Result<&Arc<WrittenPages>, TrackError> {
        let found = self.regions.iter().find(|(id, _)| *id == region);
        found.map(|(_, written)| written).ok_or(TrackError::NotAttached(region))
    }

    /// The program's addresses of `memory`.
    fn range(&self, region: RegionId, memory: &LiveMemory) -> Result<Range<u64>, TrackError> {
        let base = memory.base().ok_or(TrackError::Scattered(region))?;
        let start = (base.addr().get() - self.memory.window().address(0)) as u64;
        Ok(start..start + memory.bytes() as u64)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, SlotMap> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracker for BitmapTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let range = self.range(region, memory)?;
        self.slots().start_log(&range).map_err(refused("KVM_SET_USER_MEMORY_REGION", region))?;
        self.regions.push((region, self.memory.watch(range)));
        Ok(())
    }

    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        // Without a log. It's known here because it ends, too, when the program unmaps its memory.
        let range = self.range(region, memory)?;
        self.regions.push((region, self.memory.watch(range)));
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        let Some(at) = self.regions.iter().position(|(id, _)| *id == region) else { return };
        let (_, written) = self.regions.remove(at);
        self.memory.unwatch(&written);
        let rejoined = self.slots().rejoin(written.range());
        if let Err(error) = rejoined {
            // The region's memory keeps a slot of its own: slower, and nothing worse.
            tracing::warn!(%region, error = &error as &dyn std::error::Error, "a region's memslot stays apart");
        }
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        let by_host = self.written(region)?;
        let log = self.slots().dirty_log(by_host.range(), written.words_mut());
        log.map_err(refused("KVM_GET_DIRTY_LOG", region))?;
        for (index, word) in written.words_mut().iter_mut().enumerate() {
            *word |= by_host.load(index);
        }
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let words = pages.words();
        let Some(first) = words.iter().position(|word| *word != 0) else { return Ok(()) };
        let last = words.iter().rposition(|word| *word != 0).unwrap_or(first);
        let by_host = self.written(region)?;
        let span = &words[first..=last];
        let cleared = self.slots().clear_dirty_log(by_host.range(), first as u64, span);
        cleared.map_err(refused("KVM_CLEAR_DIRTY_LOG", region))?;
        for (index, word) in span.iter().enumerate().filter(|(_, word)| **word != 0) {
            by_host.clear(first + index, *word);
        }
        Ok(())
    }
}

fn refused(call: &'static str, region: RegionId) -> impl FnOnce(SlotError) -> TrackError {
    move |error| TrackError::Os { call, region, source: io::Error::other(error) }
}
