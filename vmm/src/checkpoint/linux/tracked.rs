//! What is known of one region's pages: where each is, by what the program's page tables said last.

use std::collections::TryReserveError;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use cairn_abi::RegionId;
use cairn_engine::{PAGE_SIZE, PagePlaces, PageSet, Place};

use crate::checkpoint::linux::frames::{Claim, Content, DirtyLog, FrameLog, SessionIndex};
use crate::memory::layout::{LARGE_PAGE, PAGE, round_down, to_usize};
use crate::memory::walk::{Entry, Found};

/// What a page that was never touched holds. Never written: it is only ever handed out as read-only.
static ZERO: ZeroPage = ZeroPage([0; PAGE_SIZE]);

#[repr(align(4096))]
struct ZeroPage([u8; PAGE_SIZE]);

/// One region.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) id: RegionId,
    /// Its number among the session's regions, of which the claims of its frames tell.
    pub(super) number: u16,
    /// The program's address of its first byte.
    pub(super) address: u64,
    pub(super) places: Arc<PagePlaces>,
    pages: Vec<Page>,
    chunks: Vec<Chunk>,
    /// Pages that the log reported at the last look.
    pub(super) logged: PageSet,
    /// Pages that count as written for another reason, until they're protected: their frame is another one, or
    /// is nobody's claim, or the monitor wrote it.
    pub(super) open: PageSet,
    /// Whether the program was asked to settle it since the last look.
    pub(super) asked: bool,
    /// Rounds of settling that a request has cost so far.
    pub(super) rounds: u32,
}

/// What the tables say of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Now {
    /// It's in this frame, and may be written.
    Writable(u64),
    /// It's in this frame, and a write would fault.
    ReadOnly(u64),
    /// The entry is empty.
    Empty,
    /// It's somewhere else.
    Absent,
}

/// What is remembered of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    /// Nothing is known, or it wasn't there.
    Absent,
    /// Never touched: zeros.
    Zero,
    /// Its entry was empty at the last look, and it was zeros before (or not).
    Unsettled { zero: bool },
    /// In this frame, which the session has claimed for it.
    Claimed(u64),
    /// In this frame, read-only, which it shares with others: another page of zeros, a merged one, a child's.
    Shared,
}

/// 2 MiB of the region's addresses, or what of them the region has: what one table of the lowest level, or one
/// large page, maps.
#[derive(Debug)]
pub(super) struct Chunk {
    /// What the tables above the lowest said at the last look.
    pub(super) found: Option<Found>,
    /// Whether it must be looked at again, whatever the log says of its tables.
    pub(super) stale: bool,
    /// Whether its pages' entries were read since the last rollback: some may be clean.
    pub(super) read: bool,
    /// Whether some pages' entries were empty, and it isn't sure yet that nothing is there.
    pub(super) unsettled: bool,
}

impl Chunk {
    /// The frames of the tables that lead to the chunk's pages: the lowest one too, if there is one.
    pub(super) fn tables(&self) -> impl Iterator<Item = u64> {
        let lowest = self.found.and_then(|found| match found.leaf {
            Entry::Table(table, _) => Some(table),
            _ => None,
        });
        self.found.into_iter().flat_map(|found| found.path.tables()).chain(lowest)
    }
}

