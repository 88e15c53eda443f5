//! A tracker of writes by userfaultfd: the kernel lifts the protection at the write, without a signal,
//! and PAGEMAP_SCAN tells later where it did.

use std::io;
use std::ops::Range;

use cairn_abi::RegionId;
use cairn_engine::{HostCosts, LiveMemory, PageSet, TrackError, Tracker};

use super::runs;
use super::sys::pagemap::Pagemap;
use super::sys::uffd::AsyncProtection;
use super::tracked::InProcess;
use crate::memory::PAGE;

/// Protected pages that a call may pass over rather than end: passing costs some nanoseconds a page,
/// a call some hundreds.
const MAX_GAP: usize = 128;

/// When pages are protected again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protecting {
    /// As they are collected, in the same walk: right when every page is to be protected anyway.
    AtCollect,
    /// When the rule has said which.
    AsTold,
}

/// The tracker.
#[derive(Debug)]
pub(super) struct UffdTracker {
    protection: AsyncProtection,
    pagemap: Pagemap,
    protecting: Protecting,
    regions: Vec<Tracked>,
    next_is_zeros: bool,
}

/// A region: `span` in addresses, sets in pages.
#[derive(Debug)]
struct Tracked {
    id: RegionId,
    span: Range<usize>,
    /// Reported and not protected since, as far as the engine knows.
    open: PageSet,
    /// What the kernel may leave writable: of these, the engine's choice is to be protected.
    unguarded: PageSet,
}

impl UffdTracker {
    pub(super) fn new(protecting: Protecting) -> io::Result<Self> {
        let protection = AsyncProtection::open()?;
        let pagemap = Pagemap::own()?;
        Ok(Self { protection, pagemap, protecting, regions: Vec::new(), next_is_zeros: false })
    }
}

impl InProcess for UffdTracker {
    /// The kernel resolves a fault by itself.
    const COSTS: HostCosts =
        HostCosts { exit_ns: 0, fault_ns: 700, protect_ns: 30, compare_ns: 250, copy_ns: 450 };

    fn next_is_zeros(&mut self, zeros: bool) {
        self.next_is_zeros = zeros;
    }
}

impl Tracker for UffdTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let failed = |call| move |source| TrackError::Os { call, region, source };
        let start = memory.base().ok_or(TrackError::Scattered(region))?.addr().get();
        let span = start..start + memory.bytes();
        let empty = || PageSet::new(memory.pages()).map_err(|_| io::ErrorKind::OutOfMemory.into());
        let mut open = empty().map_err(failed("allocating a page set"))?;
        let unguarded = empty().map_err(failed("allocating a page set"))?;
        // Fresh memory is open too, but what was never touched is zeros, as is the mirror: the kernel
        // reports the rest.
        if !self.next_is_zeros {
            open.fill();
        }
        self.protection.register(&span).map_err(failed("UFFDIO_REGISTER"))?;
        self.regions.push(Tracked { id: region, span, open, unguarded });
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        if let Some(at) = self.regions.iter().position(|tracked| tracked.id == region) {
            let tracked = self.regions.swap_remove(at);
            // It fails only when nothing is registered there, and then nothing is protected.
            let _ = self.protection.unregister(&tracked.span);
        }
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        let Self { pagemap, protecting, regions, .. } = self;
        let tracked = find(regions, region)?;
        let start = tracked.span.start;
        let pages = |found: Range<usize>| (found.start - start) / PAGE..(found.end - start) / PAGE;
        let scanned = match protecting {
            Protecting::AtCollect => {
                let open = &mut tracked.open;
                let scanned =
                    pagemap.take_written(tracked.span.clone(), |found| open.insert_run(pages(found)));
                if scanned.is_ok() {
                    tracked.unguarded.clear();
                }
                scanned
            }
            Protecting::AsTold => {
                let unguarded = &mut tracked.unguarded;
                pagemap.written(tracked.span.clone(), |found| unguarded.insert_run(pages(found)))
            }
        };
        scanned.map_err(|source| TrackError::Os { call: "PAGEMAP_SCAN", region, source })?;
        written.union_with(&tracked.open);
        written.union_with(&tracked.unguarded);
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let pagemap = &self.pagemap;
        let tracked = find(&mut self.regions, region)?;
        let mut stay = tracked.unguarded.clone();
        stay.subtract(pages);
        let mut close = tracked.unguarded.clone();
        close.subtract(&stay);
        runs::covering(&close, &stay, MAX_GAP, |run| pagemap.protect(tracked.addresses(run)))
            .map_err(|source| TrackError::Os { call: "PAGEMAP_SCAN", region, source })?;
        tracked.open.subtract(pages);
        tracked.unguarded = stay;
        Ok(())
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        // The kernel lifts the protection under the engine's writes as under the program's.
        find(&mut self.regions, region)?.unguarded.union_with(pages);
        Ok(())
    }
}

impl Tracked {
    fn addresses(&self, pages: Range<usize>) -> Range<usize> {
        self.span.start + pages.start * PAGE..self.span.start + pages.end * PAGE
    }
}

fn find(regions: &mut [Tracked], id: RegionId) -> Result<&mut Tracked, TrackError> {
    regions.iter_mut().find(|tracked| tracked.id == id).ok_or(TrackError::NotAttached(id))
}
