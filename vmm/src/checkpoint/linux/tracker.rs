//! The tracker of one program in a Linux guest: its page tables say where its pages are, and the dirty log
//! which frames, of pages and of tables, were written.
//!
//! Before each operation there is a *look*: tables that were written since the last one are read again, others
//! aren't, so that an unchanged gigabyte costs nothing. A page counts as written if its frame was, or if it
//! isn't where it was. No vCPU runs from the look to the operation's end.
//!
//! An empty entry means a page of zeros that was never touched, or one that the kernel has in its hands just
//! now (it's collapsing a large page, moving or unmapping). The program finds out for us: a system call that
//! takes the kernel's locks, and then the tables haven't been written since, or have. This is *settling*.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_abi::reply::MAX_MISSING;
use cairn_abi::{RegionId, Span};
use cairn_engine::{LiveMemory, PageSet, Place, TrackError, Tracker};

use crate::checkpoint::linux::frames::{Claim, Content, DirtyLog, FrameLog, SessionIndex};
use crate::checkpoint::linux::tracked::{Now, Tracked};
use crate::memory::layout::PAGE;
use crate::memory::ram::Ram;
use crate::memory::walk::{Entry, Found, Paging, set_written};

/// Rounds of settling that one request may cost, in a guest whose kernel is at its page tables all the time;
/// after these the program touches the pages.
const MAX_SETTLES: u32 = 8;
/// Pages that the program is asked to touch at a time. More, and the first could be gone again before the last
/// is there, in a guest that swaps as hard as it can.
const MAX_TOUCHED: usize = 32;

/// The level of the table whose entries cover 2 MiB.
const CHUNK_LEVEL: u8 = 2;

/// Tracks the regions of one session.
#[derive(Debug)]
pub struct FrameTracker<L: DirtyLog> {
    frames: Arc<Mutex<FrameLog<L>>>,
    /// Beside `frames`, as it's read with and without its lock.
    ram: Arc<Ram>,
    session: SessionIndex,
    paging: Option<Paging>,
    /// Few, and found by id.
    regions: Vec<Tracked>,
    /// The frames of page tables, and through how many chunks' paths each is known.
    tables: HashMap<u64, u32>,
}

/// What the program has to do before an operation can go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Needed {
    /// Have the kernel finish what it has in hand.
    Settled(Vec<Span>),
    /// Touch pages.
    Touched(Vec<Span>),
}

impl<L: DirtyLog> FrameTracker<L> {
    /// A tracker without regions.
    #[must_use]
    pub fn new(frames: Arc<Mutex<FrameLog<L>>>, session: SessionIndex) -> Self {
        let ram = Arc::clone(lock(&frames).ram());
        let (regions, tables) = (Vec::new(), HashMap::new());
        Self { frames, ram, session, paging: None, regions, tables }
    }

    /// The page tables that the next operations go by.
    pub fn set_paging(&mut self, paging: Paging) {
        if self.paging.replace(paging).is_some_and(|before| before != paging) {
            self.distrust();
        }
    }

    /// Has the next look read all tables again.
    fn distrust(&mut self) {
        for region in &mut self.regions {
            for at in 0..region.chunks().len() {
                region.chunk_mut(at).stale = true;
            }
        }
    }

    /// Looks which pages were written, and where they all are. To be done before each operation, with the
    /// vCPUs paused from here to the operation's end. `settled` says that the program has done what
    /// [`unsettled`](Self::unsettled) asked for last.
    ///
    /// # Errors
    /// What was written isn't known.
    pub fn look(&mut self, settled: bool) -> Result<(), L::Error> {
        let looked = self.try_look(settled);
        if looked.is_err() {
            // What was learned in part and not acted on would be missed the next time.
            self.distrust();
        }
        looked
    }

