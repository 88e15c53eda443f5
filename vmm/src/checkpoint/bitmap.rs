//! The tracker over KVM's dirty bitmap, with manual protection.
//!
//! KVM sets a page's bit at the first write after the page was protected, and reading the log leaves
//! everything as it is: so the bits that are set are the open pages, always all of them, whether they
//! were just written or left open on purpose. CLEAR protects just the pages that it names, in one
//! system call for a region. What the VMM writes itself is marked beside KVM's bitmap.
//!
//! Where whole programs are checkpointed, two read one log, and each clears it when it has what it wants. So each tells
//! the other before: what is cleared here counts as changed for the whole
//! ([`ProgramMemory::renew_pages`]), and what is cleared there counts as written here
//! ([`ProgramMemory::touch_pages`]).

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_abi::RegionId;
use cairn_engine::{FrozenPages, LiveMemory, PageSet, TrackError, Tracker};

use crate::checkpoint::freeze::Freezer;
use crate::checkpoint::region_slot::{self, refused};
use crate::kvm::slots::SlotMap;
use crate::memory::program::ProgramMemory;
use crate::memory::written::WrittenPages;

/// Tracks regions that have a memslot of their own.
#[derive(Debug)]
pub(super) struct BitmapTracker {
    slots: Arc<Mutex<SlotMap>>,
    memory: Arc<ProgramMemory>,
    /// Few, and found by id.
    regions: Vec<(RegionId, Arc<WrittenPages>)>,
    /// Without one, no page can be frozen.
    freezer: Option<Arc<Freezer>>,
    /// Regions whose memory the freezer knows: those of which pages were ever frozen.
    freezable: Vec<RegionId>,
}

impl BitmapTracker {
    /// A tracker without regions.
    pub(super) fn new(
        slots: Arc<Mutex<SlotMap>>,
        memory: Arc<ProgramMemory>,
        freezer: Option<Arc<Freezer>>,
    ) -> Self {
        Self { slots, memory, regions: Vec::new(), freezer, freezable: Vec::new() }
    }

    /// The region that shares memory with `range`, if there is one.
    pub(super) fn region_in(&self, range: &Range<u64>) -> Option<RegionId> {
        self.regions.iter().find(|(_, written)| written.overlaps(range)).map(|(id, _)| *id)
    }

    /// Starts or ends the log of a region that is tracked. When it starts, every page is open.
    pub(super) fn set_logged(&mut self, region: RegionId, logged: bool) -> Result<(), TrackError> {
        region_slot::set_logged(&self.slots(), region, self.written(region)?.range(), logged)
    }

    fn written(&self, region: RegionId) -> Result<&Arc<WrittenPages>, TrackError> {
        let found = self.regions.iter().find(|(id, _)| *id == region);
        found.map(|(_, written)| written).ok_or(TrackError::NotAttached(region))
    }

    /// Where a region is in this process.
    fn span(&self, written: &WrittenPages) -> Range<usize> {
        let address = |address| self.memory.window().address(address);
        address(written.range().start)..address(written.range().end)
    }

    fn slots(&self) -> MutexGuard<'_, SlotMap> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracker for BitmapTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let range = region_slot::range(region, memory, &self.memory)?;
        let written = self.memory.watch(range);
        let slots = self.slots();
        if let Err(error) = region_slot::set_logged(&slots, region, written.range(), true) {
            self.memory.unwatch(&written);
            return Err(error);
        }
        if slots.logs_all() {
            // The log isn't new, and who follows all memory may have cleared some of it.
            written.mark(written.range());
        }
        drop(slots);
        self.regions.push((region, written));
        Ok(())
    }

    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        // Without a log. It's known here because it ends, too, when the program unmaps its memory.
        let range = region_slot::range(region, memory, &self.memory)?;
        self.regions.push((region, self.memory.watch(range)));
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        let Some(at) = self.regions.iter().position(|(id, _)| *id == region) else { return };
        let (_, written) = self.regions.remove(at);
        if let Some(at) = self.freezable.iter().position(|id| *id == region) {
            self.freezable.swap_remove(at);
            let span = self.span(&written);
            self.freezer.iter().for_each(|freezer| freezer.unregister(&span));
        }
        self.memory.unwatch(&written);
        region_slot::rejoin(&mut self.slots(), region, written.range());
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        let by_host = self.written(region)?;
        let log = self.slots().dirty_log(by_host.range(), written.words_mut());
        log.map_err(refused("KVM_GET_DIRTY_LOG", region))?;
        by_host.add_to(written.words_mut());
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let words = pages.words();
        let Some(first) = words.iter().position(|word| *word != 0) else { return Ok(()) };
        let last = words.iter().rposition(|word| *word != 0).unwrap_or(first);
        let by_host = self.written(region)?;
        let span = &words[first..=last];
        self.memory.renew_pages(by_host.range().start, first, span);
        let cleared = self.slots().clear_dirty_log(by_host.range(), first as u64, span);
        cleared.map_err(refused("KVM_CLEAR_DIRTY_LOG", region))?;
        by_host.take_back(first, span);
        Ok(())
    }

    /// Nothing here hinders a write, but whoever follows all memory has to know of it.
    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        self.memory.renew_pages(self.written(region)?.range().start, 0, pages.words());
        Ok(())
    }

    fn before_unwatched_restore(&mut self, region: RegionId, pages: &PageSet) {
        if let Ok(written) = self.written(region) {
            self.memory.renew_pages(written.range().start, 0, pages.words());
        }
    }

    fn freeze(
        &mut self,
        region: RegionId,
        pages: &PageSet,
        held: &PageSet,
    ) -> Result<Option<Box<dyn FrozenPages>>, TrackError> {
        let Some(freezer) = self.freezer.as_ref().map(Arc::clone) else { return Ok(None) };
        let written = Arc::clone(self.written(region)?);
        let span = self.span(&written);
        let os = |call| move |source| TrackError::Os { call, region, source };
        if !self.freezable.contains(&region) {
            freezer.register(&span).map_err(os("UFFDIO_REGISTER"))?;
            self.freezable.push(region);
        }
        // All that is forgotten when pages are taken.
        self.memory.renew_pages(written.range().start, 0, pages.words());
        let frozen = freezer.freeze(span.start, held, &written, &self.slots);
        let frozen = frozen.map_err(os("UFFDIO_WRITEPROTECT"))?;
        // A system call marks pages before it writes them: marks until now are in `pages`, later ones are about the
        // next epoch. KVM's log knows nothing of who waits, so that it's cleared when the pages are taken.
        written.take_back(0, pages.words());
        Ok(Some(frozen))
    }
}
