//! What the writer and its compaction share: which checkpoints there are, and the manifest on the disk.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::Disk;
use crate::format::manifest::{Entry, Manifest};
use crate::format::segment::file_name;
use crate::{Options, StoreError, create};

/// What the store holds, by the writer's knowledge.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The manifest on the disk.
    pub(crate) manifest: Manifest,
    /// All checkpoints by id, those too that are only there because others take from them.
    pub(crate) entries: BTreeMap<u64, Entry>,
    /// The number of the next segment.
    pub(crate) next_segment: u64,
    /// Checkpoints below this are being dropped: none of them can become a parent.
    pub(crate) floor: u64,
    /// The parent of a checkpoint that is being committed: it must stay.
    pub(crate) pinned: Option<u64>,
    /// Where the active segment ends.
    pub(crate) active_end: u64,
    /// Whether no fsync of the directory has failed since the last one that succeeded. If one has, a loss of power may
    /// bring back an older manifest, and with it an older active segment.
    pub(crate) settled: bool,
    /// Segments that no manifest needs once the present one is settled.
    pub(crate) gone: Vec<u64>,
}

/// The state and the way to change it on the disk. Locks are taken in the order of the fields.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    /// Held by whoever compacts.
    pub(crate) compacting: Mutex<()>,
    /// Held by whoever replaces the manifest: commits go on meanwhile.
    replacing: Mutex<()>,
    state: Mutex<State>,
    /// What the compaction's thread is to do.
    pub(crate) work: Mutex<Work>,
    /// Tells of changes of `work`.
    pub(crate) changed: Condvar,
}

/// What the compaction's thread is to do.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Work {
    /// Something was committed since it last looked.
    pub(crate) wanted: bool,
    /// It is to end.
    pub(crate) stop: bool,
    /// How often it has looked.
    pub(crate) rounds: u64,
}

impl State {
    /// The oldest checkpoint that may be asked for.
    pub(crate) fn oldest_kept(&self) -> u64 {
        oldest_kept(&self.manifest, &self.entries)
    }

    /// The ids that are kept, or that a kept one takes pages from.
    fn needed(&self) -> HashSet<u64> {
        let mut needed = HashSet::new();
        let kept = self.entries.range(self.oldest_kept()..).map(|(id, _)| *id);
        for root in kept.chain(self.pinned) {
            let mut id = root;
            while needed.insert(id) {
                match self.entries.get(&id).map(|entry| entry.base.get()) {
                    Some(base) if base != 0 => id = base,
                    _ => break,
                }
            }
        }
        needed
    }

    /// Forgets what nobody needs, and the segments that then hold nothing; answers their numbers.
    fn forget(&mut self) -> Vec<u64> {
        let needed = self.needed();
        self.manifest.oldest_kept = self.oldest_kept();
        self.entries.retain(|id, _| needed.contains(id));
        let used: HashSet<u64> = self.entries.values().map(|entry| entry.segment.get()).collect();
        let mut gone = Vec::new();
        self.manifest.segments.retain(|segment| {
            let stays = used.contains(&segment.number.get());
            if !stays {
                gone.push(segment.number.get());
            }
            stays
        });
        gone
    }
}

/// The oldest checkpoint that may be asked for: by what was dropped already, and by the number that is kept.
pub(crate) fn oldest_kept(manifest: &Manifest, entries: &BTreeMap<u64, Entry>) -> u64 {
    let by_number = usize::try_from(manifest.keep).ok().filter(|keep| *keep != 0);
    let newest = by_number.and_then(|keep| entries.keys().nth_back(keep - 1)).copied();
    newest.unwrap_or(0).max(manifest.oldest_kept)
}

impl Shared {
    pub(crate) fn new(directory: PathBuf, disk: Arc<dyn Disk>, options: Options, state: State) -> Self {
        Self {
            directory,
            disk,
            options,
            compacting: Mutex::default(),
            replacing: Mutex::default(),
            state: Mutex::new(state),
            work: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A number for a new segment.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.state();
        let number = state.next_segment;
        state.next_segment += 1;
        number
    }

    /// Changes the state and puts the manifest that says so in the place of the present one. On an error nothing is
    /// changed. Commits may add checkpoints meanwhile: to the active segment, which the manifest doesn't list.
    ///
    /// Once the manifest has its name there is no way back, so if only the directory can't be synced the change is made
    /// all the same, and [`Shared::settle`] is what is left to do.
    pub(crate) fn replace(&self, change: impl FnOnce(&mut State)) -> Result<(), StoreError> {
        let _turn = lock(&self.replacing);
        if let Err(error) = self.put(change)? {
            tracing::warn!("what happened to the store isn't certain to outlive the power: {error}");
        }
        Ok(())
    }

    /// Returns when the manifest is on the disk, name and all.
    ///
    /// # Errors
    /// The host's; then what is in the active segment may be lost with the power, synced or not.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        if self.state().settled {
            return Ok(());
        }
        let _turn = lock(&self.replacing);
        if self.state().settled {
            return Ok(());
        }
        // Written once more: another fsync says nothing of what a failed one lost.
        self.put(|_| {})?
    }

    /// Puts a manifest in the place of the present one, and answers whether that is certain. On an outer error nothing
    /// is changed. Only whoever holds `replacing` may call this.
    fn put(&self, change: impl FnOnce(&mut State)) -> Result<Result<(), StoreError>, StoreError> {
        let mut next;
        let (before, gone): (Vec<u64>, Vec<u64>);
        {
            let mut state = self.state();
            next = state.clone();
            before = next.entries.keys().copied().collect();
            change(&mut next);
            gone = next.forget();
            state.floor = next.manifest.oldest_kept;
        }
        next.manifest.generation += 1;
        next.manifest.next_segment = next.next_segment;
        let finished = next.entries.values().filter(|entry| entry.segment.get() != next.manifest.active);
        next.manifest.checkpoints = finished.copied().collect();
        next.manifest.segments.sort_unstable_by_key(|segment| segment.number.get());
        if let Err(error) = create::put_manifest(&self.directory, &*self.disk, &next.manifest) {
            let mut state = self.state();
            state.floor = state.manifest.oldest_kept;
            return Err(error);
        }
        {
            let mut state = self.state();
            for id in before {
                match next.entries.get(&id) {
                    Some(entry) => drop(state.entries.insert(id, *entry)),
                    None => drop(state.entries.remove(&id)),
                }
            }
            state.manifest = next.manifest;
            state.gone.extend(gone);
        }
        if let Err(error) = self.disk.sync_directory() {
            self.state().settled = false;
            return Ok(Err(StoreError::io("sync", &self.directory, error)));
        }
        let gone = {
            let mut state = self.state();
            state.settled = true;
            std::mem::take(&mut state.gone)
        };
        for number in gone {
            // What can't be deleted now is deleted when a writer opens the store again.
            if let Err(error) = self.disk.remove(&file_name(number)) {
                tracing::warn!("segment {number} of {} can't be deleted: {error}", self.directory.display());
            }
        }
        Ok(Ok(()))
    }
}

/// Locks, whoever panicked while holding it: what these locks guard is replaced as a whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