    fn try_look(&mut self, settled: bool) -> Result<(), L::Error> {
        let Some(paging) = self.paging else { return Ok(()) };
        let frames = Arc::clone(&self.frames);
        let mut frames = lock(&frames);
        let stale = self.read_log(&mut frames)?;
        let mut fresh = HashSet::new();
        for at in 0..self.regions.len() {
            for chunk in 0..self.regions[at].chunks().len() {
                let known = &self.regions[at].chunks()[chunk];
                if known.stale || (!stale.is_empty() && known.tables().any(|table| stale.contains(&table))) {
                    self.look_at_chunk(&mut frames, &paging, (at, chunk), &stale, &mut fresh)?;
                } else if settled && self.regions[at].asked {
                    self.regions[at].settle(chunk);
                }
            }
            self.regions[at].asked = false;
        }
        // What was read is as of now, and is watched from now on.
        let watched = stale.into_iter().filter(|table| self.tables.contains_key(table));
        frames.protect(watched.chain(fresh).collect::<HashSet<_>>().into_iter())
    }

    /// What must be settled before an operation can go on: where the look found empty entries.
    pub fn unsettled(&mut self) -> Option<Needed> {
        let mut spans = Vec::new();
        for region in &mut self.regions {
            let Some(range) = region.unsettled() else {
                region.rounds = 0;
                continue;
            };
            if MAX_SETTLES <= region.rounds {
                region.give_up_settling();
            } else if spans.len() < MAX_MISSING {
                region.asked = true;
                region.rounds += 1;
                spans.push(Span { address: range.start, len: range.end - range.start });
            }
        }
        (!spans.is_empty()).then_some(Needed::Settled(spans))
    }

    /// What the program has to touch: the first of the runs of pages that the engine misses.
    #[must_use]
    pub fn touch(&self, absent: impl Iterator<Item = (RegionId, Range<usize>)>) -> Needed {
        let (mut spans, mut pages) = (Vec::new(), 0);
        for (id, run) in absent {
            let Some(region) = self.region(id) else { continue };
            if spans.len() == MAX_MISSING || MAX_TOUCHED <= pages {
                break;
            }
            let count = run.len().min(MAX_TOUCHED - pages);
            pages += count;
            spans.push(Span { address: region.address_of(run.start), len: count as u64 * PAGE });
        }
        Needed::Touched(spans)
    }

    /// Makes pages dirty that a program may write: those that are clean, its kernel may drop (a program that gave
    /// them up by MADV_FREE, and now has them back by a rollback that found nothing to write).
    pub fn keep_pages(&mut self) {
        let Some(paging) = self.paging else { return };
        for region in &mut self.regions {
            for chunk in 0..region.chunks().len() {
                if !std::mem::take(&mut region.chunk_mut(chunk).read) {
                    continue;
                }
                for page in region.chunk_pages(chunk) {
                    if let Place::Writable(_) = region.places.get(page) {
                        write_as_program(&self.ram, &paging, region.address_of(page));
                    }
                }
            }
        }
    }

    /// Reads the log into the regions' sets. Answers the tables that may have been written.
    fn read_log(&mut self, frames: &mut FrameLog<L>) -> Result<HashSet<u64>, L::Error> {
        let mut stale = HashSet::new();
        let mut news = Vec::new();
        let regions = &mut self.regions;
        for region in regions.iter_mut() {
            region.logged.clear();
        }
        let read = frames.written(
            self.session,
            |claim| match claim.content {
                Content::Table => {
                    stale.insert(claim.frame);
                }
                Content::Page(number, page) => {
                    if let Some(region) = regions.iter_mut().find(|region| region.number == number) {
                        region.logged.insert(page as usize);
                    }
                }
            },
            |claim| news.push(claim),
        );
        // Also where the log couldn't be read: they are told of once.
        for claim in news {
            match claim.content {
                Content::Table => {
                    stale.insert(claim.frame);
                }
                Content::Page(number, page) => {
                    if let Some(region) = self.regions.iter_mut().find(|region| region.number == number) {
                        region.news(page as usize, frames.holds(self.session, claim));
                    }
                }
            }
        }
        read.map(|()| stale)
    }

