//! A program's connection to whatever keeps its checkpoints.

mod durable;
mod hinting;
mod making;
mod tickets;
mod tree;

use std::collections::VecDeque;
use std::mem;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, Level, RegionId, RegionName};

use crate::element::Element;
use crate::engines::{self, Engine, Failure, Limits};
use crate::error::Error;
use crate::hints::RegionMode;
use crate::kind::EngineKind;
use crate::memory::{Block, PAGE};
use crate::options::Options;
use crate::region::{Contents, Entry, Region, RegionTuple, Regions};

/// Names of dropped regions that are remembered for messages: bounds what a program that registers
/// and drops for ever costs. Older ones are called by their number.
const MAX_DROPPED_NAMES: usize = 1024;

/// Regions of memory, their checkpoints, and the way back.
///
/// `checkpoint` and `rollback` take the session exclusively, so no slice of a region lives across
/// them:
///
/// ```compile_fail,E0502
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let table = session.region::<u64>("table", 16)?;
/// let slice = session.slice(&table);
/// let id = session.checkpoint()?;
/// println!("{}", slice[0]);
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let table = session.region::<u64>("table", 16)?;
/// let slice = session.slice(&table);
/// let id = session.checkpoint()?;
/// println!("{}", session.slice(&table)[0]);
/// # Ok(())
/// # }
/// ```
///
/// Nor across a rollback:
///
/// ```compile_fail,E0499
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let table = session.region::<u64>("table", 16)?;
/// let id = session.checkpoint()?;
/// let slice = session.slice_mut(&table);
/// session.rollback(id)?;
/// slice[0] = 1;
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let table = session.region::<u64>("table", 16)?;
/// let id = session.checkpoint()?;
/// let slice = session.slice_mut(&table);
/// session.rollback(id)?;
/// session.slice_mut(&table)[0] = 1;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    kind: EngineKind,
    /// The process that opened it. Its children have copies of the regions and no checkpoints.
    process: u32,
    /// Before `regions`, because it watches their memory until it is dropped.
    backend: Box<dyn Engine>,
    regions: Regions,
    dropped: VecDeque<(RegionId, RegionName)>,
    /// A rollback failed and may have changed some bytes and not others.
    torn: bool,
    /// What [`Session::checkpoint_durable`] waits for.
    durable_level: Level,
    /// What every checkpoint is to reach, because whoever started the guest wants it.
    level_of_all: Option<Level>,
}

impl Session {
    /// Opens a session on the checkpoint device if there is one, else on the best user-level engine;
    /// the environment variable `CAIRN_ENGINE` overrides. [`Session::engine`] says which it is.
    ///
    /// # Errors
    /// As for [`Options::open`].
    pub fn open() -> Result<Self, Error> {
        Options::new().open()
    }

    /// Opens a session on that engine, whatever the environment says.
    ///
    /// # Errors
    /// As for [`Options::open`].
    pub fn open_with(kind: EngineKind) -> Result<Self, Error> {
        Options::new().engine(kind).open()
    }

