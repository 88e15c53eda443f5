//! One region whose written pages are frozen.

use std::ops::Range;

use cairn_abi::RegionId;

use crate::access::Access;
use crate::delta::Delta;
use crate::mirror::Mirror;
use crate::region::Passed;
use crate::{EngineError, FrozenPages, LiveMemory, PAGE_SIZE, PageSet};

/// Pages of a large page of the processor: what is held in one is taken and thawed at once, so that the host needn't
/// split the large page to let go of a part. Few in tests, whose regions are small.
const BATCH_PAGES: usize = if cfg!(test) { 8 } else { 512 };
/// Clean pages between two written ones that are held too. By docs/performance.md one call costs what holding
/// about 30 pages does.
const MAX_GAP: usize = if cfg!(test) { 2 } else { 32 };
/// Pages that are asked for ahead of the one that is compared, as when a region is taken at once.
const PREFETCH_PAGES: usize = 2;

/// A region's mirror and sets while its pages are taken.
#[derive(Debug)]
pub(crate) struct FrozenRegion {
    pub(crate) id: RegionId,
    pub(crate) mirror: Mirror,
    /// What the tracker reported.
    pub(crate) written: PageSet,
    /// What differed from the mirror.
    pub(crate) changed: PageSet,
    /// What nobody can write: at first `written`, with small gaps closed.
    pub(crate) held: PageSet,
    /// Whether the root version has the region.
    pub(crate) in_root: bool,
    pub(crate) live: LiveMemory,
    pub(crate) frozen: Box<dyn FrozenPages>,
    /// Where the next held page is sought first.
    pub(crate) cursor: usize,
}

/// Makes `held` the pages of `written`, with small gaps closed.
pub(crate) fn close_gaps(written: &PageSet, held: &mut PageSet) {
    held.clear();
    let mut end: Option<usize> = None;
    for run in written.runs() {
        let start = end.filter(|end| run.start - end <= MAX_GAP).unwrap_or(run.start);
        held.insert_run(start..run.end);
        end = Some(run.end);
    }
}

impl FrozenRegion {
    pub(crate) fn table_bytes(&self) -> u64 {
        let sets = self.written.bytes() + self.changed.bytes() + self.held.bytes();
        (size_of::<Self>() + sets + self.mirror.table_bytes()) as u64
    }

    /// The page that `address` of this process is in.
    pub(super) fn page_at(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.live.address())?;
        let page = usize::try_from(offset).ok()? / PAGE_SIZE;
        (page < self.live.pages()).then_some(page)
    }

    pub(super) fn is_held(&self, page: usize) -> bool {
        self.held.contains(page)
    }

    /// The next page that must be taken or thawed: the first from where the last batch ended, round the end.
    pub(super) fn next_held(&self) -> Option<usize> {
        self.held.next_page(self.cursor).or_else(|| self.held.next_page(0))
    }

    /// The held pages around `page`, one of them, without a gap and in one large page.
    pub(super) fn batch_around(&self, page: usize) -> Range<usize> {
        // The region needn't begin where a large page does.
        let before = self.live.base().map_or(0, |base| base.addr().get() / PAGE_SIZE % BATCH_PAGES);
        let first = ((before + page) / BATCH_PAGES * BATCH_PAGES).saturating_sub(before);
        let end = (before + page) / BATCH_PAGES * BATCH_PAGES + BATCH_PAGES - before;
        let start = (first..page).rev().take_while(|page| self.held.contains(*page)).last().unwrap_or(page);
        start..self.held.next_gap(page).min(end)
    }

    /// Makes the mirror equal to live memory in `batch`, as far as that was written. The mirror's former bytes go to
    /// `old`.
    pub(super) fn take(
        &mut self,
        access: Access,
        batch: Range<usize>,
        old: &mut Delta,
    ) -> Result<Passed, EngineError> {
        let mut passed = Passed::default();
        let Some(old) = old.open(1)?.first_mut() else { return Ok(passed) };
        let mut mirror = self.mirror.whole();
        let mut next = self.written.next_page(batch.start);
        while let Some(page) = next.filter(|page| *page < batch.end) {
            next = self.written.next_page(page + 1);
            let ahead = Some(page + PREFETCH_PAGES).filter(|page| self.written.contains(*page));
            old.reserve_page()?;
            let taken = access.take(&self.live, &mut mirror, page, ahead, old.chunks_mut())?;
            // Memory in one piece is always there, and no other is frozen.
            let Some(taken) = taken else { continue };
            passed.compared += 1;
            if taken.mask == 0 {
                continue;
            }
            passed.changed += 1;
            self.changed.insert(page);
            if self.in_root {
                old.commit_page(self.id, page, taken);
            } else {
                old.drop_page(taken);
            }
        }
        Ok(passed)
    }

    /// Thaws a batch that was taken.
    pub(super) fn end_batch(&mut self, batch: Range<usize>) {
        self.cursor = batch.end;
        self.held.remove_run(batch.clone());
        self.frozen.taken(batch, &self.written);
    }

    /// Thaws a page that was taken before: its writer came late.
    pub(super) fn thaw(&self, page: usize) {
        self.frozen.thaw(page..page + 1);
    }

    /// Thaws what is still held.
    pub(crate) fn thaw_all(&self) {
        self.held.runs().for_each(|run| self.frozen.thaw(run));
    }
}
