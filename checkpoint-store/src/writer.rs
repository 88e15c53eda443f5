//! The one writer of a store.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;

use cairn_abi::CheckpointId;

use crate::active::Active;
use crate::catalogue::{Catalogue, chain, open_segment, read_manifest};
use crate::compaction::plan::Goal;
use crate::compaction::{self, Compactor, Progress};
use crate::disk::{Disk, HostDisk};
use crate::format::manifest::{Entry, Segment};
use crate::format::segment::file_name;
use crate::format::{MAX_CHAIN, MAX_ID, len64};
use crate::group::Label;
use crate::lock::Lock;
use crate::state::{self, Shared, State};
use crate::{Batch, BatchError, Store, StoreError, create};

/// A commit waits for compaction once its chain is longer than this many times [`Options::base_every`].
const LONGEST: usize = 8;

/// How certain a checkpoint is when its commit returns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The host's kernel has it: it survives the death of this process.
    Written,
    /// The disk has it: it survives the loss of power.
    Synced,
}

/// How a store is kept small, and quick to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Checkpoints that are kept; older ones go. `None` keeps all.
    pub keep: Option<NonZeroUsize>,
    /// Bytes that the directory should not exceed; older checkpoints go for it, but never the newest.
    pub keep_bytes: Option<u64>,
    /// Deltas that a checkpoint may be away from a complete one before compaction merges some.
    pub base_every: NonZeroUsize,
    /// Bytes after which a segment is finished and a new one begun; each time the disk is waited for.
    pub segment_bytes: NonZeroU64,
}

impl Default for Options {
    fn default() -> Self {
        const BASE_EVERY: NonZeroUsize = NonZeroUsize::new(32).unwrap();
        const SEGMENT_BYTES: NonZeroU64 = NonZeroU64::new(32 << 20).unwrap();
        Self { keep: None, keep_bytes: None, base_every: BASE_EVERY, segment_bytes: SEGMENT_BYTES }
    }
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Bytes written.
    pub bytes: u64,
}

/// The one writer of a store; the lock ends with it. A thread compacts beside it.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    active: Active,
    // Ends before the lock does.
    compactor: Compactor,
    lock: Lock,
}

impl Writer {
    /// Opens the store in `directory`, and makes both if there is none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another writer has it; what [`Store::open`] says; a directory that holds
    /// something else.
    pub fn open(directory: &Path, options: Options) -> Result<Self, StoreError> {
        create::directory(directory)?;
        Self::with_disk(directory, options, Arc::new(HostDisk::new(directory)))
    }

