//! Does what the checkpoint device's session decided: effects in, outcomes out.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use cairn_abi::reply::{Ask, Missing, SessionFigures};
use cairn_abi::{RegionId, RegionMode, RegionName, Span};
use cairn_engine::{Config, Engine, HostCosts, LiveMemory, Pool, Rule};

use crate::checkpoint::app_tracker::{AppTracker, TrackerParts};
use crate::checkpoint::effects;
use crate::checkpoint::keeping::Keeping;
use crate::devices::checkpoint::{Effect, Failure, Outcome, RegionSpan};
use crate::kvm::slots::SlotMap;
use crate::kvm::system::KvmError;
use crate::memory::layout::PAGE;
use crate::memory::view::View;

/// Pages that a request compares before it lets the guest run on for a moment: 256 MiB, which takes a slow host a
/// few seconds at worst. Linux complains of a CPU that was stuck for 20.
const MAX_PAGES_PER_TRY: u64 = 65_536;

/// What a keeper may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeeperConfig {
    /// Checkpoints that are retained.
    pub history: NonZeroUsize,
    /// Bytes that all regions may have together.
    pub max_region_bytes: u64,
    /// Bytes that all checkpoints may have together: the oldest go until they fit. One that doesn't fit alone fails, and
    /// the others hold.
    pub max_history_bytes: u64,
    /// What things cost here.
    pub costs: HostCosts,
    /// Whether checkpoints go into a store, too.
    pub stores: bool,
}

impl KeeperConfig {
    /// What the engine is told.
    pub(super) fn engine(self) -> Config {
        let Self { history, max_region_bytes, max_history_bytes, costs, stores: records_changes } = self;
        let rule = Rule::Model;
        let max_pages_per_try = MAX_PAGES_PER_TRY;
        Config {
            history,
            max_region_bytes,
            max_history_bytes,
            max_pages_per_try,
            rule,
            costs,
            records_changes,
            ..Config::default()
        }
    }
}

/// The engine of one session after the other, and the memslots of its regions.
#[derive(Debug)]
pub struct Keeper {
    engine: Engine<AppTracker>,
    config: KeeperConfig,
    pool: Option<Arc<Pool>>,
    parts: TrackerParts,
    /// A span that has its memslot and waits for the program to touch its pages.
    prepared: Option<Range<u64>>,
}

impl Keeping for Keeper {
    type Tracker = AppTracker;

    fn engine_mut(&mut self) -> &mut Engine<AppTracker> {
        &mut self.engine
    }
}

impl Keeper {
    /// A keeper of nothing. The threads of `pool` help it.
    #[must_use]
    pub fn new(parts: TrackerParts, config: KeeperConfig, pool: Option<Arc<Pool>>) -> Self {
        let engine = Engine::new(parts.tracker(), config.engine()).with_pool(pool.clone());
        Self { engine, config, pool, parts, prepared: None }
    }

