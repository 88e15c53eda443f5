//! The program's address space: what is mapped where, and every change of it.
//!
//! A change goes to four places, in an order that never leaves the program more than it may have: the
//! list of mappings here, the page tables, the window (the VMM's own mapping, from which KVM learns of
//! it), and the plain spans that other threads read memory by.

mod arriving;
mod devices;
mod frozen;
mod moves;
mod own_files;

pub use arriving::{Arrival, Arriving};
pub use frozen::UnfreezableError;

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use rangemap::RangeMap;

use crate::guest::app::mapping::{Content, FileBytes, FileSource, Mapping, Place, SpaceError};
use crate::kvm::slots::SlotMap;
use crate::memory::layout::{
    LARGE_PAGE, MMAP_BOTTOM, PAGE, PCI_REGISTERS, STACK_SIZE, STACK_TOP, is_program, round_down, round_up,
};
use crate::memory::page_table::PageTables;
use crate::memory::program::ProgramMemory;
use crate::memory::rights::Rights;

/// Most mappings that a program may have (Linux: vm.max_map_count). In the window each takes two of the
/// host's own mappings at most, itself and the gap after it, of which the host gives a process 65,530.
const MAX_MAPPINGS: usize = 30_000;
/// Bytes that the paths of a program's mappings may have together, so that neither they nor what is made of them, such
/// as the list in /proc, takes more of the monitor's memory: 500 for each of the most mappings.
const MAX_PATHS: usize = 16 << 20;

/// Who has registered regions in the program's memory, and hears what is about to become of it.
pub trait RegionOwner: Send {
    /// Memory changes its place or its rights: what regions are in `range` end first. No new one can be made there.
    fn vacate(&self, range: &Range<u64>);

    /// The content of `range` is dropped: who still has to read it does so first.
    fn read_all(&self, range: &Range<u64>);
}

/// The address space.
pub struct AddressSpace {
    memory: Arc<ProgramMemory>,
    slots: Arc<Mutex<SlotMap>>,
    tables: PageTables,
    mappings: RangeMap<u64, Mapping>,
    /// How often `mappings` changed, or the page tables without it.
    changes: u64,
    heap: Range<u64>,
    limit: u64,
    owner: Option<Box<dyn RegionOwner>>,
    /// Who brings content that isn't there yet, in a program that was brought back.
    arriving: Option<Arriving>,
    /// Whether the program gets back what it had.
    thaws: bool,
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressSpace")
            .field("mappings", &self.mappings)
            .field("heap", &self.heap)
            .finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// Nothing mapped yet; private memory is limited to `limit` bytes.
    #[must_use]
    pub fn new(
        memory: Arc<ProgramMemory>,
        slots: Arc<Mutex<SlotMap>>,
        tables: PageTables,
        limit: u64,
    ) -> Self {
        Self {
            memory,
            slots,
            tables,
            mappings: RangeMap::new(),
            changes: 0,
            heap: 0..0,
            limit,
            owner: None,
            arriving: None,
            thaws: false,
        }
    }

    /// Who ends regions whose memory goes away.
    pub fn set_region_owner(&mut self, owner: Box<dyn RegionOwner>) {
        self.owner = Some(owner);
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<ProgramMemory> {
        &self.memory
    }

    /// The page tables.
    pub fn tables_mut(&mut self) -> &mut PageTables {
        &mut self.tables
    }

    /// All mappings, by address.
    pub fn mappings(&self) -> impl Iterator<Item = (&Range<u64>, &Mapping)> {
        self.mappings.iter()
    }

    /// The mapping at `address`.
    #[must_use]
    pub fn mapping(&self, address: u64) -> Option<(&Range<u64>, &Mapping)> {
        self.mappings.get_key_value(&address)
    }

    /// How often mappings changed. As long as it stays, so do the page tables.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes of private memory that the program may have.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that count against the limit.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.mappings.iter().map(|(range, mapping)| mapping.charge(range)).sum()
    }

    /// The highest gap of `len` bytes (page-aligned), aligned to `align`.
    #[must_use]
    pub fn find(&self, len: u64, align: u64) -> Option<u64> {
        // A large page below the stack stays free: an overflow faults there.
        let whole = MMAP_BOTTOM..STACK_TOP - STACK_SIZE - LARGE_PAGE;
        let fits = |gap: Range<u64>| {
            let start = round_down(gap.end.checked_sub(len)?, align);
            (gap.start <= start).then_some(start)
        };
        self.mappings.gaps(&whole).filter_map(fits).last()
    }

