//! The thread that commits batches, and what it tells of its progress.

use std::collections::VecDeque;
use std::io;
use std::mem::{Discriminant, discriminant};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cairn_abi::CheckpointId;
use cairn_abi::reply::StoreFigures;
use cairn_store::{Batch, BatchError, Level, Snapshot, StoreError};

use super::disk::{Disk, errno};
use super::readings::Readings;
use crate::host::thread::start_confined;

/// Batches that wait while one is written. Bounds what checkpoints cost in memory when the disk is slower than the
/// program: with the one that is written, as much again as the regions have at most for each.
pub const MAX_WAITING: usize = 1;
/// Checkpoints that failed of which it's known that they did. An older one is taken for one that never was handed over.
const MAX_FAILED: usize = 64;

/// Bytes that a batch may have whose buffers are kept for another: a rare large one, as the first is, gives its
/// memory back.
const MAX_SPARE_BYTES: usize = 64 << 20;

/// A store in use. Dropping it writes and syncs what was handed over.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Who has the store: the number of a session, or whoever else makes checkpoints for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(pub u32);

/// What the next batch comes on top of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// The newest checkpoint that is committed or on its way; `None` if the next one must be complete in itself.
    pub parent: Option<CheckpointId>,
    /// How many commits have failed so far: a batch that was made for another number doesn't fit.
    pub failures: u64,
    /// Whether all that was handed over is committed, or failed.
    pub idle: bool,
}

/// Why the sink can't answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SinkError {
    /// The store failed, with this errno or 0; it was logged.
    #[error("the store failed")]
    Failed(u32),
    /// No such checkpoint was handed over, or is stored.
    #[error("the store has no such checkpoint")]
    NoCheckpoint,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// For the sink's thread.
    work: Condvar,
    /// For those who wait for it.
    progress: Condvar,
    level_of_all: Option<Level>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// What is being committed, with its bytes.
    writing: Option<(CheckpointId, usize)>,
    /// Buffers to be used again.
    spare: Vec<Batch>,
    written: Option<CheckpointId>,
    synced: Option<CheckpointId>,
    failed: VecDeque<(CheckpointId, u32)>,
    failures: u64,
    /// The next batch must be complete in itself, whatever is committed.
    begins_anew: bool,
    committed: u64,
    bytes_written: u64,
    owner: Option<Owner>,
    readings: Readings,
    /// The kind and the errno of the last commit's failure, which was told.
    told: Option<(Discriminant<StoreError>, u32)>,
    stop: bool,
    ended: bool,
}

#[derive(Debug)]
struct Job {
    batch: Batch,
    level: Level,
}