    /// Reads the tables of one chunk again. Tables that are new go to `fresh`.
    fn look_at_chunk(
        &mut self,
        frames: &mut FrameLog<L>,
        paging: &Paging,
        (at, chunk): (usize, usize),
        stale: &HashSet<u64>,
        fresh: &mut HashSet<u64>,
    ) -> Result<(), L::Error> {
        let region = &mut self.regions[at];
        let start = region.chunk_range(chunk).start;
        let found = paging.walk(&self.ram, start, CHUNK_LEVEL);
        let before: Vec<u64> = region.chunks()[chunk].tables().collect();
        let known = region.chunk_mut(chunk);
        let same = !known.stale && found == known.found;
        // Until it's done: a failure in between leaves it to be looked at again.
        known.stale = true;
        known.found = found;
        let after: Vec<u64> = region.chunks()[chunk].tables().collect();
        if before != after {
            self.know_tables(frames, &before, &after, fresh)?;
        } else {
            self.reclaim_tables(frames, &after, fresh)?;
        }
        match found {
            Some(Found { leaf: Entry::Table(table, _), .. }) if same && !stale.contains(&table) => {}
            Some(Found { leaf: Entry::Page(..), .. }) if same => {}
            // Its pages are zeros still, or they have been something in between.
            Some(Found { leaf: Entry::Empty, .. }) if same => {
                self.regions[at].chunk_mut(chunk).unsettled = true;
            }
            found => self.look_at_pages(frames, paging, (at, chunk), found)?,
        }
        // Where a table isn't memory nothing can be watched.
        self.regions[at].chunk_mut(chunk).stale = found.is_none();
        Ok(())
    }

    /// Notes where the pages of a chunk are.
    fn look_at_pages(
        &mut self,
        frames: &mut FrameLog<L>,
        paging: &Paging,
        (at, chunk): (usize, usize),
        found: Option<Found>,
    ) -> Result<(), L::Error> {
        let region = &mut self.regions[at];
        region.chunk_mut(chunk).unsettled = false;
        region.chunk_mut(chunk).read = true;
        for page in region.chunk_pages(chunk) {
            let now = now(&self.ram, paging, region.address_of(page), found);
            region.note(frames, self.session, (chunk, page), now)?;
        }
        Ok(())
    }

    /// A chunk is reached through other tables than before.
    fn know_tables(
        &mut self,
        frames: &mut FrameLog<L>,
        before: &[u64],
        after: &[u64],
        fresh: &mut HashSet<u64>,
    ) -> Result<(), L::Error> {
        for table in after {
            *self.tables.entry(*table).or_insert(0) += 1;
        }
        self.forget_tables(frames, before);
        self.reclaim_tables(frames, after, fresh)
    }

    fn forget_tables(&mut self, frames: &mut FrameLog<L>, before: &[u64]) {
        for table in before {
            let Some(uses) = self.tables.get_mut(table) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.tables.remove(table);
                frames.release(self.session, Claim { frame: *table, content: Content::Table });
            }
        }
    }

    /// Claims the tables of a chunk that aren't claimed.
    fn reclaim_tables(
        &self,
        frames: &mut FrameLog<L>,
        tables: &[u64],
        fresh: &mut HashSet<u64>,
    ) -> Result<(), L::Error> {
        for table in tables {
            let claim = Claim { frame: *table, content: Content::Table };
            if !frames.holds(self.session, claim) {
                frames.claim(self.session, claim)?;
                fresh.insert(*table);
            }
        }
        Ok(())
    }

    /// A number that no region has.
    fn free_number(&self) -> u16 {
        let taken = |number: &u16| self.regions.iter().any(|region| region.number == *number);
        (0..u16::MAX).find(|number| !taken(number)).unwrap_or(u16::MAX)
    }

    fn region(&self, id: RegionId) -> Option<&Tracked> {
        self.regions.iter().find(|region| region.id == id)
    }

    fn region_mut(&mut self, id: RegionId) -> Result<&mut Tracked, TrackError> {
        self.regions.iter_mut().find(|region| region.id == id).ok_or(TrackError::NotAttached(id))
    }
}

