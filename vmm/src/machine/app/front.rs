//! What can be asked of a running program on its socket, from one life to the next: after a rollback it runs in another
//! machine.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cairn_abi::CheckpointId;

use super::AppConfig;
use crate::machine::calls::SharedCalls;
use crate::machine::control::Guest;
use crate::machine::status::About;
use crate::machine::unit::SharedUnit;
use crate::machine::whole::{Asker, Figures};
use crate::store::Sink;

/// What a program is to be started with, so that it can be asked for checkpoints.
const NOT_WHOLE: &str = "the program runs without checkpoints of the whole: start it with cairn run --store DIR --every TIME \
                         (or never, for those alone that are asked for)";
/// What a request comes too late for.
const ENDED: &str = "the program has ended";

/// What whoever runs a machine is told.
#[derive(Debug)]
pub(super) enum Event {
    /// The vCPU of this machine has stopped for good.
    Stopped(usize),
    /// The program is to go on from a checkpoint.
    Rollback {
        to: CheckpointId,
        /// What was done, or why not.
        answer: Sender<Result<String, String>>,
    },
}

/// Answers for a program.
pub(super) struct Front {
    about: About,
    events: Sender<Event>,
    /// What has been done, if the whole program is checkpointed.
    figures: Option<Arc<Mutex<Figures>>>,
    running: Mutex<Running>,
    changed: Condvar,
}

#[derive(Default)]
struct Running {
    /// The machine in which the program runs; None between two.
    now: Option<Life>,
    ended: bool,
}

/// A machine that runs.
#[derive(Clone)]
pub(super) struct Life {
    /// How many there were before.
    pub(super) number: usize,
    pub(super) unit: Arc<SharedUnit>,
    pub(super) calls: Arc<SharedCalls>,
    pub(super) sink: Option<Arc<Sink>>,
    pub(super) asker: Option<Asker>,
}

impl Front {
    /// A program that isn't running yet, and what is asked for it. `figures` is for who takes its checkpoints.
    pub(super) fn new(config: &AppConfig, figures: &Arc<Mutex<Figures>>) -> (Self, Receiver<Event>) {
        let (events, happened) = mpsc::channel();
        let about = About::new(config.name.clone(), &config.program, "app").with_store(config.store.as_ref());
        let figures = config.whole.as_ref().map(|_| Arc::clone(figures));
        let (running, changed) = (Mutex::default(), Condvar::new());
        (Self { about, events, figures, running, changed }, happened)
    }

    /// For the machine's own events.
    pub(super) fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// The program runs in this machine now, or in none for a moment.
    pub(super) fn set_life(&self, life: Option<Life>) {
        self.running().now = life;
        self.changed.notify_all();
    }

    /// The program doesn't run any more.
    pub(super) fn end(&self) {
        *self.running() = Running { now: None, ended: true };
        self.changed.notify_all();
    }

    /// The machine in which the program runs, once it does; None when it has ended.
    fn life(&self) -> Option<Life> {
        let between = |running: &mut Running| running.now.is_none() && !running.ended;
        let running = self.changed.wait_while(self.running(), between);
        running.unwrap_or_else(PoisonError::into_inner).now.clone()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest for Front {
    fn status(&self) -> String {
        let figures = self.figures.as_deref().map(crate::machine::whole::read);
        let whole = figures.into_iter().flat_map(Figures::named);
        let Some(Life { unit, calls, sink, .. }) = self.running().now.clone() else {
            return self.about.status(whole, [], None);
        };
        let (counted, sessions) = unit.with(|unit| (unit.counted(), unit.figures()));
        let counted = calls.counted().into_iter().chain(counted).chain(whole);
        let sessions = sessions.map(|figures| (0, figures));
        self.about.status(counted, sessions, sink.map(|sink| sink.figures()))
    }

    fn checkpoint(&self) -> Result<CheckpointId, String> {
        if self.figures.is_none() {
            return Err(NOT_WHOLE.to_owned());
        }
        loop {
            let life = self.life().ok_or(ENDED)?;
            let asker = life.asker.ok_or(NOT_WHOLE)?;
            let refused = match asker.checkpoint() {
                Ok(id) => return Ok(id),
                Err(refused) => refused,
            };
            // What ended meanwhile is perhaps only that machine, and the program was rolled back.
            let is_same = |now: &Life| now.number == life.number;
            if self.life().as_ref().is_none_or(is_same) {
                return Err(refused.to_string());
            }
        }
    }

    fn rollback(&self, to: CheckpointId) -> Result<String, String> {
        if self.figures.is_none() {
            return Err(NOT_WHOLE.to_owned());
        }
        let (answer, answered) = mpsc::channel();
        let _ = self.events.send(Event::Rollback { to, answer });
        answered.recv().unwrap_or_else(|_| Err(ENDED.to_owned()))
    }
}
