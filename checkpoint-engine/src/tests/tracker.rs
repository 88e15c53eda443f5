//! A tracker that knows the truth, says more than it must, fails on demand, and checks how it is used.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_abi::RegionId;

use super::memory::Memory;
use crate::{FrozenPages, LiveMemory, PageSet, TrackError, Tracker};

/// A tracker over regions whose writes are reported to it by [`FakeTracker::wrote`].
#[derive(Default)]
pub(super) struct FakeTracker {
    pub(super) regions: BTreeMap<RegionId, Tracked>,
    /// Report pages that nobody wrote, too: about one in this many, if not 0.
    pub(super) noise: u64,
    pub(super) random: u64,
    /// Fail at this call from now, if not 0.
    pub(super) fail_in: u64,
    /// Protect nothing and say so.
    pub(super) refuse_protect: bool,
    /// Whether protection stops the engine's own writes, as page protection does.
    pub(super) protects_engine: bool,
    /// Whether nobody can be held back.
    pub(super) never_freezes: bool,
    pub(super) calls: u64,
}

pub(super) struct Tracked {
    /// The program says what it writes: nothing may be asked or protected here.
    hinted: bool,
    shared: Arc<Mutex<Shared>>,
}

/// What those who thaw change, from any thread.
#[derive(Debug)]
struct Shared {
    open: PageSet,
    held: PageSet,
}

#[derive(Debug)]
struct Frozen(Arc<Mutex<Shared>>);

impl Tracked {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }
}

impl FrozenPages for Frozen {
    fn taken(&self, range: Range<usize>, pages: &PageSet) {
        let shared = &mut *self.0.lock().unwrap();
        for page in range {
            assert!(shared.held.contains(page), "page {page} was thawed before, and may be written");
            shared.held.remove(page);
            if pages.contains(page) {
                shared.open.remove(page);
            }
        }
    }

    fn thaw(&self, pages: Range<usize>) {
        let held = &mut self.0.lock().unwrap().held;
        pages.for_each(|page| held.remove(page));
    }

    fn reopen(&self, pages: &PageSet) {
        self.0.lock().unwrap().open.union_with(pages);
    }
}

impl FakeTracker {
    /// One of the same kind, without regions.
    pub(super) fn reborn(&self) -> Self {
        let Self { noise, random, refuse_protect, protects_engine, never_freezes, .. } = *self;
        Self { noise, random, refuse_protect, protects_engine, never_freezes, ..Self::default() }
    }

    /// A byte of `page` is about to be written by the program.
    pub(super) fn wrote(&mut self, region: RegionId, page: usize) {
        assert!(!self.holds(region, page), "whoever writes page {page} waits");
        self.regions[&region].shared().open.insert(page);
    }

    /// Whether a write to `page` would have to wait.
    pub(super) fn holds(&self, region: RegionId, page: usize) -> bool {
        self.regions[&region].shared().held.contains(page)
    }

    pub(super) fn is_hinted(&self, region: RegionId) -> bool {
        self.regions[&region].hinted
    }

    pub(super) fn open_pages(&self, region: RegionId) -> usize {
        self.regions[&region].shared().open.count()
    }

    /// Whether a write to any page would have to wait.
    pub(super) fn holds_any(&self) -> bool {
        self.regions.values().any(|tracked| !tracked.shared().held.is_empty())
    }

    fn call(&mut self, call: &'static str, region: RegionId) -> Result<(), TrackError> {
        self.calls += 1;
        if self.fail_in > 0 {
            self.fail_in -= 1;
            if self.fail_in == 0 {
                return Err(TrackError::Os {
                    call,
                    region,
                    source: io::Error::from_raw_os_error(libc::ENOMEM),
                });
            }
        }
        Ok(())
    }

    fn next_random(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn tracked(&mut self, region: RegionId) -> Result<&mut Tracked, TrackError> {
        self.regions.get_mut(&region).ok_or(TrackError::NotAttached(region))
    }
}

impl Tracker for FakeTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.call("attach", region)?;
        let mut open = PageSet::new(memory.pages()).unwrap();
        open.fill();
        let empty = PageSet::new(memory.pages()).unwrap();
        let shared = Arc::new(Mutex::new(Shared { open, held: empty }));
        let tracked = Tracked { hinted: false, shared };
        assert!(self.regions.insert(region, tracked).is_none(), "attached twice");
        Ok(())
    }

    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.attach(region, memory)?;
        self.tracked(region)?.hinted = true;
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        let tracked = self.regions.remove(&region).expect("detached without being attached");
        assert!(tracked.shared().held.is_empty(), "detached with somebody held back");
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        assert!(written.is_empty() && !self.is_hinted(region));
        self.call("collect", region)?;
        let tracked = self.tracked(region)?;
        assert!(tracked.shared().held.is_empty(), "collected with somebody held back");
        written.union_with(&tracked.shared().open);
        if self.noise > 0 {
            for page in 0..written.pages() {
                if self.next_random().is_multiple_of(self.noise) {
                    written.insert(page);
                }
            }
            // A kernel's bitmap may have bits beyond the last page.
            if let Some(last) = written.words_mut().last_mut() {
                *last |= 1 << 63;
            }
        }
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        assert!(!pages.is_empty(), "a call for nothing");
        assert!(!self.is_hinted(region), "nothing is protected where the program hints");
        let failed = self.call("protect", region);
        let refuse = self.refuse_protect;
        let stop_at = if failed.is_err() { pages.count() / 2 } else { usize::MAX };
        let tracked = self.tracked(region)?;
        for page in pages.iter().take(if refuse { 0 } else { stop_at }) {
            tracked.shared().open.remove(page);
        }
        if refuse {
            return Err(TrackError::NotAttached(region));
        }
        failed
    }

    fn freeze(
        &mut self,
        region: RegionId,
        pages: &PageSet,
        held: &PageSet,
    ) -> Result<Option<Box<dyn FrozenPages>>, TrackError> {
        assert!(
            !pages.is_empty() && pages.iter().all(|page| held.contains(page)),
            "all that is taken is held"
        );
        self.call("freeze", region)?;
        let never = self.never_freezes;
        let tracked = self.tracked(region)?;
        if never {
            return Ok(None);
        }
        assert!(tracked.shared().held.is_empty(), "frozen twice");
        tracked.shared().held.union_with(held);
        Ok(Some(Box::new(Frozen(Arc::clone(&tracked.shared)))))
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        assert!(!pages.is_empty() && !self.is_hinted(region), "a call for nothing");
        let failed = self.call("before_restore", region);
        let stop_at = if failed.is_err() { pages.count() / 2 } else { usize::MAX };
        if self.protects_engine {
            let tracked = self.tracked(region)?;
            pages.iter().take(stop_at).for_each(|page| tracked.shared().open.insert(page));
        }
        failed
    }
}

/// Checks that no page differs between two contents unless the tracker has it open.
pub(super) fn assert_protected_is_unchanged(
    tracker: &FakeTracker,
    region: RegionId,
    memory: &Memory,
    committed: &[u8],
) {
    let open = tracker.regions[&region].shared().open.clone();
    let live = memory.read();
    for (page, (now, then)) in
        live.chunks(crate::PAGE_SIZE).zip(committed.chunks(crate::PAGE_SIZE)).enumerate()
    {
        assert!(now == then || open.contains(page), "page {page} of region {region} was written unseen");
    }
}