impl Sink {
    /// Starts the thread over `disk`. `confine` is called on it first. `level_of_all` is what programs are told
    /// that every checkpoint shall have.
    ///
    /// # Errors
    /// The thread can't be made, or `confine`'s.
    pub fn start<D: Disk + 'static>(
        disk: D,
        level_of_all: Option<Level>,
        confine: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let newest = disk.newest();
        // What an earlier process wrote may have been synced; nobody knows.
        let state = State { written: newest, ..State::default() };
        let (work, progress) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { state: Mutex::new(state), work, progress, level_of_all });
        let served = Arc::clone(&shared);
        let thread = start_confined("store", confine, move || served.serve(disk))??;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Makes `owner` the only one whose checkpoints are taken. Answers whether it is.
    #[must_use]
    pub fn claim(&self, owner: Owner) -> bool {
        *self.lock().owner.get_or_insert(owner) == owner
    }

    /// Lets others claim the store, if it was `owner` who has it. What it wanted to read is forgotten.
    pub fn unclaim(&self, owner: Owner) {
        let mut state = self.lock();
        state.readings.forget(owner);
        if state.owner == Some(owner) {
            state.owner = None;
        }
    }

    /// Whether a batch would be taken, after `patience` at the latest.
    #[must_use]
    pub fn has_room(&self, patience: Duration) -> bool {
        let state = self.wait(patience, |state| state.waiting.len() < MAX_WAITING || state.ended);
        state.waiting.len() < MAX_WAITING
    }

    /// The newest checkpoint that is committed or on its way: the next one's id must be greater.
    #[must_use]
    pub fn newest(&self) -> Option<CheckpointId> {
        self.lock().newest()
    }

    /// The newest that is committed.
    #[must_use]
    pub fn committed(&self) -> Option<CheckpointId> {
        self.lock().written
    }

    /// What the next batch comes on top of.
    #[must_use]
    pub fn base(&self) -> Base {
        let state = self.lock();
        let parent = if state.begins_anew { None } else { state.newest() };
        Base { parent, failures: state.failures, idle: state.is_idle() }
    }

    /// An empty batch, with the buffers of an earlier one if there are any.
    #[must_use]
    pub fn batch(&self, id: CheckpointId, parent: Option<CheckpointId>) -> Batch {
        match self.lock().spare.pop() {
            Some(mut batch) => {
                batch.reset(id, parent);
                batch
            }
            None => Batch::new(id, parent),
        }
    }

    /// Hands a batch over that was made on top of `base`. Whether there is [room](Self::has_room) is for the
    /// caller to ask before.
    ///
    /// # Errors
    /// The batch: what it's based on has failed since, so it must be made anew.
    pub fn submit(&self, batch: Batch, level: Level, base: Base) -> Result<(), Box<Batch>> {
        let mut state = self.lock();
        if state.failures != base.failures {
            return Err(Box::new(batch));
        }
        if state.ended {
            // The thread has panicked.
            state.note_failed(batch.id(), 0);
            return Ok(());
        }
        state.begins_anew = false;
        state.waiting.push_back(Job { batch, level });
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Takes a batch back that wasn't submitted, for its buffers.
    pub fn give_back(&self, batch: Batch) {
        self.lock().keep(batch);
    }

    /// Notes that `id` could not even be handed over.
    pub fn note_failed(&self, id: CheckpointId) {
        self.lock().note_failed(id, 0);
    }

    /// The level that `id`, or a newer checkpoint, has reached: when `wanted` is, or after `patience`.
    ///
    /// # Errors
    /// [`SinkError::Failed`]: `id` couldn't be stored. [`SinkError::NoCheckpoint`].
    pub fn level_of(
        &self,
        id: CheckpointId,
        wanted: Option<Level>,
        patience: Duration,
    ) -> Result<Option<Level>, SinkError> {
        let reached = |state: &State| match state.level_of(id) {
            Ok(level) => wanted.is_none_or(|wanted| Some(wanted) <= level) || state.is_idle(),
            Err(_) => true,
        };
        self.wait(patience, reached).level_of(id)
    }

    /// A committed checkpoint, to be read by `owner`. `None` if it takes longer than `patience`: the next call asks for
    /// the same. Of each owner it's the last one asked for that is read.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn snapshot(
        &self,
        owner: Owner,
        id: CheckpointId,
        patience: Duration,
    ) -> Result<Option<Arc<Snapshot>>, SinkError> {
        if self.lock().readings.want(owner, id) {
            self.shared.work.notify_one();
        }
        let mut state = self.wait(patience, |state| state.ended || state.readings.is_found(owner, id));
        match state.readings.take(owner, id) {
            Some(found) => found.map(Some),
            None if state.ended => Err(SinkError::Failed(0)),
            None => Ok(None),
        }
    }

    /// State and figures.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        let state = self.lock();
        let number = |id: Option<CheckpointId>| id.map_or(0, |id| id.0);
        let queued = state.waiting.len() + usize::from(state.writing.is_some());
        let waiting: usize = state.waiting.iter().map(|job| job.batch.bytes()).sum();
        let bytes_queued = waiting + state.writing.map_or(0, |(_, bytes)| bytes);
        let failed = state.failed.back().copied();
        StoreFigures {
            written: number(state.written),
            synced: number(state.synced),
            committed: state.committed,
            bytes_written: state.bytes_written,
            bytes_queued: bytes_queued as u64,
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
            level_of_all: self.shared.level_of_all.map(to_abi),
            failed: number(failed.map(|(id, _)| id)),
            failed_errno: failed.map_or(0, |(_, errno)| errno),
        }
    }

    /// Waits until `done`, but no longer than `patience`.
    fn wait(&self, patience: Duration, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = match self.shared.progress.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.lock().stop = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve<D: Disk>(&self, mut disk: D) {
        let _ending = Ending(self);
        let mut state = self.lock();
        // Whoever always wants to read something doesn't keep a batch from being written.
        let mut has_read = false;
        loop {
            let may_read = !has_read || state.waiting.is_empty();
            has_read = false;
            if may_read && let Some((owner, id)) = state.readings.next() {
                drop(state);
                let found = read(&disk, id);
                state = self.lock();
                state.readings.found(owner, id, found);
                has_read = true;
            } else if let Some(job) = state.waiting.pop_front() {
                state.writing = Some((job.batch.id(), job.batch.bytes()));
                drop(state);
                self.progress.notify_all();
                let result = disk.commit(&job.batch, job.level);
                state = self.lock();
                state.ended_commit(job, result, disk.newest());
            } else if state.stop {
                break;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            self.progress.notify_all();
        }
        let unsynced = state.committed != 0 && state.synced < state.written;
        drop(state);
        if unsynced && let Err(error) = disk.sync() {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                "the store isn't known to be on the disk: a power failure may cost checkpoints"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells those who wait that nobody will answer any more.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        // Only a panic leaves any.
        while let Some(id) = state
            .writing
            .take()
            .map(|(id, _)| id)
            .or_else(|| state.waiting.pop_front().map(|job| job.batch.id()))
        {
            state.note_failed(id, 0);
        }
        drop(state);
        self.0.progress.notify_all();
    }
}

fn read<D: Disk>(disk: &D, id: CheckpointId) -> Result<Arc<Snapshot>, SinkError> {
    disk.snapshot(id).map_err(|error| match error {
        StoreError::Unknown { .. } => SinkError::NoCheckpoint,
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, %id, "a stored checkpoint can't be read");
            SinkError::Failed(errno(&error))
        }
    })
}