    /// Maps zeroed memory.
    ///
    /// # Errors
    /// [`SpaceError`]; nothing has changed then.
    pub fn map_anonymous(&mut self, place: Place, rights: Rights) -> Result<Range<u64>, SpaceError> {
        self.map_memory(place, rights, Content::Anonymous)
    }

    /// Maps zeroed memory that a fork would share.
    ///
    /// # Errors
    /// [`SpaceError`]; nothing has changed then.
    pub fn map_shared(&mut self, place: Place, rights: Rights) -> Result<Range<u64>, SpaceError> {
        self.map_memory(place, rights, Content::Shared)
    }

    /// Maps a file.
    ///
    /// # Errors
    /// [`SpaceError`], `Host` with what mmap says of the descriptor.
    pub fn map_file(
        &mut self,
        place: Place,
        rights: Rights,
        shared: bool,
        file: BorrowedFd<'_>,
        source: FileSource,
    ) -> Result<Range<u64>, SpaceError> {
        let range = self.place(place, PAGE)?;
        let delta = source.offset.wrapping_sub(range.start);
        let bytes = if shared { FileBytes::Shared } else { FileBytes::Private };
        let mapping =
            Mapping::new(rights, Content::File { path: source.path, delta, bytes, own: source.own });
        let offset = i64::try_from(source.offset).map_err(|_| SpaceError::Range)?;
        self.admit(&range, &mapping)?;
        self.release(&range)?;
        let placed = self.memory.window().place_file(range.clone(), rights.host(), shared, file, offset);
        placed.map_err(SpaceError::Host)?;
        self.enter(range, mapping)
    }

