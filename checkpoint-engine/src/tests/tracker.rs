//! A tracker that knows the truth, says more than it must, fails on demand, and checks how it is used.

use std::collections::BTreeMap;
use std::io;

use cairn_abi::RegionId;

use super::memory::Memory;
use crate::{LiveMemory, PageSet, TrackError, Tracker};

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
    pub(super) calls: u64,
}

pub(super) struct Tracked {
    open: PageSet,
    /// The program says what it writes: nothing may be asked or protected here.
    hinted: bool,
}

impl FakeTracker {
    /// A byte of `page` is about to be written by the program.
    pub(super) fn wrote(&mut self, region: RegionId, page: usize) {
        self.regions.get_mut(&region).expect("a tracked region").open.insert(page);
    }

    pub(super) fn is_hinted(&self, region: RegionId) -> bool {
        self.regions[&region].hinted
    }

    pub(super) fn open_pages(&self, region: RegionId) -> usize {
        self.regions[&region].open.count()
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
        assert!(self.regions.insert(region, Tracked { open, hinted: false }).is_none(), "attached twice");
        Ok(())
    }

    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.attach(region, memory)?;
        self.tracked(region)?.hinted = true;
        Ok(())
    }

    fn detach(&mut self, region: RegionId) {
        assert!(self.regions.remove(&region).is_some(), "detached without being attached");
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        assert!(written.is_empty() && !self.is_hinted(region));
        self.call("collect", region)?;
        written.union_with(&self.tracked(region)?.open.clone());
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
            tracked.open.remove(page);
        }
        if refuse {
            return Err(TrackError::NotAttached(region));
        }
        failed
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        assert!(!pages.is_empty() && !self.is_hinted(region), "a call for nothing");
        let failed = self.call("before_restore", region);
        let stop_at = if failed.is_err() { pages.count() / 2 } else { usize::MAX };
        if self.protects_engine {
            let tracked = self.tracked(region)?;
            pages.iter().take(stop_at).for_each(|page| tracked.open.insert(page));
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
    let open = &tracker.regions[&region].open;
    let live = memory.read();
    for (page, (now, then)) in
        live.chunks(crate::PAGE_SIZE).zip(committed.chunks(crate::PAGE_SIZE)).enumerate()
    {
        assert!(now == then || open.contains(page), "page {page} of region {region} was written unseen");
    }
}
