//! The tracker over KVM's dirty ring.
//!
//! Reading the ring is a load where nothing was written, and no system call. Protecting is all or nothing: a reset
//! protects every page that was taken from the ring, those too that are better left writable. So the tracker lets
//! what is reported grow, and resets when the compares that this wastes have cost as much as the faults that a
//! reset will cause. Whoever knew beforehand what the program does could save half of that cost, and not more.

use std::collections::TryReserveError;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_abi::RegionId;
use cairn_engine::{HostCosts, LiveMemory, PageSet, TrackError, Tracker};

use crate::checkpoint::region_slot;
use crate::kvm::dirty_ring::{DirtyRing, WrittenPage};
use crate::kvm::slots::SlotMap;
use crate::kvm::system::KvmError;
use crate::memory::program::ProgramMemory;
use crate::memory::written::WrittenPages;

/// Tracks regions that have a memslot of their own, on a machine with one vCPU and its ring.
#[derive(Debug)]
pub(super) struct RingTracker {
    ring: Arc<Mutex<DirtyRing>>,
    slots: Arc<Mutex<SlotMap>>,
    memory: Arc<ProgramMemory>,
    costs: HostCosts,
    regions: Vec<Tracked>,
    /// Nanoseconds of compares, since the last reset, of pages that the engine wants protected and that aren't.
    wasted_ns: u64,
}

/// A region. A page is reported if it's in any of the sets.
#[derive(Debug)]
struct Tracked {
    id: RegionId,
    slot: u32,
    by_host: Arc<WrittenPages>,
    /// Pages that were taken from the ring since the last reset: KVM won't tell of them again.
    writable: PageSet,
    /// Pages that KVM protects, and that are reported until the engine has them protected: it may have left them
    /// open, or not have seen them since they were written.
    kept: PageSet,
    /// Pages of `writable`.
    writable_pages: u64,
    /// Those that the engine asked to protect in vain.
    in_vain: u64,
}

impl RingTracker {
    /// A tracker without regions.
    pub(super) fn new(
        ring: Arc<Mutex<DirtyRing>>,
        slots: Arc<Mutex<SlotMap>>,
        memory: Arc<ProgramMemory>,
        costs: HostCosts,
    ) -> Self {
        Self { ring, slots, memory, costs, regions: Vec::new(), wasted_ns: 0 }
    }

    /// The region that shares memory with `range`, if there is one.
    pub(super) fn region_in(&self, range: &Range<u64>) -> Option<RegionId> {
        self.regions.iter().find(|region| region.by_host.overlaps(range)).map(|region| region.id)
    }