    /// Unmaps whatever is in `range`.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn unmap(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if PCI_REGISTERS.start <= range.start && range.end <= PCI_REGISTERS.end {
            self.unmap_device(range);
            return Ok(());
        }
        if !is_program(range) {
            return Err(SpaceError::Range);
        }
        let splits = self
            .mappings
            .get_key_value(&range.start)
            .is_some_and(|(whole, _)| whole.start < range.start && range.end < whole.end);
        if splits {
            self.check_count()?;
        }
        self.release(range)
    }

    /// Unmaps everything, as for another program.
    ///
    /// # Errors
    /// [`SpaceError`]; a part may be unmapped then.
    pub fn clear(&mut self) -> Result<(), SpaceError> {
        while let Some((range, _)) = self.mappings.iter().next() {
            let range = range.clone();
            self.unmap(&range)?;
        }
        self.heap = 0..0;
        Ok(())
    }

    /// Changes the rights on all of `range`.
    ///
    /// # Errors
    /// [`SpaceError::Host`] with ENOMEM when a part isn't mapped, as Linux answers; EACCES when a
    /// shared file wasn't opened for it.
    pub fn protect(&mut self, range: &Range<u64>, rights: Rights) -> Result<(), SpaceError> {
        if self.mappings.gaps(range).next().is_some() || !is_program(range) {
            return Err(SpaceError::Host(Errno::ENOMEM));
        }
        self.check_count()?;
        let pieces: Vec<(Range<u64>, Mapping)> = self
            .mappings
            .overlapping(range)
            .map(|(piece, mapping)| (clip(piece, range), mapping.clone()))
            .collect();
        let more =
            pieces.iter().filter(|(_, mapping)| rights.write && !mapping.charged && mapping.is_private());
        self.check_limit(more.map(|(piece, _)| piece.end - piece.start).sum())?;
        for (piece, mapping) in pieces {
            self.protect_piece(&piece, mapping, rights)?;
        }
        self.settle()
    }

    /// Moves the end of the heap to `end`, if there is room; answers where the end is now.
    pub fn set_heap_end(&mut self, end: u64) -> u64 {
        let (Some(mapped), Some(wanted)) = (round_up(self.heap.end, PAGE), round_up(end, PAGE)) else {
            return self.heap.end;
        };
        if end < self.heap.start {
            return self.heap.end;
        }
        let done = if mapped < wanted {
            self.map_memory(Place::IfFree(mapped..wanted), Rights::DATA, Content::Heap).map(drop)
        } else if wanted < mapped {
            self.unmap(&(wanted..mapped))
        } else {
            Ok(())
        };
        if done.is_ok() {
            self.heap.end = end;
        }
        self.heap.end
    }

    /// The heap begins at `start` and is empty.
    pub fn start_heap(&mut self, start: u64) {
        self.heap = start..start;
    }

    /// Maps the stack.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn map_stack(&mut self) -> Result<(), SpaceError> {
        self.map_memory(Place::Exactly(STACK_TOP - STACK_SIZE..STACK_TOP), Rights::DATA, Content::Stack)
            .map(drop)
    }

    /// Maps the vDSO, one page; answers where.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn map_vdso(&mut self, image: &[u8]) -> Result<u64, SpaceError> {
        let range = self.map_memory(Place::Anywhere(PAGE), Rights::DATA, Content::Vdso)?;
        self.memory.write_bytes(range.start, image).map_err(SpaceError::Host)?;
        self.protect(&range, Rights { read: true, write: false, execute: true })?;
        Ok(range.start)
    }

    fn map_memory(
        &mut self,
        place: Place,
        rights: Rights,
        content: Content,
    ) -> Result<Range<u64>, SpaceError> {
        let align = align_for(place.length());
        let range = self.place(place, align)?;
        let mapping = Mapping::new(rights, content);
        self.admit(&range, &mapping)?;
        self.release(&range)?;
        let window = self.memory.window();
        window.place_anonymous(range.clone(), rights.host()).map_err(SpaceError::Host)?;
        if LARGE_PAGE <= range.end - range.start {
            // Advice only: without it the memory is as good, just slower to touch first.
            let _ = window.advise(&range, MmapAdvise::MADV_HUGEPAGE);
        }
        self.enter(range, mapping)
    }

    /// Chooses the range of a new mapping.
    fn place(&self, place: Place, align: u64) -> Result<Range<u64>, SpaceError> {
        let valid = |range: Range<u64>| {
            if is_program(&range) { Ok(range) } else { Err(SpaceError::Host(Errno::ENOMEM)) }
        };
        match place {
            Place::Exactly(range) => valid(range),
            Place::IfFree(range) => {
                let range = valid(range)?;
                if self.is_free(&range) { Ok(range) } else { Err(SpaceError::Taken) }
            }
            Place::Near(range) if is_program(&range) && self.is_free(&range) => Ok(range),
            Place::Near(range) => self.place(Place::Anywhere(range.end.saturating_sub(range.start)), align),
            Place::Anywhere(len) => {
                let start = self.find(len, align).or_else(|| self.find(len, PAGE)).ok_or(SpaceError::Full)?;
                valid(start..start + len)
            }
        }
    }

    fn is_free(&self, range: &Range<u64>) -> bool {
        !self.mappings.overlaps(range)
    }

    /// Whether there may be more mappings. A change makes two more at most, where it cuts one in three. What a program
    /// had it gets back, which may be as much more as its last change made.
    fn check_count(&self) -> Result<(), SpaceError> {
        if self.thaws {
            return Ok(());
        }
        let paths: usize = self.mappings.iter().map(|(_, mapping)| mapping.content.path().len()).sum();
        let fits = self.mappings.len() < MAX_MAPPINGS && paths < MAX_PATHS;
        if fits { Ok(()) } else { Err(SpaceError::Host(Errno::ENOMEM)) }
    }

    /// Checks the limits and makes sure of memslots, before anything changes.
    fn admit(&self, range: &Range<u64>, mapping: &Mapping) -> Result<(), SpaceError> {
        self.check_count()?;
        if mapping.charged {
            let replaced: u64 =
                self.mappings.overlapping(range).map(|(piece, old)| old.charge(&clip(piece, range))).sum();
            self.check_limit((range.end - range.start).saturating_sub(replaced))?;
        }
        Ok(self.slots.lock().unwrap_or_else(PoisonError::into_inner).ensure(range)?)
    }

    fn check_limit(&self, more: u64) -> Result<(), SpaceError> {
        let fits = self.charged().checked_add(more).is_some_and(|sum| sum <= self.limit);
        if fits { Ok(()) } else { Err(SpaceError::Memory { limit: self.limit }) }
    }

    /// Has `range` in the list of mappings.
    fn list(&mut self, range: Range<u64>, mapping: Mapping) {
        self.changes += 1;
        self.mappings.insert(range, mapping);
    }

    /// Takes `range` from the list of mappings.
    fn strike(&mut self, range: Range<u64>) {
        self.changes += 1;
        self.mappings.remove(range);
    }

    /// Takes away whatever is in `range`.
    fn release(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if range.is_empty() || self.is_free(range) {
            return Ok(());
        }
        self.leave(range);
        self.cancel_arrival(range);
        self.tables.map(range, Rights::NONE, false);
        if let Err(errno) = self.memory.window().clear(range.clone()) {
            self.reinstate(range);
            return Err(SpaceError::Host(errno));
        }
        self.memory.renew(range);
        self.strike(range.clone());
        self.settle()
    }

    /// After a change of the window that the host refused: the page tables and the plain spans say again
    /// what the list of mappings says.
    fn reinstate(&mut self, range: &Range<u64>) {
        self.changes += 1;
        for (piece, mapping) in self.mappings.overlapping(range) {
            let piece = clip(piece, range);
            self.tables.map(&piece, mapping.rights, mapping.is_memory());
            if mapping.is_plain() {
                self.memory.plain_mut().insert(piece);
            }
        }
    }

    /// Sees to it that nobody reads `range` by pointers any more.
    fn leave(&mut self, range: &Range<u64>) {
        // First this, so that no region is made there after those that are have ended.
        self.memory.plain_mut().remove(range.clone());
        if let Some(owner) = self.watched_by(range) {
            owner.vacate(range);
        }
    }

    /// Who has regions in `range`, if anybody has.
    fn watched_by(&self, range: &Range<u64>) -> Option<&dyn RegionOwner> {
        self.owner.as_deref().filter(|_| self.memory.is_watched(range))
    }

    /// Lets the program have a range whose window is ready.
    fn enter(&mut self, range: Range<u64>, mapping: Mapping) -> Result<Range<u64>, SpaceError> {
        self.tables.map(&range, mapping.rights, mapping.is_memory());
        self.memory.renew(&range);
        if mapping.is_plain() {
            self.memory.plain_mut().insert(range.clone());
        }
        self.list(range.clone(), mapping);
        self.settle()?;
        Ok(range)
    }

    fn protect_piece(
        &mut self,
        piece: &Range<u64>,
        mut mapping: Mapping,
        rights: Rights,
    ) -> Result<(), SpaceError> {
        let old = mapping.rights;
        mapping.charged |= rights.write && mapping.is_private();
        mapping.rights = rights;
        let narrower = !rights.includes(old);
        if narrower || !mapping.is_plain() {
            self.leave(piece);
        }
        if narrower {
            let window = self.memory.window();
            self.tables.map(piece, rights, false);
            // Through "no access", so that KVM drops what it derived even if the host's rights don't
            // change (execution isn't among them).
            let narrowed = window.protect(piece, Rights::NONE.host());
            if let Err(errno) = narrowed {
                self.reinstate(piece);
                return Err(SpaceError::Host(errno));
            }
        }
        if let Err(errno) = self.memory.window().protect(piece, rights.host()) {
            // It was cut out by the step before, if at all, so that this one finds it whole.
            let _ = self.memory.window().protect(piece, old.host());
            self.reinstate(piece);
            return Err(SpaceError::Host(errno));
        }
        self.tables.map(piece, rights, mapping.is_memory());
        if mapping.is_plain() {
            self.memory.plain_mut().insert(piece.clone());
        }
        self.list(piece.clone(), mapping);
        Ok(())
    }

    /// Makes KVM forget, if the page tables changed in a way that it can't follow.
    fn settle(&mut self) -> Result<(), SpaceError> {
        if self.tables.take_stale() {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).forget()?;
        }
        Ok(())
    }
}

fn clip(piece: &Range<u64>, range: &Range<u64>) -> Range<u64> {
    piece.start.max(range.start)..piece.end.min(range.end)
}

fn align_for(len: u64) -> u64 {
    if LARGE_PAGE <= len { LARGE_PAGE } else { PAGE }
}
