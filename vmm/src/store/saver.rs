//! Does what the checkpoint device's session decided about the store.

use std::sync::Arc;
use std::time::Duration;

use cairn_abi::reply::{Durability, StoredRegion};
use cairn_abi::{CheckpointId, Level, RegionId, RegionName, Span};
use cairn_engine::{ChangeSink, Engine, GatherPlace, PAGE_SIZE, Tracker};
use cairn_store::{Batch, BatchError, Object, ObjectIndex, ObjectName, Snapshot};

use super::loading::{Loading, Progress};
use super::sink::{Base, Owner, Sink, SinkError, from_abi, to_abi};
use crate::checkpoint::Keeping;
use crate::devices::checkpoint::{Again, Effect, Failure, Outcome, RegionSpan};

/// How long a program may be kept waiting inside a request, where nobody else has to wait for its CPU. Long for a
/// disk, and short for a person who asks `cairn stats`.
pub const SAVER_PATIENCE: Duration = Duration::from_millis(50);
/// Pages that are gathered in one request where nobody may be kept waiting: as many as the engine takes in one try. Few
/// in tests, whose regions are small.
const PAGES_PER_TRY: u64 = if cfg!(test) { 7 } else { 65_536 };

/// The store's side of one session after the other.
#[derive(Debug)]
pub struct Saver {
    /// `None` if the guest was started without a store: no session has the feature then.
    sink: Option<Arc<Sink>>,
    owner: Owner,
    patience: Duration,
    regions: Vec<SavedRegion>,
    /// The first checkpoint of this session that the store has or was handed: batches on top of it, and of those
    /// that follow, needn't be complete.
    first: Option<CheckpointId>,
    /// Failures of the sink that the engine knows of.
    failures: u64,
    loading: Option<Loading>,
    /// A checkpoint that was taken, and is still being gathered.
    handing: Option<Handing>,
    /// What was looked at last.
    looked: Option<(CheckpointId, Arc<Snapshot>)>,
}

/// A checkpoint of which some was gathered. Until all is, it must stay the engine's newest.
#[derive(Debug)]
struct Handing {
    id: CheckpointId,
    level: Level,
    base: Base,
    batch: Batch,
    /// The region that is being gathered, in the batch.
    object: Option<ObjectIndex>,
    place: GatherPlace,
}

/// A region as the store is to know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SavedRegion {
    pub(super) id: RegionId,
    pub(super) name: RegionName,
    pub(super) span: RegionSpan,
    pub(super) tag: u64,
}

impl Saver {
    /// The store's side of the sessions that are numbered `owner`. A request may take as long as `patience`: zero
    /// where a kernel's CPU would stand still.
    #[must_use]
    pub fn new(sink: Option<Arc<Sink>>, owner: Owner, patience: Duration) -> Self {
        let (first, loading, handing, looked) = (None, None, None, None);
        Self { sink, owner, patience, regions: Vec::new(), first, failures: 0, loading, handing, looked }
    }

    /// Does the effect, if need be with the help of `act`, which does all others.
    pub fn act<K: Keeping>(
        &mut self,
        effect: Effect,
        keeper: &mut K,
        act: &mut dyn FnMut(&mut K, Effect) -> Outcome,
    ) -> Outcome {
        let Some(sink) = self.sink.clone() else { return act(keeper, effect) };
        let goes_on = matches!(effect, Effect::Recover(_));
        if !goes_on && self.loading.take().is_some() {
            tracing::debug!("a checkpoint that was being recovered is given up");
        }
        if self.handing.is_some() {
            let pages = if may_be_gathering(&effect) { self.pages_per_try() } else { u64::MAX };
            self.hand_over(&sink, keeper.engine_mut(), pages);
        }
        match effect {
            Effect::DropAll => {
                let outcome = act(keeper, effect);
                self.forget_session(&sink, keeper);
                outcome
            }
            Effect::AddRegion { span, name, tag, .. } => {
                let outcome = act(keeper, effect);
                if let Outcome::Region(id) = outcome {
                    self.regions.push(SavedRegion { id, name, span, tag });
                }
                outcome
            }
            Effect::RemoveRegion(id) => {
                let outcome = act(keeper, effect);
                if outcome == Outcome::Done {
                    self.forget_region(id);
                }
                outcome
            }
            Effect::CheckpointDurable(level, again) => {
                self.checkpoint(&sink, (level, again), keeper, act).unwrap_or_else(Outcome::Failed)
            }
            Effect::Durability(id, wanted) => {
                self.durability(&sink, id, wanted).unwrap_or_else(Outcome::Failed)
            }
            Effect::StoreFigures => Outcome::Store(sink.figures()),
            Effect::Stored(id, name) => self.stored(&sink, id, name).unwrap_or_else(Outcome::Failed),
            Effect::Recover(id) => self.recover(&sink, id, keeper).unwrap_or_else(Outcome::Failed),
            other => act(keeper, other),
        }
    }