    /// Makes room in the ring, between checkpoints: what was written is kept in mind, and protected.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub(super) fn make_room(&mut self) -> Result<(), KvmError> {
        self.take();
        tracing::debug!(entries = lock(&self.ring).used(), "the dirty ring is emptied");
        self.reset()
    }

    /// Starts or ends the log of a region that is tracked. When it starts, every page is open.
    pub(super) fn set_logged(&mut self, region: RegionId, logged: bool) -> Result<(), TrackError> {
        let at = self.find(region)?;
        let range = self.regions[at].by_host.range().clone();
        region_slot::set_logged(&self.slots(), region, &range, logged)?;
        let tracked = &mut self.regions[at];
        tracked.kept.fill();
        tracked.writable.clear();
        (tracked.writable_pages, tracked.in_vain) = (0, 0);
        Ok(())
    }

    /// Takes what is in the ring into the regions' sets. What an entry says is a claim of the kernel's; one of a
    /// slot that was a region once names no page, or one that is reported in vain.
    fn take(&mut self) {
        let Self { ring, regions, .. } = self;
        for WrittenPage { slot, offset } in lock(ring).take() {
            let page = usize::try_from(offset).unwrap_or(usize::MAX);
            let region = regions.iter_mut().find(|region| region.slot == slot);
            if let Some(region) = region.filter(|region| page < region.writable.pages()) {
                region.writable_pages += u64::from(!region.writable.contains(page));
                region.writable.insert(page);
            }
        }
    }

    /// Protects all that was taken. No page is forgotten: it is reported until the engine has it protected.
    fn reset(&mut self) -> Result<(), KvmError> {
        lock(&self.ring).reset()?;
        for region in &mut self.regions {
            region.kept.union_with(&region.writable);
            region.writable.clear();
            (region.writable_pages, region.in_vain) = (0, 0);
        }
        self.wasted_ns = 0;
        Ok(())
    }

    /// Whether a reset costs less than going on without.
    fn pays(&self) -> bool {
        let in_vain: u64 = self.regions.iter().map(|region| region.in_vain).sum();
        if in_vain == 0 {
            return false;
        }
        let all: u64 = self.regions.iter().map(|region| region.writable_pages).sum();
        let cost = u64::from(self.costs.fault_ns) * (all - in_vain) + u64::from(self.costs.protect_ns) * all;
        // A ring that is nearly full will be emptied soon anyway, and then at the price of an exit.
        let ring = lock(&self.ring);
        cost <= self.wasted_ns || ring.entries() / 4 * 3 <= ring.used()
    }

    fn add(&mut self, id: RegionId, slot: u32, range: Range<u64>, [writable, kept]: [PageSet; 2]) {
        let by_host = self.memory.watch(range);
        self.regions.push(Tracked { id, slot, by_host, writable, kept, writable_pages: 0, in_vain: 0 });
    }

    fn find(&self, region: RegionId) -> Result<usize, TrackError> {
        self.regions.iter().position(|tracked| tracked.id == region).ok_or(TrackError::NotAttached(region))
    }

    fn slots(&self) -> MutexGuard<'_, SlotMap> {
        lock(&self.slots)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracker for RingTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let range = region_slot::range(region, memory, &self.memory)?;
        let writable = PageSet::new(memory.pages()).map_err(out_of_memory(region))?;
        let mut kept = PageSet::new(memory.pages()).map_err(out_of_memory(region))?;
        kept.fill();
        // No entry may be left of a slot that had this slot's number before. A reset joins neighbouring pages of
        // one slot, and where one of them lies beyond its end it protects none (kvm_reset_dirty_gfn in Linux
        // virt/kvm/dirty_ring.c).
        self.make_room().map_err(reset_refused(region))?;
        let slot = {
            let slots = self.slots();
            region_slot::set_logged(&slots, region, &range, true)?;
            slots.number(&range).ok_or(TrackError::NotAttached(region))?
        };
        self.add(region, slot, range, [writable, kept]);
        Ok(())
    }

    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        // Without a log. It's known here because it ends, too, when the program unmaps its memory.
        let range = region_slot::range(region, memory, &self.memory)?;
        let slot = self.slots().number(&range).ok_or(TrackError::NotAttached(region))?;
        let none = || PageSet::new(0).map_err(out_of_memory(region));
        let (writable, kept) = (none()?, none()?);
        self.add(region, slot, range, [writable, kept]);
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        let Ok(at) = self.find(region) else { return };
        let Tracked { by_host, .. } = self.regions.remove(at);
        self.memory.unwatch(&by_host);
        region_slot::rejoin(&mut self.slots(), region, by_host.range());
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        self.take();
        let at = self.find(region)?;
        let tracked = &self.regions[at];
        written.union_with(&tracked.writable);
        written.union_with(&tracked.kept);
        tracked.by_host.add_to(written.words_mut());
        Ok(())
    }

    /// The pages that KVM protects are protected by this, and the others if a reset pays. What is taken from the
    /// ring was all reported, and entries that are newer stay in it: nothing that the engine hasn't compared is
    /// taken for clean.
    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let at = self.find(region)?;
        let tracked = &mut self.regions[at];
        let both = tracked.writable.words().iter().zip(pages.words());
        tracked.in_vain = both.map(|(writable, pages)| u64::from((writable & pages).count_ones())).sum();
        self.wasted_ns += tracked.in_vain * u64::from(self.costs.compare_ns);
        let reset = if self.pays() { self.reset() } else { Ok(()) };
        let tracked = &mut self.regions[at];
        tracked.kept.subtract(pages);
        tracked.by_host.take_back(0, pages.words());
        reset.map_err(reset_refused(region))
    }
}

fn out_of_memory(region: RegionId) -> impl FnOnce(TryReserveError) -> TrackError {
    move |_| TrackError::Os { call: "malloc", region, source: io::Error::from_raw_os_error(libc::ENOMEM) }
}

fn reset_refused(region: RegionId) -> impl FnOnce(KvmError) -> TrackError {
    move |error| TrackError::Os { call: "KVM_RESET_DIRTY_RINGS", region, source: io::Error::other(error) }
}