    pub(crate) fn new(
        kind: EngineKind,
        mut backend: Box<dyn Engine>,
        durable_level: Level,
    ) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let regions = Regions::new(NEXT.fetch_add(1, Ordering::Relaxed));
        let figures = backend.durable().map(|store| store.figures());
        let level_of_all = match figures {
            Some(Ok(figures)) => figures.level_of_all,
            Some(Err(Failure::Other(error))) => return Err(error),
            Some(Err(_)) | None => None,
        };
        let (process, dropped) = (process::id(), VecDeque::new());
        Ok(Self { kind, process, backend, regions, dropped, torn: false, durable_level, level_of_all })
    }

    /// The engine that keeps the checkpoints.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.kind
    }

    /// Checkpoints that are retained; taking one more evicts the oldest.
    #[must_use]
    pub fn history(&self) -> u32 {
        self.limits().history
    }

    /// Makes a region of `len` elements, all zero bytes, page-aligned; from 2 MiB on aligned to that.
    ///
    /// Memory is taken when it is first written, so a sparse region may be larger than the machine.
    /// An element type without size, or one aligned to more than a page, doesn't compile:
    ///
    /// ```compile_fail,E0080
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// let mut session = cairn_guest::Session::open()?;
    /// let table = session.region::<[u64; 0]>("table", 16)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// ```
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// let mut session = cairn_guest::Session::open()?;
    /// let table = session.region::<[u64; 1]>("table", 16)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`Error::Name`], [`Error::NameTaken`]: `name` can't be its name.
    /// - [`Error::Empty`], [`Error::TooLarge`], [`Error::TooManyRegions`]: by the session's limits.
    /// - [`Error::OtherProcess`]: this is a child of the process that opened the session.
    /// - [`Error::System`]: no memory.
    pub fn region<T: Element>(&mut self, name: &str, len: usize) -> Result<Region<T>, Error> {
        self.region_with(name, len, RegionMode::Tracked)
    }

    /// As [`Session::region`], and chooses who says what is written in it.
    ///
    /// # Errors
    /// As for [`Session::region`].
    pub fn region_with<T: Element>(
        &mut self,
        name: &str,
        len: usize,
        mode: RegionMode,
    ) -> Result<Region<T>, Error> {
        const {
            assert!(size_of::<T>() > 0, "an element has at least one byte");
            assert!(align_of::<T>() <= PAGE, "an element is aligned to a page at most");
        }
        let checked = self.new_name(name)?;
        if len == 0 {
            return Err(Error::Empty { name: name.to_owned() });
        }
        let bytes = self.new_bytes::<T>(name, len)?;
        let block = Block::map(bytes).map_err(Error::system("getting memory for a region"))?;
        self.insert(checked, block, len, mode, Contents::of::<T>())
    }

    /// Registers memory that the program owns as a region: its content counts as written.
    ///
    /// # Safety
    /// Until the region is dropped with [`Session::drop_region`], or the session is:
    /// - `memory` stays mapped, readable and writable: it is not freed, unmapped, moved by mremap or
    ///   given another protection;
    /// - it is private anonymous memory (an allocation or such a mapping), shared with no process;
    /// - it is read and written only through this session's slices, or through other pointers while
    ///   no slice of the region lives and no method of the session runs. No reference to it, `memory`
    ///   included, is used across [`Session::checkpoint`] or [`Session::rollback`].
    ///
    /// # Errors
    /// - [`Error::Unaligned`]: its address or length is not a multiple of 4096.
    /// - [`Error::Overlap`]: part of it is a region of this session already.
    /// - Else as for [`Session::region`].
    pub unsafe fn adopt(&mut self, name: &str, memory: &mut [u8]) -> Result<Region<u8>, Error> {
        // SAFETY: this function's contract is that one's.
        unsafe { self.adopt_with(name, memory, RegionMode::Tracked) }
    }

    /// As [`Session::adopt`], and chooses who says what is written in it. Its content counts as hinted.
    ///
    /// # Safety
    /// As for [`Session::adopt`].
    ///
    /// # Errors
    /// As for [`Session::adopt`].
    pub unsafe fn adopt_with(
        &mut self,
        name: &str,
        memory: &mut [u8],
        mode: RegionMode,
    ) -> Result<Region<u8>, Error> {
        let checked = self.new_name(name)?;
        let (address, len) = (memory.as_ptr().addr(), memory.len());
        if len == 0 {
            return Err(Error::Empty { name: name.to_owned() });
        }
        if !address.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(Error::Unaligned { name: name.to_owned(), address, len });
        }
        let overlapped = |entry: &&Entry| {
            address < entry.block.address() + entry.block.len() && entry.block.address() < address + len
        };
        if let Some(entry) = self.regions.iter().find(overlapped) {
            return Err(Error::Overlap { name: name.to_owned(), other: entry.name.to_string() });
        }
        self.new_bytes::<u8>(name, len)?;
        // SAFETY: this function's contract holds what `Block::adopt` asks for until the region is
        // dropped or the session is, and the block goes then.
        let block = unsafe { Block::adopt(memory) };
        self.insert(checked, block, len, mode, Contents::of::<u8>())
    }

    /// Ends a region. Its memory goes back to the system, unless it was adopted: that is left alone.
    /// Checkpoints that hold the region can't be rolled back to afterwards.
    ///
    /// # Errors
    /// [`Error::OtherProcess`], or [`Error::System`] when the engine can't let go of it; the region's
    /// memory stays until the session ends then.
    ///
    /// # Panics
    /// If the region is another session's.
    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the handle ends here, so that none names freed memory"
    )]
    pub fn drop_region<T: Element>(&mut self, region: Region<T>) -> Result<(), Error> {
        let id = self.regions.get(&region).id;
        self.own()?;
        self.backend.unregister(id).map_err(|failure| self.explain(failure, None))?;
        if let Some(entry) = self.regions.remove(&region) {
            if self.dropped.len() == MAX_DROPPED_NAMES {
                self.dropped.pop_front();
            }
            self.dropped.push_back((entry.id, entry.name));
        }
        Ok(())
    }

    /// The region's elements.
    ///
    /// # Panics
    /// If the region is another session's.
    #[must_use]
    #[track_caller]
    pub fn slice<T: Element>(&self, region: &Region<T>) -> &[T] {
        self.regions.slice(region)
    }

    /// The region's elements, to be written.
    ///
    /// # Panics
    /// If the region is another session's.
    #[must_use]
    #[track_caller]
    pub fn slice_mut<T: Element>(&mut self, region: &Region<T>) -> &mut [T] {
        self.regions.slice_mut(region)
    }

    /// The elements of two to eight regions at once.
    ///
    /// ```
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// let mut session = cairn_guest::Session::open()?;
    /// let now = session.region::<f64>("now", 100)?;
    /// let next = session.region::<f64>("next", 100)?;
    /// let (now, next) = session.slices_mut((&now, &next));
    /// next[1] = (now[0] + now[2]) / 2.0;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If a region is named twice, or is another session's.
    #[must_use]
    #[track_caller]
    pub fn slices_mut<R: RegionTuple>(&mut self, regions: R) -> R::Slices<'_> {
        regions.split(&mut self.regions)
    }

    /// Commits the content of all regions as a new checkpoint, all or nothing. Under `cairn run --durable` it
    /// returns when that is on disk, as [`Session::checkpoint_durable`] does.
    ///
    /// # Errors
    /// With `--durable` also those of [`Session::checkpoint_durable`].
    /// [`Error::OtherProcess`], [`Error::NotHinted`], [`Error::Torn`], or [`Error::System`] when memory is
    /// short; earlier checkpoints stand.
    pub fn checkpoint(&mut self) -> Result<CheckpointId, Error> {
        if let Some(level) = self.level_of_all {
            return self.checkpoint_durable_at(level);
        }
        self.own()?;
        self.whole()?;
        self.regions.check_hints()?;
        let id = self.backend.checkpoint(&self.regions).map_err(|failure| self.explain(failure, None))?;
        self.regions.renew_checks();
        Ok(id)
    }

    /// Gives all regions the content of a checkpoint. Newer checkpoints stay until they are released
    /// or evicted.
    ///
    /// # Errors
    /// - [`Error::NoCheckpoint`], [`Error::Evicted`]: there is no such checkpoint, or no longer.
    /// - [`Error::RegionSet`]: regions were made or dropped since.
    /// - [`Error::OtherProcess`], [`Error::NotHinted`], [`Error::System`].
    ///
    /// After an error that is none of the first five, some bytes may be the checkpoint's and others not: until
    /// a rollback succeeds, this one again or another, no checkpoint is taken ([`Error::Torn`]) and no arena
    /// lent.
    pub fn rollback(&mut self, id: CheckpointId) -> Result<(), Error> {
        self.own()?;
        // What a rollback left halfway nobody hinted, and the next one repairs it.
        if !self.torn {
            self.regions.check_hints()?;
        }
        self.roll_back(id)
    }

    fn roll_back(&mut self, id: CheckpointId) -> Result<(), Error> {
        let outcome = self.backend.rollback(&mut self.regions, id);
        self.torn = match &outcome {
            Ok(()) => false,
            Err(failure) => self.torn || failure.may_have_changed_regions(),
        };
        outcome.map_err(|failure| self.explain(failure, Some(id)))?;
        self.regions.renew_checks();
        Ok(())
    }

    /// Gives up a checkpoint: what it alone holds is freed.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`], [`Error::Evicted`], [`Error::OtherProcess`].
    pub fn release(&mut self, id: CheckpointId) -> Result<(), Error> {
        self.own()?;
        self.backend.release(id).map_err(|failure| self.explain(failure, Some(id)))
    }

    /// What the session has done and what it holds. Not for the hot path: some engines must ask the
    /// kernel what their snapshots cost.
    ///
    /// # Errors
    /// [`Error::OtherProcess`], [`Error::System`].
    pub fn figures(&mut self) -> Result<SessionFigures, Error> {
        self.own()?;
        self.backend.figures().map_err(|failure| self.explain(failure, None))
    }

    /// What one checkpoint holds. Not for the hot path.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`], [`Error::Evicted`], [`Error::OtherProcess`], [`Error::System`].
    pub fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Error> {
        self.own()?;
        self.backend.checkpoint_figures(id).map_err(|failure| self.explain(failure, Some(id)))
    }

    /// Refuses after a rollback that failed halfway: the regions are in part one checkpoint's and in part
    /// another's.
    pub(crate) fn whole(&self) -> Result<(), Error> {
        if self.torn { Err(Error::Torn) } else { Ok(()) }
    }

    /// The memory of an arena's region, for whoever knows what is in it.
    ///
    /// # Panics
    /// If the region is another session's, or the regions are not [whole](Self::whole): no typed value
    /// is there then.
    #[track_caller]
    pub(crate) fn block(&self, region: &Region<u8>) -> &Block {
        assert!(self.whole().is_ok(), "an arena can't be used: {}", Error::Torn);
        &self.regions.get(region).block
    }

    /// Refuses in a child of the process that opened the session: the engine's helpers (processes,
    /// descriptors) are its parent's. The device knows its session's address space by itself.
    fn own(&self) -> Result<(), Error> {
        if self.kind != EngineKind::Cairn && self.is_copy() {
            return Err(Error::OtherProcess);
        }
        Ok(())
    }

    /// Whether this is the copy that a fork made. Asks the system, which in a guest may cost more than
    /// a checkpoint.
    fn is_copy(&self) -> bool {
        process::id() != self.process
    }

    fn limits(&self) -> Limits {
        self.backend.limits()
    }

    /// Says in the program's words what an engine says in numbers.
    fn explain(&self, failure: Failure, id: Option<CheckpointId>) -> Error {
        let id = id.unwrap_or(CheckpointId(0));
        match failure {
            Failure::NoCheckpoint => Error::NoCheckpoint { id },
            Failure::Evicted => Error::Evicted { id, history: self.history() },
            Failure::RegionSet(region) => Error::RegionSet {
                id,
                region: self.name_of(region),
                registered: self.regions.iter().any(|entry| entry.id == region),
            },
            Failure::Unfit { region, stored } => self.unfit(region, stored),
            Failure::RecoverLate => Error::RecoverLate,
            Failure::Store(source) if id.0 == 0 => Error::StoreFailed { source },
            Failure::Store(source) => Error::NotStored { id, source },
            Failure::Other(error) => error,
        }
    }

    /// The name of a region that is, or was.
    fn name_of(&self, id: RegionId) -> String {
        let live = self.regions.iter().map(|entry| (entry.id, entry.name));
        let mut all = live.chain(self.dropped.iter().copied());
        all.find(|(known, _)| *known == id).map_or_else(|| format!("#{id}"), |(_, name)| name.to_string())
    }
}

impl Drop for Session {
    /// In a child of the process that opened it, leaves everything as it is: letting go would act on the
    /// parent's device, descriptors and processes, and the child's copy of the memory may still be
    /// write-protected.
    fn drop(&mut self) {
        if self.is_copy() {
            let regions = Regions::new(self.regions.session());
            mem::forget(mem::replace(&mut self.regions, regions));
            mem::forget(mem::replace(&mut self.backend, engines::inert()));
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
