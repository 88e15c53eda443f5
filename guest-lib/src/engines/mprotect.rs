//! A tracker of writes by page protection: a write to a protected page raises SIGSEGV, whose handler
//! notes it and makes the page writable.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use cairn_abi::RegionId;
use cairn_engine::{HostCosts, LiveMemory, PageSet, TrackError, Tracker};

use super::runs;
use super::sys::pagemap::Pagemap;
use super::sys::sigsegv::Watch;
use super::tracked::InProcess;
use crate::memory::PAGE;

/// The tracker.
#[derive(Debug)]
pub(super) struct MprotectTracker {
    /// Without it (before Linux 6.7) fresh regions are protected from the start.
    pagemap: Option<Pagemap>,
    regions: Vec<Tracked>,
    next_is_zeros: bool,
}

#[derive(Debug)]
struct Tracked {
    id: RegionId,
    span: Range<usize>,
    watch: Watch,
    /// Open though they are protected in hardware: found when fresh memory was collected first.
    open: PageSet,
    /// Never protected yet: what was not touched is zeros.
    fresh: bool,
}

impl MprotectTracker {
    pub(super) fn new() -> Self {
        Self { pagemap: Pagemap::own().ok(), regions: Vec::new(), next_is_zeros: false }
    }
}

impl InProcess for MprotectTracker {
    /// A fault is a signal and a call of mprotect.
    const COSTS: HostCosts =
        HostCosts { exit_ns: 0, fault_ns: 3_300, protect_ns: 100, compare_ns: 250, copy_ns: 450 };

    fn next_is_zeros(&mut self, zeros: bool) {
        self.next_is_zeros = zeros;
    }
}

impl Tracker for MprotectTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let failed = |call| move |source| TrackError::Os { call, region, source };
        let base = memory.base().ok_or(TrackError::Scattered(region))?;
        let open = PageSet::new(memory.pages())
            .map_err(|_| failed("allocating a page set")(io::ErrorKind::OutOfMemory.into()))?;
        // SAFETY: live memory is mapped readable and writable as long as the engine has it, by the
        // promise of `LiveMemory::new`, and the engine detaches it before; it is private memory by the
        // contract of the session.
        let watch = unsafe { Watch::new(base, memory.pages()) }.map_err(failed("sigaction"))?;
        let mut fresh = self.next_is_zeros;
        if fresh && self.pagemap.is_none() {
            watch.protect(0..memory.pages()).map_err(failed("mprotect"))?;
            fresh = false;
        }
        let start = base.addr().get();
        let span = start..start + memory.bytes();
        self.regions.push(Tracked { id: region, span, watch, open, fresh });
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        self.regions.retain(|tracked| tracked.id != region);
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        let tracked = find(&mut self.regions, region)?;
        if let (true, Some(pagemap)) = (tracked.fresh, &mut self.pagemap) {
            tracked.collect_fresh(pagemap)?;
        }
        written.union_with(&tracked.open);
        for (word, writable) in written.words_mut().iter_mut().zip(tracked.watch.writable()) {
            *word |= writable.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let tracked = find(&mut self.regions, region)?;
        let (close, stay) = tracked.writable_in_and_out(pages)?;
        // Protected pages in between cost nothing: their mapping has the protection already, and the
        // kernel passes over it.
        let any_gap = usize::MAX;
        runs::covering(&close, &stay, any_gap, |run| tracked.watch.protect(run))
            .map_err(|source| TrackError::Os { call: "mprotect", region, source })?;
        tracked.open.subtract(pages);
        Ok(())
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let tracked = find(&mut self.regions, region)?;
        let (writable, _) = tracked.writable_in_and_out(pages)?;
        let mut closed = pages.clone();
        closed.subtract(&writable);
        let nothing = tracked.page_set()?;
        runs::covering(&closed, &nothing, 0, |run| tracked.watch.unprotect(run))
            .map_err(|source| TrackError::Os { call: "mprotect", region, source })
    }
}

impl Tracked {
    /// The first collection of memory that was zeros: protects all of it in one call, and takes what has
    /// memory by now as written.
    fn collect_fresh(&mut self, pagemap: &mut Pagemap) -> Result<(), TrackError> {
        let failed = |call, region| move |source| TrackError::Os { call, region, source };
        let (start, open) = (self.span.start, &mut self.open);
        pagemap
            .resident(self.span.clone(), |found| {
                open.insert_run((found.start - start) / PAGE..(found.end - start) / PAGE);
            })
            .map_err(failed("PAGEMAP_SCAN", self.id))?;
        self.watch.protect(0..self.span.len() / PAGE).map_err(failed("mprotect", self.id))?;
        self.fresh = false;
        Ok(())
    }

    /// The pages that are writable in hardware: those in `pages`, and the others.
    fn writable_in_and_out(&self, pages: &PageSet) -> Result<(PageSet, PageSet), TrackError> {
        let (mut within, mut without) = (self.page_set()?, self.page_set()?);
        let targets = within.words_mut().iter_mut().zip(without.words_mut());
        for ((within, without), (writable, pages)) in
            targets.zip(self.watch.writable().iter().zip(pages.words()))
        {
            let writable = writable.load(Ordering::Relaxed);
            *within = writable & pages;
            *without = writable & !pages;
        }
        Ok((within, without))
    }

    fn page_set(&self) -> Result<PageSet, TrackError> {
        PageSet::new(self.span.len() / PAGE).map_err(|_| TrackError::Os {
            call: "allocating a page set",
            region: self.id,
            source: io::ErrorKind::OutOfMemory.into(),
        })
    }
}

fn find(regions: &mut [Tracked], id: RegionId) -> Result<&mut Tracked, TrackError> {
    regions.iter_mut().find(|tracked| tracked.id == id).ok_or(TrackError::NotAttached(id))
}
