//! The thread that checkpoints a whole program while it runs.
//!
//! The first checkpoint has all of the memory: it's copied while the program runs, behind a dirty log that was just
//! begun, so that the program stands still only for what it wrote meanwhile. Each later one has what changed since.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, ObjectName};
use nix::errno::Errno;

use super::OWNER;
use super::comeback::Comeback;
use super::door::{Door, Gone};
use super::figures::Figures;
use super::files::TakenFiles;
use super::orders::{Order, Orders, Refused};
use super::output::OutputSource;
use super::pages::Pages;
use super::saved::{self, Parts, SavedConfig, SavedError};
use super::take::{Source, TakeError, Taken, Untaken};
use crate::store::signature::{SignError, Signer, Staged};
use crate::store::{Sink, SinkError};

/// Between two looks at whether a checkpoint is committed; being told of it ends the wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a checkpoint isn't there.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The program has ended.
    #[error("the program has ended")]
    Gone,
    /// It couldn't be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// It couldn't be put together.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// It couldn't be signed.
    #[error("the checkpoint can't be signed")]
    Sign(#[from] SignError),
    /// It couldn't be written, as the log says.
    #[error("the store failed")]
    Store(#[source] Option<Errno>),
}

impl Failed {
    /// The store's refusal.
    fn store(error: SinkError) -> Self {
        let number = match error {
            SinkError::Failed(number) => i32::try_from(number).unwrap_or(0),
            SinkError::NoCheckpoint => 0,
        };
        Self::Store((number != 0).then(|| Errno::from_raw(number)))
    }
}

impl From<Gone> for Failed {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// All that the thread has.
pub(super) struct Checkpointer {
    pub(super) door: Arc<Door>,
    pub(super) source: Arc<Source>,
    pub(super) sink: Arc<Sink>,
    pub(super) level: Level,
    pub(super) config: SavedConfig,
    pub(super) figures: Arc<Mutex<Figures>>,
    /// What the next checkpoint is a change to, once the memory is followed.
    pub(super) parent: Option<CheckpointId>,
    /// Signs each.
    pub(super) signer: Option<Signer>,
    /// Buffers for the next one.
    pub(super) pages: Pages,
    /// Whether pages of files were taken for a checkpoint that didn't come to be.
    pub(super) files_lost: bool,
    /// The last failure that was told.
    pub(super) told: String,
}

impl Checkpointer {
    /// Checkpoints until the program has ended or [`Asker::stop`](super::orders::Asker::stop) is called.
    pub(super) fn run(mut self, orders: &Orders) {
        let every = self.config.every();
        // From the beginning of one to that of the next; what was missed isn't made up for.
        let after = || every.map(|every| Instant::now() + every);
        let mut next = after();
        loop {
            let order = match next {
                Some(next) => orders.recv_timeout(next.saturating_duration_since(Instant::now())),
                None => orders.recv().map_err(RecvTimeoutError::from),
            };
            let wanted = match order {
                Err(RecvTimeoutError::Timeout) => None,
                Ok(Order::Take(wanted)) => Some(wanted),
                Ok(Order::GoBack(comeback, answer)) => {
                    let left = self.go_back(&comeback);
                    let has_left = matches!(left, Ok(_) | Err(Failed::Gone));
                    let _ = answer.send(left.map_err(|failed| Refused::from(&failed)));
                    if has_left {
                        return;
                    }
                    continue;
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            };
            next = after();
            let taken = self.checkpoint();
            let gone = matches!(taken, Err(Failed::Gone));
            match &taken {
                Ok(_) => self.told.clear(),
                Err(Failed::Gone) => {}
                Err(failed) => self.tell(failed),
            }
            if let Some(wanted) = wanted {
                wanted.answer(taken.map_err(|failed| Refused::from(&failed)));
            }
            if gone {
                return;
            }
        }
    }

    /// Takes one and writes it.
    fn checkpoint(&mut self) -> Result<CheckpointId, Failed> {
        let begun = Instant::now();
        let (taken, pause) = self.take()?;
        let pages = taken.pages.len() as u64;
        let id = self.next_id();
        let written = self.write(id, &taken);
        let Taken { pages: buffer, changes, .. } = taken;
        self.pages = buffer;
        self.pages.clear();
        let bytes = match written {
            Ok(bytes) => bytes,
            Err(error) => {
                self.source.tracker.mark_again(&changes);
                self.source.tracker.hot().clear();
                self.source.told(false);
                self.files_lost = true;
                if self.sink.base().parent.is_none() {
                    // Nothing to be a change to any more.
                    self.parent = None;
                }
                return Err(error);
            }
        };
        self.parent = Some(id);
        self.source.tracker.hot().commit();
        self.source.told(true);
        self.files_lost = false;
        if let Err(error) = self.source.tracker.settle(&changes.untouched) {
            // What was written is in doubt: the next one has everything.
            self.parent = None;
            return Err(TakeError::from(error).into());
        }
        tracing::info!(id = id.0, pages, bytes, ?pause, all = ?begun.elapsed(), "a checkpoint of the program");
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).count(id, pages, bytes, pause);
        Ok(id)
    }

    /// Takes what the next one has, and how long the program stood still.
    fn take(&mut self) -> Result<(Taken, Duration), Failed> {
        let mut pages = std::mem::take(&mut self.pages);
        let anew = self.parent.is_none();
        if anew {
            self.take_all(&mut pages)?;
        }
        let incremental = !anew && !self.files_lost;
        let files = TakenFiles { incremental, ..TakenFiles::default() };
        let source = Arc::clone(&self.source);
        let (taken, pause) = self.door.at_stop(move |cpu| source.take(cpu, anew, pages, files))?;
        match taken {
            Ok(taken) => Ok((taken, pause)),
            Err(untaken) => {
                let Untaken { error, pages } = *untaken;
                self.pages = pages;
                self.pages.clear();
                self.files_lost = true;
                if matches!(error, TakeError::Log(_)) {
                    // A part of the log may have been read and cleared: the next one has everything.
                    self.parent = None;
                }
                Err(error.into())
            }
        }
    }

    /// Begins to follow the memory, and copies all of it while the program runs.
    fn take_all(&self, pages: &mut Pages) -> Result<(), Failed> {
        let mapped = self.source.begin(&self.door)?;
        let tracker = &self.source.tracker;
        let all = tracker.all(&mapped);
        pages.take(tracker.memory(), tracker.pagemap(), &all.content);
        pages.index();
        Ok(())
    }

    /// Ends the program's run. While the program stands, what it goes on from becomes the store's newest checkpoint:
    /// whoever is killed from then on comes back there, and not where the program was.
    fn go_back(&mut self, comeback: &Comeback) -> Result<CheckpointId, Failed> {
        let (sink, door, level) = (Arc::clone(&self.sink), Arc::clone(&self.door), self.level);
        let kept = self.source.output.as_ref().map_or(0, OutputSource::kept);
        comeback.check_output(kept)?;
        // Before the program is given up, as what can't be read would end the next machine. The program runs meanwhile,
        // and no checkpoint is taken, which could be the one too many that evicts this one.
        comeback.wait()?;
        let mut goes_on_from = comeback.id;
        let mut repetition = None;
        if sink.newest() != Some(comeback.id) {
            goes_on_from = self.next_id();
            let mut batch = sink.batch(goes_on_from, Some(comeback.id));
            if let Err(error) = self.repeat(comeback, kept, &mut batch) {
                sink.give_back(batch);
                return Err(error);
            }
            repetition = Some(batch);
        }
        let leave = move || {
            if let Some(batch) = repetition {
                commit(&sink, batch, level)?;
            }
            door.let_out();
            Ok(goes_on_from)
        };
        self.door.at_stop(move |_| leave())?.0
    }

    fn repeat(&self, comeback: &Comeback, kept: u64, batch: &mut Batch) -> Result<(), Failed> {
        comeback.repeat(batch, &self.config, kept)?;
        let key = self.signer.as_ref().map(Signer::key);
        self.sign(comeback.signer(key).0.as_ref(), batch, &Parts::default())?;
        Ok(())
    }

    fn next_id(&self) -> CheckpointId {
        // One that failed is never used again: the sink would say of the new one that it failed.
        let failed = self.sink.figures().failed;
        CheckpointId(self.sink.newest().map_or(0, |id| id.0).max(failed) + 1)
    }

    /// Has a checkpoint committed, and answers how many bytes the store has got.
    fn write(&mut self, id: CheckpointId, taken: &Taken) -> Result<u64, Failed> {
        // The program writes behind that meanwhile.
        let describe = |(output, length): (&OutputSource, u64)| output.describe(length);
        let output = self.source.output.as_ref().zip(taken.stdout).map(describe).transpose()?;
        let mut batch = self.sink.batch(id, self.parent);
        let written = saved::write(&mut batch, &self.config, taken, output, &mut self.source.tracker.hot());
        let signed = written
            .map_err(Failed::from)
            .and_then(|parts| Ok(self.sign(self.signer.as_ref(), &mut batch, &parts)?));
        let staged = match signed {
            Ok(staged) => staged,
            Err(error) => {
                self.sink.give_back(batch);
                return Err(error);
            }
        };
        let bytes = commit(&self.sink, batch, self.level)?;
        if let (Some(signer), Some(staged)) = (&mut self.signer, staged) {
            signer.accept(staged);
        }
        Ok(bytes)
    }

    /// Signs a batch that is a change to what `signer` signed last, and has `parts` of pages.
    fn sign(
        &self,
        signer: Option<&Signer>,
        batch: &mut Batch,
        parts: &Parts<'_>,
    ) -> Result<Option<Staged>, SignError> {
        let parent = batch.parent();
        let parent = || self.sink.snapshot(OWNER, parent?, PATIENCE).ok()?;
        let whole = |object: &ObjectName, page| parts.page(object, page);
        signer.map(|signer| signer.stage(batch, saved::comes_lazily, whole, parent)).transpose()
    }

    /// Tells a failure once for as long as it's the same.
    fn tell(&mut self, failed: &Failed) {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).failed += 1;
        let text = chain(failed);
        if text != self.told {
            tracing::warn!("no checkpoint now, the last one stays valid: {text}");
            self.told = text;
        }
    }
}

/// Has the store commit a batch; answers how many bytes it has got.
fn commit(sink: &Sink, batch: Batch, level: Level) -> Result<u64, Failed> {
    let id = batch.id();
    let before = sink.figures().bytes_written;
    // Nobody else has the store, so that nothing has failed since.
    sink.submit(batch, level, sink.base()).map_err(|_| Failed::Store(None))?;
    while sink.level_of(id, Some(level), PATIENCE).map_err(Failed::store)? < Some(level) {}
    Ok(sink.figures().bytes_written - before)
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
