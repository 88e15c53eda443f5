//! A store to read: any time, also beside its writer.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_abi::CheckpointId;

use crate::catalogue::{Catalogue, MOST_TRIES};
use crate::format::manifest::Entry;
use crate::{Damage, Snapshot, StoreError};

/// A checkpoint of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointInfo {
    /// Its name.
    pub id: CheckpointId,
    /// The checkpoint that it was made after. That one may be gone.
    pub parent: Option<CheckpointId>,
    /// When it was begun, by the clock of its host: a label, clocks jump.
    pub time: SystemTime,
    /// Bytes on disk that are its own.
    pub bytes: u64,
    /// Objects in it.
    pub objects: usize,
    /// Deltas between it and a complete one.
    pub deltas: usize,
}

/// A store to read, as it was when it was opened. It stays readable while the writer goes on.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    catalogue: Catalogue,
    checkpoints: Vec<CheckpointInfo>,
}

impl Store {
    /// Opens the store in `directory`. What no commit record ends is as if it never was.
    ///
    /// # Errors
    /// No store, damage to the manifest or to a segment's header, an unknown version, or the host's.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let catalogue = Catalogue::load(directory)?;
        let oldest = catalogue.oldest_kept();
        let mut deltas: HashMap<u64, usize> = HashMap::new();
        let mut checkpoints = Vec::new();
        // What a checkpoint takes from is older, so its number is known.
        for (id, entry) in &catalogue.entries {
            let own = deltas.get(&entry.base.get()).map_or(0, |below| below + 1);
            deltas.insert(*id, own);
            if oldest <= *id {
                checkpoints.push(info(entry, own));
            }
        }
        Ok(Self { directory: directory.to_owned(), catalogue, checkpoints })
    }

    /// The checkpoints, ascending by id.
    #[must_use]
    pub fn checkpoints(&self) -> &[CheckpointInfo] {
        &self.checkpoints
    }

    /// How many checkpoints its writer keeps; `None` for all.
    #[must_use]
    pub fn keep(&self) -> Option<NonZeroUsize> {
        usize::try_from(self.catalogue.manifest.keep).ok().and_then(NonZeroUsize::new)
    }

    /// Damage to what was once on the disk, met while looking for checkpoints. Some of them may be missing from
    /// [`Store::checkpoints`]; reading one that needs a missing one is an error.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.catalogue.damage.as_ref()
    }

    /// Bad bytes behind the last checkpoint, if records of other checkpoints stand behind them: damage, or a loss of
    /// power that took what was written but not synced. The next commit cuts all of it off.
    #[must_use]
    pub fn lost(&self) -> Option<&Damage> {
        self.catalogue.lost.as_ref()
    }

    /// Opens checkpoint `id` to read.
    ///
    /// # Errors
    /// No such checkpoint, damage, or the host's.
    pub fn snapshot(&self, id: CheckpointId) -> Result<Snapshot, StoreError> {
        let of = |catalogue: &Catalogue| {
            if catalogue.is_kept(id.0) {
                catalogue.layers(&self.directory, id.0).map(Snapshot::new)
            } else {
                Err(StoreError::Unknown { path: self.directory.clone(), id: id.0 })
            }
        };
        let mut found = of(&self.catalogue);
        let mut generation = self.catalogue.manifest.generation;
        for _ in 0..MOST_TRIES {
            if found.is_ok() {
                break;
            }
            // Compaction may have moved it since the catalogue was read.
            let now = Catalogue::load(&self.directory)?;
            if now.manifest.generation == generation {
                break;
            }
            generation = now.manifest.generation;
            found = of(&now);
        }
        found
    }
}

fn info(entry: &Entry, deltas: usize) -> CheckpointInfo {
    let parent = entry.parent.get();
    CheckpointInfo {
        id: CheckpointId(entry.id.get()),
        parent: (parent != 0).then_some(CheckpointId(parent)),
        time: UNIX_EPOCH.checked_add(Duration::from_millis(entry.time_ms.get())).unwrap_or(UNIX_EPOCH),
        bytes: entry.group.get(),
        objects: entry.objects.get() as usize,
        deltas,
    }
}