    pub(crate) fn with_disk(
        directory: &Path,
        options: Options,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        let (lock, active, state) = load(directory, &*disk)?;
        let shared = Arc::new(Shared::new(directory.to_owned(), disk, options, state));
        set_keep(&shared)?;
        let compactor = Compactor::start(Arc::clone(&shared))
            .map_err(|error| StoreError::io("start the compaction of", directory, error))?;
        Ok(Self { shared, active, compactor, lock })
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn newest(&self) -> Option<CheckpointId> {
        self.shared.state().entries.last_key_value().map(|(id, _)| CheckpointId(*id))
    }

    /// Appends a checkpoint. With [`Level::Synced`] it and all before it are on the disk on return.
    ///
    /// # Errors
    /// On any error the store is as before, and the parent of the next batch is still the newest that was committed.
    pub fn commit(&mut self, batch: &Batch, level: Level) -> Result<Committed, StoreError> {
        self.recover(batch)?;
        if level == Level::Synced {
            self.shared.settle()?;
        }
        let done = self.commit_here(batch, level);
        self.shared.state().pinned = None;
        if done.is_ok() {
            self.finish_segment();
            self.compactor.wake();
        }
        done
    }

    /// Returns when all that was committed is on the disk.
    ///
    /// # Errors
    /// The host's. Nothing that wasn't on the disk before is then believed to be.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if self.active.is_given_up() {
            self.give_up_active()?;
        }
        self.shared.settle()?;
        self.active.sync()
    }

    /// Compacts as far as it goes, and tells how far it is: chains become as short and the directory as small as
    /// the options allow. `go_on` answers whether to.
    ///
    /// # Errors
    /// Damage, or the host's. The store is as it was before the step that failed.
    pub fn compact(&mut self, go_on: &mut dyn FnMut(Progress) -> bool) -> Result<(), StoreError> {
        if self.active.is_given_up() {
            self.give_up_active()?;
        }
        // What is in the active segment can only be left out of another one.
        if !self.active.is_empty() {
            self.rotate()?;
        }
        compaction::run(&self.shared, Goal::Tight, go_on)?;
        self.shared.settle()
    }

    /// Opens the store to read.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn reader(&self) -> Result<Store, StoreError> {
        Store::open(&self.shared.directory)
    }

    /// Returns when compaction has looked at all that was committed.
    pub fn wait_for_compaction(&self) {
        self.compactor.wait();
    }

    fn commit_here(&mut self, batch: &Batch, level: Level) -> Result<Committed, StoreError> {
        let id = batch.id().0;
        let base = self.check(batch)?;
        let entries = batch.sorted().map_err(|source| StoreError::Batch { id, source })?;
        let label = Label {
            parent: batch.parent().map_or(0, |id| id.0),
            base,
            time_ms: batch.time_ms(),
            synced: self.active.synced(),
        };
        let entry = self.active.append(batch, &entries, label, level)?;
        let mut state = self.shared.state();
        state.entries.insert(id, entry);
        state.active_end = self.active.end();
        Ok(Committed { bytes: entry.group.get() })
    }

    /// Checks that a batch continues the store, answers what it is a change to, and keeps that from being dropped.
    fn check(&self, batch: &Batch) -> Result<u64, StoreError> {
        let id = batch.id().0;
        let refuse = |source| Err(StoreError::Batch { id, source });
        let mut waited = false;
        loop {
            let mut state = self.shared.state();
            let newest = state.entries.last_key_value().map_or(0, |(id, _)| *id);
            if id <= newest {
                return refuse(BatchError::Order(newest));
            }
            if MAX_ID < id {
                return refuse(BatchError::Id);
            }
            let Some(parent) = batch.parent() else { return Ok(0) };
            if parent.0 < state.oldest_kept().max(state.floor) || !state.entries.contains_key(&parent.0) {
                return refuse(BatchError::Parent(parent.0));
            }
            let length = chain(&state.entries, &self.shared.directory, parent.0)?.len();
            if length < self.longest_chain() || (waited && length < MAX_CHAIN) {
                state.pinned = Some(parent.0);
                return Ok(parent.0);
            }
            if waited {
                return Err(StoreError::Chain { path: self.shared.directory.clone(), id, length });
            }
            drop(state);
            // Compaction is far behind: its next round is waited for, once.
            self.compactor.wait();
            waited = true;
        }
    }

    /// The chain's length from which a commit waits for compaction.
    fn longest_chain(&self) -> usize {
        self.shared.options.base_every.get().saturating_mul(LONGEST).min(MAX_CHAIN)
    }

    /// Brings a writer whose last commit failed into a state in which the next can succeed.
    fn recover(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.active.is_deleted() {
            if batch.parent().is_some() {
                return Err(StoreError::Deleted { path: self.shared.directory.clone() });
            }
            // The compaction's thread stays: its host may allow no new ones by now.
            let shared = &self.shared;
            let _alone = state::lock(&shared.compacting);
            create::directory(&shared.directory)?;
            let (lock, active, state) = load(&shared.directory, &*shared.disk)?;
            *shared.state() = state;
            (self.active, self.lock) = (active, lock);
            set_keep(shared)?;
        }
        if self.active.is_given_up() { self.give_up_active() } else { Ok(()) }
    }

    /// Finishes the active segment if it's long enough.
    fn finish_segment(&mut self) {
        if self.shared.options.segment_bytes.get() <= self.active.end()
            && let Err(error) = self.rotate()
        {
            // The checkpoint is committed all the same; the next commit tries again.
            tracing::warn!("a new segment can't be begun, the present one grows: {error}");
        }
    }

    /// Finishes the active segment and begins another.
    fn rotate(&mut self) -> Result<(), StoreError> {
        self.active.sync()?;
        let length = self.active.end();
        self.begin_segment(length, |_| Ok(Vec::new()))
    }

    /// After a failed fsync the kernel may have dropped what it couldn't write, and a second fsync says nothing of
    /// it. So what wasn't on the disk before goes to a new segment, and the old one ends where it was certain.
    fn give_up_active(&mut self) -> Result<(), StoreError> {
        let certain = self.active.synced();
        let old = self.active.number();
        let uncertain: Vec<Entry> = {
            let state = self.shared.state();
            let own = state.entries.values().filter(|entry| entry.segment.get() == old);
            own.filter(|entry| certain <= entry.at.get()).copied().collect()
        };
        let store = self.shared.state().manifest.store;
        let directory = self.shared.directory.clone();
        self.begin_segment(certain, |next| {
            let from = open_segment(&directory, store, old)?;
            next.copy(&from, &uncertain)
        })
    }

    /// Begins a segment, fills it, and makes it the active one; the present one ends at `length`.
    fn begin_segment(
        &mut self,
        length: u64,
        fill: impl FnOnce(&mut Active) -> Result<Vec<Entry>, StoreError>,
    ) -> Result<(), StoreError> {
        let shared = &self.shared;
        let number = shared.number();
        let store = shared.state().manifest.store;
        let mut next = Active::create(&shared.directory, &*shared.disk, store, number)?;
        let old = Segment { number: self.active.number().into(), length: length.into() };
        let begun = fill(&mut next).and_then(|moved| {
            shared.replace(|state| {
                for entry in &moved {
                    state.entries.insert(entry.id.get(), *entry);
                }
                // What was beyond and couldn't be moved is lost.
                state.entries.retain(|_, entry| {
                    entry.segment != old.number || entry.at.get() + entry.group.get() <= length
                });
                state.manifest.segments.push(old);
                state.manifest.active = number;
                state.active_end = next.end();
            })
        });
        if let Err(error) = begun {
            // No manifest names it; if it can't be deleted, the next writer does.
            let _ = shared.disk.remove(&file_name(number));
            return Err(error);
        }
        shared.state().active_end = next.end();
        self.active = next;
        Ok(())
    }
}

