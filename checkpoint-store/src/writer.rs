//! The one writer of a store.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_abi::CheckpointId;

use crate::active::Active;
use crate::catalogue::{Catalogue, chain};
use crate::disk::{Disk, HostDisk};
use crate::format::MAX_CHAIN;
use crate::format::manifest::Segment;
use crate::group::Label;
use crate::lock::Lock;
use crate::state::State;
use crate::{Batch, BatchError, Store, StoreError, create};

/// Bytes after which a segment is finished and a new one begun.
const SEGMENT_BYTES: u64 = 32 << 20;

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
}

impl Default for Options {
    fn default() -> Self {
        const BASE_EVERY: NonZeroUsize = NonZeroUsize::new(32).unwrap();
        Self { keep: None, keep_bytes: None, base_every: BASE_EVERY }
    }
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Bytes written.
    pub bytes: u64,
}

/// The one writer of a store; the lock ends with it.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
    active: Active,
    _lock: Lock,
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
        _options: Options,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        let lock = Lock::take(directory)?;
        if create::is_new(directory)? {
            create::store(directory, &*disk)?;
        }
        let catalogue = Catalogue::load(directory)?;
        create::remove_leftovers(directory, &*disk, &catalogue.manifest)?;
        let active = Active::open(directory, &*disk, &catalogue)?;
        let state = State { manifest: catalogue.manifest, entries: catalogue.entries };
        Ok(Self {
            directory: directory.to_owned(),
            disk,
            state: Arc::new(Mutex::new(state)),
            active,
            _lock: lock,
        })
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn newest(&self) -> Option<CheckpointId> {
        self.state().entries.last_key_value().map(|(id, _)| CheckpointId(*id))
    }

    /// Appends a checkpoint. With [`Level::Synced`] it and all before it are on the disk on return.
    ///
    /// # Errors
    /// On any error the store is as before, and the parent of the next batch is still the newest that was committed.
    pub fn commit(&mut self, batch: &Batch, level: Level) -> Result<Committed, StoreError> {
        let base = self.check(batch)?;
        let label = Label {
            parent: batch.parent().map_or(0, |id| id.0),
            base,
            time_ms: batch.time_ms(),
            synced: self.active.synced(),
        };
        let entries = batch.sorted().map_err(|source| StoreError::Batch { id: batch.id().0, source })?;
        let entry = self.active.append(batch, &entries, label, level)?;
        self.state().entries.insert(batch.id().0, entry);
        if SEGMENT_BYTES <= self.active.end()
            && let Err(error) = self.rotate()
        {
            // The checkpoint is committed all the same; the next commit tries again.
            tracing::warn!("a new segment can't be begun, the present one grows: {error}");
        }
        Ok(Committed { bytes: entry.group.get() })
    }

    /// Returns when all that was committed is on the disk.
    ///
    /// # Errors
    /// The host's.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.active.sync()
    }

    /// Opens the store to read.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn reader(&self) -> Result<Store, StoreError> {
        Store::open(&self.directory)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that a batch continues the store, and answers what it is a change to.
    fn check(&self, batch: &Batch) -> Result<u64, StoreError> {
        let state = self.state();
        let id = batch.id().0;
        let refuse = |source| Err(StoreError::Batch { id, source });
        let newest = state.entries.last_key_value().map_or(0, |(id, _)| *id);
        if id <= newest {
            return refuse(BatchError::Order(newest));
        }
        let Some(parent) = batch.parent() else { return Ok(0) };
        if parent.0 < state.manifest.oldest_kept || !state.entries.contains_key(&parent.0) {
            return refuse(BatchError::Parent(parent.0));
        }
        let length = chain(&state.entries, &self.directory, parent.0)?.len();
        if MAX_CHAIN <= length {
            return Err(StoreError::Chain { path: self.directory.clone(), id, length });
        }
        Ok(parent.0)
    }

    /// Finishes the active segment and begins another.
    fn rotate(&mut self) -> Result<(), StoreError> {
        self.active.sync()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut manifest = state.manifest.clone();
        let number = manifest.next_segment;
        let next = Active::create(&self.directory, &*self.disk, manifest.store, number)?;
        manifest
            .segments
            .push(Segment { number: self.active.number().into(), length: self.active.end().into() });
        manifest.segments.sort_unstable_by_key(|segment| segment.number.get());
        manifest.active = number;
        manifest.next_segment = number + 1;
        manifest.generation += 1;
        manifest.checkpoints = state.entries.values().copied().collect();
        create::write_manifest(&self.directory, &*self.disk, &manifest)?;
        state.manifest = manifest;
        self.active = next;
        Ok(())
    }
}