impl<L: DirtyLog> Tracker for FrameTracker<L> {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let no_memory =
            |_| refused("allocation", region)(std::io::Error::from(std::io::ErrorKind::OutOfMemory));
        let Some(places) = memory.places() else {
            let error = std::io::Error::other("the region's memory is contiguous here, a program's is not");
            return Err(refused("registration", region)(error));
        };
        let number = self.free_number();
        let tracked =
            Tracked::new(region, number, memory.address(), Arc::clone(places)).map_err(no_memory)?;
        self.regions.push(tracked);
        // All of it is found by the next look.
        Ok(())
    }

    /// Its pages are never protected; but where they are has to be known.
    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.attach(region, memory)
    }

    fn detach(&mut self, region: RegionId) {
        let Some(at) = self.regions.iter().position(|tracked| tracked.id == region) else { return };
        let gone = self.regions.remove(at);
        let frames = Arc::clone(&self.frames);
        let mut frames = lock(&frames);
        gone.release(&mut frames, self.session);
        for chunk in gone.chunks() {
            let tables: Vec<u64> = chunk.tables().collect();
            self.forget_tables(&mut frames, &tables);
        }
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        let tracked = self.region_mut(region)?;
        written.union_with(&tracked.logged);
        written.union_with(&tracked.open);
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let frames = Arc::clone(&self.frames);
        let tracked = self.region_mut(region)?;
        for page in pages {
            tracked.open.remove(page);
            tracked.logged.remove(page);
        }
        let claimed = pages.iter().filter_map(|page| tracked.claimed(page));
        lock(&frames).protect(claimed).map_err(refused("KVM_CLEAR_DIRTY_LOG", region))
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        let Some(paging) = self.paging else { return Ok(()) };
        let ram = Arc::clone(&self.ram);
        let tracked = self.region_mut(region)?;
        for page in pages {
            if let Place::Writable(_) = tracked.places.get(page) {
                write_as_program(&ram, &paging, tracked.address_of(page));
            }
        }
        Ok(())
    }
}

impl<L: DirtyLog> Drop for FrameTracker<L> {
    fn drop(&mut self) {
        let regions: Vec<_> = self.regions.iter().map(|region| region.id).collect();
        for region in regions {
            self.detach(region);
        }
    }
}

/// Sets the bits that a store of the program to `address` would set, where it may store.
fn write_as_program(ram: &Ram, paging: &Paging, address: u64) {
    let Some(found) = paging.walk(ram, address, 1) else { return };
    for table in set_written(ram, &found.path) {
        ram.mark(table);
    }
}

/// What the tables say of the page at `address`, in a chunk whose entry is `found`.
fn now(ram: &Ram, paging: &Paging, address: u64, found: Option<Found>) -> Now {
    let Some(found) = found else { return Now::Absent };
    let leaf = match found.leaf {
        Entry::Table(table, rights) => {
            let entry = table + address / PAGE % crate::memory::walk::ENTRIES * 8;
            let raw = ram.word(entry).map(|word| word.load(std::sync::atomic::Ordering::Relaxed));
            raw.map_or(Entry::Absent, |raw| paging.decode(raw, 1).within(rights))
        }
        Entry::Page(start, rights) => {
            Entry::Page(start + address % Paging::reach(found.level) / PAGE * PAGE, rights)
        }
        other => other,
    };
    match leaf {
        Entry::Page(frame, rights) if rights.user && rights.write => Now::Writable(frame),
        Entry::Page(frame, rights) if rights.user => Now::ReadOnly(frame),
        Entry::Empty => Now::Empty,
        _ => Now::Absent,
    }
}

fn lock<L>(frames: &Mutex<FrameLog<L>>) -> MutexGuard<'_, FrameLog<L>> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    call: &'static str,
    region: RegionId,
) -> impl FnOnce(E) -> TrackError {
    move |error| TrackError::Os { call, region, source: std::io::Error::other(error) }
}