    /// Forgets a region that ended without a request.
    pub fn forget_region(&mut self, region: RegionId) {
        self.regions.retain(|known| known.id != region);
    }

    fn forget_session<K: Keeping>(&mut self, sink: &Sink, keeper: &mut K) {
        sink.unclaim(self.owner);
        self.regions.clear();
        (self.first, self.looked) = (None, None);
        self.skip_ids(sink, keeper);
    }

    fn skip_ids<K: Keeping>(&self, sink: &Sink, keeper: &mut K) {
        if let Some(newest) = sink.newest() {
            keeper.engine_mut().skip_ids(newest);
        }
    }

    fn checkpoint<K: Keeping>(
        &mut self,
        sink: &Sink,
        (level, again): (Level, Again),
        keeper: &mut K,
        act: &mut dyn FnMut(&mut K, Effect) -> Outcome,
    ) -> Result<Outcome, Failure> {
        self.claim(sink)?;
        if again == Again::No {
            if self.handing.is_some() || !sink.has_room(self.patience) {
                return Err(Failure::Busy);
            }
            self.skip_ids(sink, keeper);
        }
        let outcome = act(keeper, Effect::Checkpoint(again));
        let Outcome::Checkpoint(id) = outcome else { return Ok(outcome) };
        self.handing = Some(self.begin_handing(sink, (id, level), keeper.engine_mut()));
        self.hand_over(sink, keeper.engine_mut(), self.pages_per_try());
        Ok(Outcome::Durability(Durability { id, reached: None }))
    }

    /// Pages that a request may take the time for.
    fn pages_per_try(&self) -> u64 {
        if self.patience.is_zero() { PAGES_PER_TRY } else { u64::MAX }
    }

    /// Begins to gather checkpoint `id`, which was just taken.
    fn begin_handing<T: Tracker>(
        &mut self,
        sink: &Sink,
        (id, level): (CheckpointId, Level),
        engine: &mut Engine<T>,
    ) -> Handing {
        let mut base = sink.base();
        if base.failures != self.failures {
            engine.not_saved();
            self.failures = base.failures;
        } else if base.idle {
            engine.saved();
        }
        // What another session left is of no use: its regions aren't these.
        base.parent = base.parent.filter(|parent| self.first.is_some_and(|first| first <= *parent));
        let batch = sink.batch(id, base.parent);
        Handing { id, level, base, batch, object: None, place: GatherPlace::default() }
    }

    /// Gathers as much as `pages` of what the checkpoint that is being handed over has and the store hasn't. Hands it
    /// over when that is all.
    fn hand_over<T: Tracker>(&mut self, sink: &Sink, engine: &mut Engine<T>, pages: u64) {
        while let Some(mut handing) = self.handing.take() {
            let (id, level, base) = (handing.id, handing.level, handing.base);
            let from_nothing = base.parent.is_none();
            let mut gathering =
                Gathering { batch: &mut handing.batch, regions: &self.regions, object: &mut handing.object };
            match engine.gather(from_nothing, &mut handing.place, pages, &mut gathering) {
                Ok(true) => {}
                Ok(false) => {
                    self.handing = Some(handing);
                    return;
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, %id, "a checkpoint can't be stored");
                    sink.give_back(handing.batch);
                    sink.note_failed(id);
                    return;
                }
            }
            match sink.submit(handing.batch, from_abi(level), base) {
                Ok(()) if from_nothing => self.first = Some(id),
                Ok(()) => {}
                // The store failed meanwhile, and has nothing in hand any more.
                Err(batch) => {
                    sink.give_back(*batch);
                    self.handing = Some(self.begin_handing(sink, (id, level), engine));
                }
            }
        }
    }

    fn durability(&self, sink: &Sink, id: CheckpointId, wanted: Option<Level>) -> Result<Outcome, Failure> {
        if self.handing.as_ref().is_some_and(|handing| handing.id == id) {
            return Ok(Outcome::Durability(Durability { id, reached: None }));
        }
        let patience = if wanted.is_some() { self.patience } else { Duration::ZERO };
        let reached = sink.level_of(id, wanted.map(from_abi), patience).map_err(failure)?;
        Ok(Outcome::Durability(Durability { id, reached: reached.map(to_abi) }))
    }

    fn stored(
        &mut self,
        sink: &Sink,
        id: Option<CheckpointId>,
        name: RegionName,
    ) -> Result<Outcome, Failure> {
        let (id, snapshot) = self.look(sink, id)?;
        let object = snapshot.objects().iter().find(|object| object.name.as_str() == name.as_str());
        let object = object.ok_or(Failure::NoRegion)?;
        stored_region(id, object).map(Outcome::Stored).ok_or(Failure::NoRegion)
    }

    fn recover<K: Keeping>(
        &mut self,
        sink: &Sink,
        id: Option<CheckpointId>,
        keeper: &mut K,
    ) -> Result<Outcome, Failure> {
        self.claim(sink)?;
        let engine = keeper.engine_mut();
        if !engine.is_fresh() {
            return Err(Failure::NotFresh);
        }
        let wanted = id.or(sink.committed()).ok_or(Failure::NoCheckpoint)?;
        let mut loading = match self.loading.take().filter(|loading| loading.id() == wanted) {
            Some(loading) => loading,
            None => {
                let (id, snapshot) = self.look(sink, Some(wanted))?;
                Loading::begin(id, snapshot, &self.regions)?
            }
        };
        if loading.go_on(engine)? == Progress::More {
            self.loading = Some(loading);
            return Err(Failure::Busy);
        }
        // Only what is newest can be built on: the store's checkpoints are a chain.
        let is_base = sink.base().parent == Some(wanted);
        engine.end_import(wanted, is_base).map_err(|_| Failure::NoMemory)?;
        self.skip_ids(sink, keeper);
        self.first = is_base.then_some(wanted);
        self.looked = None;
        Ok(Outcome::Checkpoint(wanted))
    }

    /// A stored checkpoint; the newest if none is named.
    fn look(
        &mut self,
        sink: &Sink,
        id: Option<CheckpointId>,
    ) -> Result<(CheckpointId, Arc<Snapshot>), Failure> {
        let id = id.or(sink.committed()).ok_or(Failure::NoCheckpoint)?;
        if let Some((known, snapshot)) = self.looked.as_ref().filter(|(known, _)| *known == id) {
            return Ok((*known, Arc::clone(snapshot)));
        }
        let snapshot = sink.snapshot(self.owner, id, self.patience).map_err(failure)?.ok_or(Failure::Busy)?;
        self.looked = Some((id, Arc::clone(&snapshot)));
        Ok((id, snapshot))
    }

    fn claim(&self, sink: &Sink) -> Result<(), Failure> {
        if sink.claim(self.owner) {
            return Ok(());
        }
        tracing::warn!("a session wants the store while another one has it");
        Err(Failure::Store(libc::EBUSY.unsigned_abs()))
    }
}

