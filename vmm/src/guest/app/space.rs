//! The program's address space: what is mapped where, and every change of it.
//!
//! A change goes to four places, in an order that never leaves the program more than it may have: the
//! list of mappings here, the page tables, the window (the VMM's own mapping, from which KVM learns of
//! it), and the plain spans that other threads read memory by.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use rangemap::RangeMap;

use crate::guest::app::mapping::{Content, FileSource, Mapping, Place, SpaceError};
use crate::kvm::slots::SlotMap;
use crate::memory::layout::{
    LARGE_PAGE, MMAP_BOTTOM, PAGE, PCI_REGISTERS, STACK_SIZE, STACK_TOP, is_program, round_down, round_up,
    to_usize,
};
use crate::memory::page_table::PageTables;
use crate::memory::program::ProgramMemory;
use crate::memory::rights::Rights;

/// Called before memory of a registered region changes its place or its rights, so that the region
/// ends first.
pub type Vacate = Box<dyn Fn(&Range<u64>) + Send>;

/// The address space.
pub struct AddressSpace {
    memory: Arc<ProgramMemory>,
    slots: Arc<Mutex<SlotMap>>,
    tables: PageTables,
    mappings: RangeMap<u64, Mapping>,
    heap: Range<u64>,
    limit: u64,
    vacate: Option<Vacate>,
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
        Self { memory, slots, tables, mappings: RangeMap::new(), heap: 0..0, limit, vacate: None }
    }

    /// Who ends regions whose memory goes away.
    pub fn set_vacate(&mut self, vacate: Vacate) {
        self.vacate = Some(vacate);
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
        let mapping = Mapping::new(rights, Content::File { path: source.path, delta, shared });
        self.admit(&range, &mapping)?;
        let offset = i64::try_from(source.offset).map_err(|_| SpaceError::Range)?;
        self.release(&range)?;
        let placed = self.memory.window().place_file(range.clone(), rights.host(), shared, file, offset);
        placed.map_err(SpaceError::Host)?;
        self.enter(range, mapping)
    }

    /// Maps the registers at `offset` of the PCI functions' span, where they are: a program can't
    /// choose.
    ///
    /// # Errors
    /// [`SpaceError::Range`] when there are no registers there or the rights include execution.
    pub fn map_device(&mut self, registers: Range<u64>, rights: Rights) -> Result<Range<u64>, SpaceError> {
        let inside = PCI_REGISTERS.start <= registers.start && registers.end <= PCI_REGISTERS.end;
        if !inside || registers.is_empty() || rights.execute {
            return Err(SpaceError::Range);
        }
        for page in registers.clone().step_by(to_usize(PAGE)) {
            self.tables.map_device(page, true);
            let times = self.times_mapped(page) + 1;
            self.mappings.insert(page..page + PAGE, Mapping::new(rights, Content::Device { times }));
        }
        Ok(registers)
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
        self.release(range)
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

    /// Makes the mapping at `old` (its length) `new_len` bytes long, elsewhere if it must and
    /// `may_move`, or at `fixed`. Answers where it is.
    ///
    /// # Errors
    /// [`SpaceError`]: EFAULT when `old` isn't one mapping, `Full` when there is no room, ENOMEM when
    /// what should grow is a file's.
    pub fn remap(
        &mut self,
        old: &Range<u64>,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, SpaceError> {
        let mapping = match self.mappings.get_key_value(&old.start) {
            Some((range, mapping)) if old.end <= range.end && is_program(old) => mapping.clone(),
            _ => return Err(SpaceError::Host(Errno::EFAULT)),
        };
        let old_len = old.end - old.start;
        if fixed.is_none() && new_len <= old_len {
            if new_len < old_len {
                self.unmap(&(old.start + new_len..old.end))?;
            }
            return Ok(old.start);
        }
        if mapping.charged {
            self.check_limit(new_len.saturating_sub(old_len))?;
        }
        let grown = old.end..old.start.checked_add(new_len).ok_or(SpaceError::Range)?;
        if fixed.is_none() && mapping.is_memory() && is_program(&grown) && self.is_free(&grown) {
            self.map_memory(Place::Exactly(grown), mapping.rights, mapping.content)?;
            return Ok(old.start);
        }
        if old_len < new_len && !mapping.is_memory() {
            // More of the file would have to be mapped, and its descriptor may be gone.
            return Err(SpaceError::Host(Errno::ENOMEM));
        }
        match fixed {
            Some(start) => {
                self.relocate(old, start..start.checked_add(new_len).ok_or(SpaceError::Range)?, mapping)
            }
            None if may_move => {
                let range = self.place(Place::Anywhere(new_len), align_for(new_len))?;
                self.relocate(old, range, mapping)
            }
            None => Err(SpaceError::Full),
        }
    }

    /// Drops the content of private memory in `range` (MADV_DONTNEED).
    ///
    /// # Errors
    /// ENOMEM when a part isn't mapped.
    pub fn discard(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if !is_program(range) || self.mappings.gaps(range).next().is_some() {
            return Err(SpaceError::Host(Errno::ENOMEM));
        }
        // A region's tracker can't see pages vanish: to it this is a write of zeros.
        self.memory.touch(range);
        self.memory.window().advise(range, MmapAdvise::MADV_DONTNEED).map_err(SpaceError::Host)
    }

    fn map_memory(
        &mut self,
        place: Place,
        rights: Rights,
        content: Content,
    ) -> Result<Range<u64>, SpaceError> {
        let len = match &place {
            Place::Exactly(range) | Place::IfFree(range) | Place::Near(range) => {
                range.end.saturating_sub(range.start)
            }
            Place::Anywhere(len) => *len,
        };
        let range = self.place(place, align_for(len))?;
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

    /// Checks the limit and makes sure of memslots, before anything changes.
    fn admit(&self, range: &Range<u64>, mapping: &Mapping) -> Result<(), SpaceError> {
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

    /// Each mapping of a page of registers is at the same address, so it goes with the last one.
    fn unmap_device(&mut self, range: &Range<u64>) {
        for page in range.clone().step_by(to_usize(PAGE)) {
            match self.mappings.get(&page).cloned() {
                Some(mapping) if 1 < self.times_mapped(page) => {
                    let content = Content::Device { times: self.times_mapped(page) - 1 };
                    self.mappings.insert(page..page + PAGE, Mapping { content, ..mapping });
                }
                _ => {
                    self.tables.map(&(page..page + PAGE), Rights::NONE, false);
                    self.mappings.remove(page..page + PAGE);
                }
            }
        }
    }

    fn times_mapped(&self, page: u64) -> u32 {
        match self.mappings.get(&page) {
            Some(Mapping { content: Content::Device { times }, .. }) => *times,
            _ => 0,
        }
    }

    /// Takes away whatever is in `range`.
    fn release(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if range.is_empty() || self.is_free(range) {
            return Ok(());
        }
        self.leave(range);
        self.tables.map(range, Rights::NONE, false);
        self.memory.window().clear(range.clone()).map_err(SpaceError::Host)?;
        self.mappings.remove(range.clone());
        self.settle()
    }

    /// Sees to it that nobody reads `range` by pointers any more.
    fn leave(&mut self, range: &Range<u64>) {
        if self.memory.is_watched(range)
            && let Some(vacate) = &self.vacate
        {
            vacate(range);
        }
        self.memory.plain_mut().remove(range.clone());
    }

    /// Lets the program have a range whose window is ready.
    fn enter(&mut self, range: Range<u64>, mapping: Mapping) -> Result<Range<u64>, SpaceError> {
        self.tables.map(&range, mapping.rights, mapping.is_memory());
        if mapping.is_plain() {
            self.memory.plain_mut().insert(range.clone());
        }
        self.mappings.insert(range.clone(), mapping);
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
        if !mapping.is_plain() {
            self.leave(piece);
        }
        let window = self.memory.window();
        if !rights.includes(old) {
            self.tables.map(piece, rights, false);
            // Through "no access", so that KVM drops what it derived even if the host's rights don't
            // change (execution isn't among them).
            window.protect(piece, Rights::NONE.host()).map_err(SpaceError::Host)?;
        }
        window.protect(piece, rights.host()).map_err(SpaceError::Host)?;
        self.tables.map(piece, rights, mapping.is_memory());
        if mapping.is_plain() {
            self.memory.plain_mut().insert(piece.clone());
        }
        self.mappings.insert(piece.clone(), mapping);
        Ok(())
    }

    fn relocate(
        &mut self,
        old: &Range<u64>,
        new: Range<u64>,
        mut mapping: Mapping,
    ) -> Result<u64, SpaceError> {
        if !is_program(&new) || new.start < old.end && old.start < new.end {
            return Err(SpaceError::Range);
        }
        self.admit(&new, &Mapping { charged: false, ..mapping.clone() })?;
        let len = (old.end - old.start).min(new.end - new.start);
        let (kept, moved) = (old.start..old.start + len, new.start..new.start + len);
        self.release(&new)?;
        self.release(&(kept.end..old.end))?;
        self.leave(&kept);
        self.tables.map(&kept, Rights::NONE, false);
        self.memory.window().relocate(&kept, &moved).map_err(SpaceError::Host)?;
        self.mappings.remove(kept.clone());
        if let Content::File { delta, .. } = &mut mapping.content {
            *delta = delta.wrapping_add(old.start).wrapping_sub(new.start);
        }
        if moved.end < new.end {
            self.map_memory(Place::Exactly(moved.end..new.end), mapping.rights, mapping.content.clone())?;
        }
        Ok(self.enter(moved, mapping)?.start)
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