/// Takes the lock of a store and finds out what it holds; makes it if it isn't there.
fn load(directory: &Path, disk: &dyn Disk) -> Result<(Lock, Active, State), StoreError> {
    // What is no store, or one that can't be read, is left as it is: without a lock in it.
    if !create::is_new(directory)? {
        read_manifest(directory)?;
    }
    let lock = Lock::take(directory)?;
    if create::is_new(directory)? {
        create::store(directory, disk)?;
    }
    let catalogue = Catalogue::load(directory)?;
    for damage in catalogue.damage.iter().chain(&catalogue.lost) {
        tracing::warn!("{damage}");
    }
    // Whoever died may have left a manifest whose name isn't on the disk yet. Until it is, the one before needs its
    // segments, and what is committed under this one isn't certain.
    disk.sync_directory().map_err(|error| StoreError::io("sync", directory, error))?;
    create::remove_leftovers(directory, disk, &catalogue.manifest)?;
    let active = Active::open(directory, disk, &catalogue)?;
    let state = State {
        next_segment: catalogue.manifest.next_segment,
        floor: catalogue.manifest.oldest_kept,
        pinned: None,
        active_end: catalogue.end,
        settled: true,
        gone: Vec::new(),
        manifest: catalogue.manifest,
        entries: catalogue.entries,
    };
    Ok((lock, active, state))
}

/// Has the manifest say how many checkpoints are kept.
fn set_keep(shared: &Shared) -> Result<(), StoreError> {
    let keep = shared.options.keep.map_or(0, |keep| len64(keep.get()));
    if shared.state().manifest.keep == keep {
        return Ok(());
    }
    shared.replace(|state| {
        // What went by the number before doesn't come back by a larger one.
        state.manifest.oldest_kept = state.oldest_kept();
        state.manifest.keep = keep;
    })
}
