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

use crate::kvm::slots::{SlotError, SlotMap};
use crate::memory::layout::{
    LARGE_PAGE, LOWEST, MMAP_BOTTOM, PAGE, PCI_REGISTERS, STACK_SIZE, STACK_TOP, is_program, round_down,
    round_up,
};
use crate::memory::page_table::PageTables;
use crate::memory::program::ProgramMemory;
use crate::memory::rights::Rights;

/// Why a mapping can't be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// More memory than the guest has.
    #[error("the guest's memory ({limit} bytes) is used up; give it more with --memory")]
    Memory {
        /// What it has.
        limit: u64,
    },
    /// No gap is long enough.
    #[error("the address space has no gap that is long enough")]
    Full,
    /// Not an address range that a program can have, or nothing is mapped there.
    #[error("the address range is not one that a program can map")]
    Range,
    /// Something is mapped there already, and the request forbids to replace it.
    #[error("something is mapped there already")]
    Taken,
    /// The host's kernel refused.
    #[error("the host refused the mapping")]
    Host(#[source] Errno),
    /// KVM refused.
    #[error(transparent)]
    Slots(#[from] SlotError),
}

impl SpaceError {
    /// What a system call answers.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Memory { .. } | Self::Full | Self::Slots(_) => Errno::ENOMEM,
            Self::Range => Errno::EINVAL,
            Self::Taken => Errno::EEXIST,
            Self::Host(errno) => *errno,
        }
    }
}

/// Where a mapping goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// There, instead of whatever is there (MAP_FIXED).
    Exactly(Range<u64>),
    /// There, if nothing is (MAP_FIXED_NOREPLACE).
    IfFree(Range<u64>),
    /// There if nothing is, else anywhere.
    Near(Range<u64>),
    /// Anywhere: this many bytes.
    Anywhere(u64),
}

/// Which file a mapping shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSource {
    /// Its path in the guest.
    pub path: Arc<str>,
    /// The offset of the mapping's first byte, a whole number of pages.
    pub offset: u64,
}

/// What a mapping shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Private memory, zeroed at first.
    Anonymous,
    /// The heap (brk).
    Heap,
    /// The stack.
    Stack,
    /// A file.
    File {
        /// Its path.
        path: Arc<str>,
        /// File offset minus address, so that neighbours of one mapping are equal.
        delta: u64,
        /// Whether stores reach the file.
        shared: bool,
    },
    /// Anonymous memory of MAP_SHARED. With one process it differs from private memory only in name.
    Shared,
    /// A PCI function's registers.
    Device,
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// What the program may do.
    pub rights: Rights,
    /// What it shows.
    pub content: Content,
    /// Whether it counts against the guest's memory: private memory that is or was writable.
    charged: bool,
}

impl Mapping {
    fn new(rights: Rights, content: Content) -> Self {
        let private = !matches!(content, Content::File { shared: true, .. } | Content::Device);
        Self { rights, content, charged: private && rights.write }
    }

    fn is_memory(&self) -> bool {
        matches!(self.content, Content::Anonymous | Content::Heap | Content::Stack | Content::Shared)
    }

    /// Whether other threads may read and write it by raw pointers.
    fn is_plain(&self) -> bool {
        self.is_memory() && self.rights.includes(Rights::DATA)
    }
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = match &self.content {
            Content::Anonymous | Content::Shared => "anonymous memory",
            Content::Heap => "the heap",
            Content::Stack => "the stack",
            Content::File { path, .. } => path,
            Content::Device => "device registers",
        };
        write!(f, "{} {content}", self.rights)
    }
}

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
        self.mappings.iter().map(|(range, mapping)| charge(range, mapping)).sum()
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
        for page in registers.clone().step_by(usize::try_from(PAGE).unwrap_or(usize::MAX)) {
            self.tables.map_device(page, true);
        }
        self.mappings.insert(registers.clone(), Mapping::new(rights, Content::Device));
        Ok(registers)
    }

    /// Unmaps whatever is in `range`.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn unmap(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if PCI_REGISTERS.start <= range.start && range.end <= PCI_REGISTERS.end {
            self.tables.map(range, Rights::NONE, false);
            self.mappings.remove(range.clone());
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
    /// [`SpaceError`]: EFAULT when `old` isn't one mapping, `Full` when there is no room.
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
                self.mappings.overlapping(range).map(|(piece, old)| charge(&clip(piece, range), old)).sum();
            self.check_limit((range.end - range.start).saturating_sub(replaced))?;
        }
        Ok(self.slots.lock().unwrap_or_else(PoisonError::into_inner).ensure(range)?)
    }

    fn check_limit(&self, more: u64) -> Result<(), SpaceError> {
        let fits = self.charged().checked_add(more).is_some_and(|sum| sum <= self.limit);
        if fits { Ok(()) } else { Err(SpaceError::Memory { limit: self.limit }) }
    }

    /// Takes away whatever is in `range`.
    fn release(&mut self, range: &Range<u64>) -> Result<(), SpaceError> {
        if self.is_free(range) {
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
        self.release(&new)?;
        self.leave(old);
        self.tables.map(old, Rights::NONE, false);
        self.memory.window().relocate(old, &new).map_err(SpaceError::Host)?;
        self.mappings.remove(old.clone());
        if let Content::File { delta, .. } = &mut mapping.content {
            *delta = delta.wrapping_add(old.start).wrapping_sub(new.start);
        }
        Ok(self.enter(new, mapping)?.start)
    }

    /// Makes KVM forget, if the page tables changed in a way that it can't follow.
    fn settle(&mut self) -> Result<(), SpaceError> {
        if self.tables.take_stale() {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).forget()?;
        }
        Ok(())
    }
}

impl Mapping {
    fn is_private(&self) -> bool {
        !matches!(self.content, Content::File { shared: true, .. } | Content::Device)
    }
}

fn charge(range: &Range<u64>, mapping: &Mapping) -> u64 {
    if mapping.charged { range.end - range.start } else { 0 }
}

fn clip(piece: &Range<u64>, range: &Range<u64>) -> Range<u64> {
    piece.start.max(range.start)..piece.end.min(range.end)
}

fn align_for(len: u64) -> u64 {
    if LARGE_PAGE <= len { LARGE_PAGE } else { PAGE }
}

const _: () = assert!(LOWEST.is_multiple_of(PAGE));