/// Whether a checkpoint may still be gathered when this is done. Whoever asks for durability asks again, as does whoever
/// wants the next durable checkpoint; all else may change what is to be gathered.
fn may_be_gathering(effect: &Effect) -> bool {
    use Effect::{CheckpointDurable, Durability, Hint, StoreFigures, Stored};
    matches!(effect, CheckpointDurable(..) | Durability(..) | Hint(..) | StoreFigures | Stored(..))
}

/// An object as the contract with programs says it; `None` if it can't be a region's.
pub(super) fn stored_region(checkpoint: CheckpointId, object: &Object) -> Option<StoredRegion> {
    let name = RegionName::new(object.name.as_str().as_bytes()).ok()?;
    let span = Span { address: object.address, len: object.pages.checked_mul(PAGE_SIZE as u64)? };
    Some(StoredRegion { checkpoint, name, span, tag: object.tag })
}

fn failure(error: SinkError) -> Failure {
    match error {
        SinkError::Failed(errno) => Failure::Store(errno),
        SinkError::NoCheckpoint => Failure::NoCheckpoint,
    }
}

/// Puts what the engine tells into a batch.
struct Gathering<'a> {
    batch: &'a mut Batch,
    regions: &'a [SavedRegion],
    object: &'a mut Option<ObjectIndex>,
}

impl Gathering<'_> {
    fn object(&self) -> Result<ObjectIndex, BatchError> {
        self.object.ok_or(BatchError::TooMany("pages without an object"))
    }
}

impl ChangeSink for Gathering<'_> {
    type Error = BatchError;

    fn region(&mut self, region: RegionId, pages: usize) -> Result<(), BatchError> {
        let known = self.regions.iter().find(|known| known.id == region);
        let SavedRegion { name, span, tag, .. } = known.ok_or(BatchError::NoSuchObject(region.0))?;
        let name = ObjectName::new(name.as_str())?;
        let object = Object { name, tag: *tag, address: span.address(), pages: pages as u64 };
        *self.object = Some(self.batch.object(object)?);
        Ok(())
    }

    fn zero(&mut self, pages: std::ops::Range<usize>) -> Result<(), BatchError> {
        self.batch.zero(self.object()?, pages.start as u64..pages.end as u64)
    }

    fn page(&mut self, page: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), BatchError> {
        self.batch.page(self.object()?, page as u64, bytes)
    }

    fn chunks(&mut self, page: usize, mask: u64, bytes: &[u8]) -> Result<(), BatchError> {
        self.batch.chunks(self.object()?, page as u64, mask, bytes)
    }
}

#[cfg(test)]
#[path = "saver_tests.rs"]
mod tests;
