//! Does what the checkpoint device's session decided, for a program in a Linux guest.

use std::sync::{Arc, Mutex, PoisonError};

use cairn_abi::reply::{Ask, Missing, SessionFigures};
use cairn_abi::{RegionMode, RegionName};
use cairn_engine::{Engine, EngineError, LiveMemory, PagePlaces, Pool};

use crate::checkpoint::effects;
use crate::checkpoint::keeper::KeeperConfig;
use crate::checkpoint::keeping::Keeping;
use crate::checkpoint::linux::frames::{DirtyLog, FrameLog, SessionIndex};
use crate::checkpoint::linux::tracker::{FrameTracker, Needed};
use crate::devices::checkpoint::{Again, Effect, Failure, Outcome, RegionSpan};
use crate::memory::layout::{PAGE, to_usize};
use crate::memory::walk::Paging;

/// The engine of one session after the other.
#[derive(Debug)]
pub struct LinuxKeeper<L: DirtyLog> {
    engine: Engine<FrameTracker<L>>,
    frames: Arc<Mutex<FrameLog<L>>>,
    session: SessionIndex,
    config: KeeperConfig,
    pool: Option<Arc<Pool>>,
}

impl<L: DirtyLog> Keeping for LinuxKeeper<L> {
    type Tracker = FrameTracker<L>;

    fn engine_mut(&mut self) -> &mut Engine<FrameTracker<L>> {
        &mut self.engine
    }
}

impl<L: DirtyLog> LinuxKeeper<L> {
    /// A keeper of nothing, one among those of a guest. The threads of `pool` help it.
    #[must_use]
    pub fn new(
        frames: Arc<Mutex<FrameLog<L>>>,
        session: SessionIndex,
        config: KeeperConfig,
        pool: Option<Arc<Pool>>,
    ) -> Self {
        let engine = engine(&frames, session, config).with_pool(pool.clone());
        Self { engine, frames, session, config, pool }
    }

    /// Does it, for the program whose page tables are `paging`, while no vCPU runs.
    pub fn act(&mut self, effect: Effect, paging: &Paging) -> Outcome {
        self.try_act(effect, paging).unwrap_or_else(Outcome::Failed)
    }

    /// Forgets all regions and checkpoints.
    pub fn drop_all(&mut self) -> Outcome {
        self.engine = engine(&self.frames, self.session, self.config).with_pool(self.pool.clone());
        Outcome::Done
    }

    fn try_act(&mut self, effect: Effect, paging: &Paging) -> Result<Outcome, Failure> {
        match effect {
            Effect::DropAll => Ok(self.drop_all()),
            // Whether there is memory shows when it's looked at: its kernel may not have given it any yet.
            Effect::PrepareRegion { span } if span.end() <= paging.user_end() => Ok(Outcome::Done),
            Effect::PrepareRegion { .. } => Err(Failure::NotMapped),
            Effect::AddRegion { span, name, mode, .. } => self.add(span, (name, mode), paging),
            Effect::Checkpoint(again) | Effect::Rollback(_, again) => {
                self.look_and_act(effect, paging, again)
            }
            Effect::SessionFigures => Ok(Outcome::Session(self.figures())),
            plain => self.on_engine(plain),
        }
    }

    fn add(
        &mut self,
        span: RegionSpan,
        (name, mode): (RegionName, RegionMode),
        paging: &Paging,
    ) -> Result<Outcome, Failure> {
        let places = PagePlaces::new(to_usize(span.len() / PAGE)).map_err(|_| Failure::NoMemory)?;
        let memory = LiveMemory::scattered(span.address(), places);
        let added = effects::add_region(&mut self.engine, name, memory, mode);
        let added = added.map_err(|error| effects::failure(&error))?;
        // The log is armed now, and the first checkpoint doesn't wait for it.
        if let (Err(failure), Outcome::Region(id)) = (self.look(paging, false), added) {
            let _ = self.engine.remove_region(id);
            return Err(failure);
        }
        Ok(added)
    }

    fn look(&mut self, paging: &Paging, settled: bool) -> Result<(), Failure> {
        let tracker = self.engine.tracker_mut();
        tracker.set_paging(*paging);
        tracker.look(settled).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "what the program wrote is not known");
            Failure::Host
        })
    }

    /// The session's figures.
    #[must_use]
    pub fn figures(&self) -> SessionFigures {
        let arming = self.frames.lock().unwrap_or_else(PoisonError::into_inner).arming();
        let arming_ns = u64::try_from(arming.as_nanos()).unwrap_or(u64::MAX);
        SessionFigures { arming_ns, ..self.engine.figures() }
    }

    fn look_and_act(&mut self, effect: Effect, paging: &Paging, again: Again) -> Result<Outcome, Failure> {
        if again == Again::No {
            // What was begun before was given up, and the program may have run on since.
            self.engine.abandon();
        }
        self.look(paging, again == Again::Yes)?;
        match self.engine.tracker_mut().unsettled() {
            Some(needed) => Ok(missing(&needed)),
            None => {
                let outcome = self.on_engine(effect)?;
                if matches!(effect, Effect::Rollback(..)) && outcome == Outcome::Done {
                    self.engine.tracker_mut().keep_pages();
                }
                Ok(outcome)
            }
        }
    }

    fn on_engine(&mut self, effect: Effect) -> Result<Outcome, Failure> {
        match effects::act(&mut self.engine, effect) {
            Err(EngineError::Absent) => Ok(missing(&self.engine.tracker().touch(self.engine.absent()))),
            result => result.map_err(|error| effects::failure(&error)),
        }
    }
}

fn missing(needed: &Needed) -> Outcome {
    let (ask, spans) = match needed {
        Needed::Settled(spans) => (Ask::Settle, spans),
        Needed::Touched(spans) => (Ask::Touch, spans),
    };
    Outcome::Missing { ask, missing: Missing::new(spans) }
}

fn engine<L: DirtyLog>(
    frames: &Arc<Mutex<FrameLog<L>>>,
    session: SessionIndex,
    config: KeeperConfig,
) -> Engine<FrameTracker<L>> {
    Engine::new(FrameTracker::new(Arc::clone(frames), session), config.engine())
}