impl State {
    fn newest(&self) -> Option<CheckpointId> {
        let waiting = self.waiting.back().map(|job| job.batch.id());
        waiting.or(self.writing.map(|(id, _)| id)).or(self.written)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_none()
    }

    fn level_of(&self, id: CheckpointId) -> Result<Option<Level>, SinkError> {
        if let Some((_, errno)) = self.failed.iter().find(|(failed, _)| *failed == id) {
            return Err(SinkError::Failed(*errno));
        }
        match () {
            () if Some(id) <= self.synced => Ok(Some(Level::Synced)),
            () if Some(id) <= self.written => Ok(Some(Level::Written)),
            () if Some(id) <= self.newest() => Ok(None),
            () => Err(SinkError::NoCheckpoint),
        }
    }

    fn ended_commit(&mut self, job: Job, result: Result<u64, StoreError>, newest: Option<CheckpointId>) {
        let Job { batch, level } = job;
        let id = batch.id();
        self.writing = None;
        match result {
            Ok(bytes) => {
                self.committed += 1;
                self.bytes_written += bytes;
                self.told = None;
                self.readings.forget_failures();
                self.written = Some(id);
                if level == Level::Synced {
                    self.synced = Some(id);
                }
            }
            Err(error) => {
                let number = errno(&error);
                self.tell(&error, id, number);
                // After a failed fsync the store may have lost what was committed.
                self.begins_anew = needs_complete(&error) || newest < self.written;
                self.failures += 1;
                self.written = newest;
                self.synced = self.synced.min(newest);
                self.note_failed(id, number);
                // What waits is on top of it.
                while let Some(Job { batch, .. }) = self.waiting.pop_front() {
                    self.note_failed(batch.id(), number);
                    self.keep(batch);
                }
            }
        }
        self.keep(batch);
    }

    /// Tells a failure once for as long as it's the same.
    fn tell(&mut self, error: &StoreError, id: CheckpointId, errno: u32) {
        let failure = (discriminant(error), errno);
        let error = error as &dyn std::error::Error;
        if self.told.replace(failure) == Some(failure) {
            tracing::debug!(error, %id, "a checkpoint couldn't be stored, as the one before");
        } else {
            tracing::error!(error, %id, "a checkpoint couldn't be stored");
        }
    }

    fn note_failed(&mut self, id: CheckpointId, errno: u32) {
        if self.failed.len() == MAX_FAILED {
            self.failed.pop_front();
        }
        self.failed.push_back((id, errno));
    }

    fn keep(&mut self, batch: Batch) {
        if self.spare.len() <= MAX_WAITING && batch.bytes() <= MAX_SPARE_BYTES {
            self.spare.push(batch);
        }
    }
}

/// Whether a commit failed because of what its batch is a change to: only a complete one can follow.
fn needs_complete(error: &StoreError) -> bool {
    use StoreError::{Batch, Chain, Deleted};
    matches!(error, Deleted { .. } | Chain { .. } | Batch { source: BatchError::Parent(_), .. })
}

/// The level in the contract with programs.
pub(super) fn to_abi(level: Level) -> cairn_abi::Level {
    match level {
        Level::Written => cairn_abi::Level::Written,
        Level::Synced => cairn_abi::Level::Synced,
    }
}

/// The store's word for a level of the contract.
pub(super) fn from_abi(level: cairn_abi::Level) -> Level {
    match level {
        cairn_abi::Level::Written => Level::Written,
        cairn_abi::Level::Synced => Level::Synced,
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