impl Tracked {
    pub(super) fn new(
        id: RegionId,
        number: u16,
        address: u64,
        places: Arc<PagePlaces>,
    ) -> Result<Self, TryReserveError> {
        let count = places.pages();
        let mut pages = Vec::new();
        pages.try_reserve_exact(count)?;
        pages.resize(count, Page::Absent);
        let end = address + count as u64 * PAGE;
        let chunks = (round_down(address, LARGE_PAGE)..end).step_by(to_usize(LARGE_PAGE));
        let chunks = chunks.map(|_| Chunk { found: None, stale: true, read: false, unsettled: false });
        let (logged, open) = (PageSet::new(count)?, PageSet::new(count)?);
        Ok(Self {
            id,
            number,
            address,
            places,
            pages,
            chunks: chunks.collect(),
            logged,
            open,
            asked: false,
            rounds: 0,
        })
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    pub(super) fn chunk_mut(&mut self, at: usize) -> &mut Chunk {
        &mut self.chunks[at]
    }

    /// The addresses of chunk `at` that are the region's.
    pub(super) fn chunk_range(&self, at: usize) -> Range<u64> {
        let start = round_down(self.address, LARGE_PAGE) + at as u64 * LARGE_PAGE;
        let end = self.address + self.pages.len() as u64 * PAGE;
        start.max(self.address)..(start + LARGE_PAGE).min(end)
    }

    /// The page at `address`, which is the region's.
    pub(super) fn page_at(&self, address: u64) -> usize {
        to_usize((address - self.address) / PAGE)
    }

    /// The program's address of `page`.
    pub(super) fn address_of(&self, page: usize) -> u64 {
        self.address + page as u64 * PAGE
    }

    /// The pages of chunk `at`.
    pub(super) fn chunk_pages(&self, at: usize) -> Range<usize> {
        let range = self.chunk_range(at);
        self.page_at(range.start)..self.page_at(range.end)
    }

    /// Takes note of what the tables say of `page`, which lies in chunk `chunk`.
    ///
    /// # Errors
    /// The page's frame can't be logged: the page counts as absent.
    pub(super) fn note<L: DirtyLog>(
        &mut self,
        frames: &mut FrameLog<L>,
        session: SessionIndex,
        (chunk, page): (usize, usize),
        now: Now,
    ) -> Result<(), L::Error> {
        let before = self.pages[page];
        let (after, place) = match now {
            Now::Writable(frame) => match frames.ram().frame(frame) {
                Some(pointer) => {
                    self.own(frames, session, page, frame)?;
                    (Page::Claimed(frame), Place::Writable(pointer))
                }
                None => (Page::Absent, Place::Absent),
            },
            Now::ReadOnly(frame) => match frames.ram().frame(frame) {
                Some(pointer) => {
                    let after = self.share(frames, session, page, frame)?;
                    (after, Place::ReadOnly(pointer))
                }
                None => (Page::Absent, Place::Absent),
            },
            Now::Empty => {
                self.chunks[chunk].unsettled = true;
                let zero = matches!(before, Page::Zero | Page::Unsettled { zero: true });
                (Page::Unsettled { zero }, Place::Absent)
            }
            Now::Absent => (Page::Absent, Place::Absent),
        };
        if let Page::Claimed(frame) = before
            && after != before
        {
            frames.release(session, self.claim(page, frame));
        }
        let may_have_changed = match after {
            // It may have come, been written, and gone again since its table was read last.
            Page::Absent | Page::Shared => true,
            // It's known when it's settled.
            Page::Unsettled { .. } | Page::Zero => false,
            Page::Claimed(_) => after != before,
        };
        if may_have_changed {
            self.open.insert(page);
        }
        self.pages[page] = after;
        self.put(page, place);
        Ok(())
    }

    /// The tables that lead to chunk `at` haven't changed since the last look, and the program has had the
    /// kernel finish what it was about: entries that are empty mean that nothing is there.
    pub(super) fn settle(&mut self, at: usize) {
        if !std::mem::take(&mut self.chunks[at].unsettled) {
            return;
        }
        for page in self.chunk_pages(at) {
            if let Page::Unsettled { zero } = self.pages[page] {
                self.pages[page] = Page::Zero;
                if !zero {
                    self.open.insert(page);
                }
                self.put(page, Place::ReadOnly(NonNull::from(&ZERO.0).cast()));
            }
        }
    }

    /// Where pages are whose entries are empty, and aren't settled.
    pub(super) fn unsettled(&self) -> Option<Range<u64>> {
        let first = self.chunks.iter().position(|chunk| chunk.unsettled)?;
        let last = self.chunks.iter().rposition(|chunk| chunk.unsettled).unwrap_or(first);
        Some(self.chunk_range(first).start..self.chunk_range(last).end)
    }

    /// Gives settling up: pages whose entries are empty are absent, until the program touches them.
    pub(super) fn give_up_settling(&mut self) {
        for at in 0..self.chunks.len() {
            if !std::mem::take(&mut self.chunks[at].unsettled) {
                continue;
            }
            for page in self.chunk_pages(at) {
                if let Page::Unsettled { .. } | Page::Zero = self.pages[page] {
                    self.pages[page] = Page::Absent;
                    self.open.insert(page);
                    self.put(page, Place::Absent);
                }
            }
        }
    }

    /// The frame that is claimed for `page`, if there is one.
    pub(super) fn claimed(&self, page: usize) -> Option<u64> {
        match self.pages.get(page) {
            Some(Page::Claimed(frame)) => Some(*frame),
            _ => None,
        }
    }

    /// The monitor wrote the page's frame; or somebody else has claimed it, and then it must be looked up again.
    pub(super) fn news(&mut self, page: usize, held: bool) {
        if self.pages.len() <= page {
            return;
        }
        self.open.insert(page);
        if !held {
            let chunk = (self.address_of(page) - round_down(self.address, LARGE_PAGE)) / LARGE_PAGE;
            self.chunks[to_usize(chunk)].stale = true;
        }
    }

    /// Gives all claims up.
    pub(super) fn release<L: DirtyLog>(&self, frames: &mut FrameLog<L>, session: SessionIndex) {
        for page in 0..self.pages.len() {
            if let Page::Claimed(frame) = self.pages[page] {
                frames.release(session, self.claim(page, frame));
            }
        }
    }

    /// Claims `frame`, which the program can write: it's the page's alone.
    fn own<L: DirtyLog>(
        &mut self,
        frames: &mut FrameLog<L>,
        session: SessionIndex,
        page: usize,
        frame: u64,
    ) -> Result<(), L::Error> {
        let claim = self.claim(page, frame);
        if !frames.holds(session, claim) {
            // It may have been lost and be claimed again: what happened meanwhile isn't known.
            self.open.insert(page);
            frames.claim(session, claim)?;
        }
        Ok(())
    }

    /// Claims `frame` if it's nobody's. A frame that isn't claimed can't be watched; but a page that may not
    /// be written changes only with its entry, and the tables are watched.
    fn share<L: DirtyLog>(
        &mut self,
        frames: &mut FrameLog<L>,
        session: SessionIndex,
        page: usize,
        frame: u64,
    ) -> Result<Page, L::Error> {
        let claim = self.claim(page, frame);
        let held = frames.holds(session, claim);
        if held || frames.claim_free(session, claim)? {
            if !held {
                self.open.insert(page);
            }
            return Ok(Page::Claimed(frame));
        }
        Ok(Page::Shared)
    }

    fn claim(&self, page: usize, frame: u64) -> Claim {
        let page = u32::try_from(page).unwrap_or(u32::MAX);
        Claim { frame, content: Content::Page(self.number, page) }
    }

    fn put(&self, page: usize, place: Place) {
        // SAFETY: the pointer is a frame of the guest's memory, which outlives the region (`FrameTracker` holds
        // both), is mapped readable and writable, and is never borrowed; or it's `ZERO`, which is read only.
        unsafe { self.places.set(page, place) };
    }
}