    /// Makes room in KVM's log of what the program writes, which is nearly full.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn empty_log(&mut self) -> Result<(), KvmError> {
        self.engine.tracker_mut().make_room()
    }

    /// Does it. The program stands still, or waits for the answer; all but checkpoints, rollbacks,
    /// releases and figures need it to stand still.
    pub fn act(&mut self, effect: Effect, view: &View<'_>) -> Outcome {
        match self.try_act(effect, view) {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// The session's figures.
    #[must_use]
    pub fn figures(&self) -> SessionFigures {
        self.engine.figures()
    }

    /// Finishes an asynchronous checkpoint that is in the making.
    pub fn finish(&mut self) {
        self.engine.finish();
    }

    /// Ends the regions that share memory with `range`, which the program is about to lose. Answers which.
    pub fn vacate(&mut self, range: &Range<u64>) -> Vec<RegionId> {
        let mut gone = Vec::new();
        while let Some(region) = self.engine.tracker().region_in(range) {
            tracing::info!(%region, "the program unmapped or reprotected memory of this region, which ends it");
            if let Err(error) = self.engine.remove_region(region) {
                tracing::error!(%region, %error, "a region could not be ended");
                break;
            }
            gone.push(region);
        }
        gone
    }

    fn try_act(&mut self, effect: Effect, view: &View<'_>) -> Result<Outcome, Failure> {
        Ok(match effect {
            Effect::DropAll => {
                self.drop_all();
                Outcome::Done
            }
            Effect::PrepareRegion { span } => self.prepare(span, view)?,
            Effect::AddRegion { span, name, mode, .. } => self.add(span, (name, mode), view)?,
            Effect::CheckpointAsync => {
                let ticket = self.engine.checkpoint_async().map_err(|error| effects::failure(&error))?;
                if let Some(freezer) = self.parts.freezer.as_ref().filter(|_| !ticket.done) {
                    freezer.begin(self.engine.copying());
                }
                Outcome::Ticket { id: ticket.id, done: ticket.done }
            }
            plain => effects::act(&mut self.engine, plain).map_err(|error| effects::failure(&error))?,
        })
    }

    /// Gives the span a memslot and memory, and has the program touch it: once it's logged, KVM makes
    /// no new large mappings in it, and the first touch of each page would cost many times as much.
    fn prepare(&mut self, span: RegionSpan, view: &View<'_>) -> Result<Outcome, Failure> {
        let range = span.address()..span.end();
        view.pointer(&range).ok_or(Failure::NotMapped)?;
        if self.prepared.as_ref() == Some(&range) {
            return Ok(Outcome::Done);
        }
        self.unprepare();
        self.parts.memory.window().populate(&range).map_err(|errno| {
            tracing::warn!(%errno, bytes = span.len(), "a region's memory could not be populated");
            Failure::NoMemory
        })?;
        self.slots().isolate(&range).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a region got no memslot");
            Failure::Host
        })?;
        self.prepared = Some(range);
        let missing = Missing::new(&[Span { address: span.address(), len: span.len() }]);
        Ok(Outcome::Missing { ask: Ask::Touch, missing })
    }

    fn add(
        &mut self,
        span: RegionSpan,
        (name, mode): (RegionName, RegionMode),
        view: &View<'_>,
    ) -> Result<Outcome, Failure> {
        let memory = self.live(span, view)?;
        let added = effects::add_region(&mut self.engine, name, memory, mode);
        let added = added.map_err(|error| effects::failure(&error))?;
        self.prepared = None;
        Ok(added)
    }

    /// The memory of a region.
    pub(super) fn live(&self, span: RegionSpan, view: &View<'_>) -> Result<LiveMemory, Failure> {
        let range = span.address()..span.end();
        let base = view.pointer(&range).ok_or(Failure::NotMapped)?;
        let pages = usize::try_from(span.len() / PAGE).map_err(|_| Failure::Limit)?;
        // SAFETY: `range` is plain memory, mapped for reading and writing and aligned as the window is.
        // It stays so until the address space, which takes it from the plain spans first, has had
        // `vacate` end the region. The VMM never makes Rust references to guest memory.
        Ok(unsafe { LiveMemory::new(base, pages) })
    }

    fn drop_all(&mut self) {
        self.unprepare();
        while let Some(region) = self.engine.tracker().region_in(&(0..u64::MAX)) {
            if self.engine.remove_region(region).is_err() {
                break;
            }
        }
        self.engine = Engine::new(self.parts.tracker(), self.config.engine()).with_pool(self.pool.clone());
    }

    fn unprepare(&mut self) {
        if let Some(range) = self.prepared.take()
            && let Err(error) = self.slots().rejoin(&range)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a span that became no region keeps its memslot"
            );
        }
    }

    pub(super) fn slots(&self) -> std::sync::MutexGuard<'_, SlotMap> {
        self.parts.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
