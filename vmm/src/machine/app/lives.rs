//! A program from its start to its end, in one machine after another: each time it's rolled back it goes on in a new one,
//! in the same process, with the same store and the same socket.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use cairn_abi::CheckpointId;

use super::front::{Event, Front, Life};
use super::machine::{Machine, Parent, Way};
use super::{AppConfig, Overlay, RunError};
use crate::guest::app::files::{PublishError, Published};
use crate::kvm::system::System;
use crate::machine::calls::SharedCalls;
use crate::machine::control;
use crate::machine::end::Ended;
use crate::machine::script;
use crate::machine::whole::output::Output;
use crate::machine::whole::{self, Bringer, Comeback, Figures, SavedConfig, StdoutError, chain, stdout};
use crate::store::signature::{Signer, Unsigned};
use crate::tell;

/// What stays from one machine to the next.
pub(super) struct Lives<'a> {
    kvm: &'a System,
    pub(super) config: &'a AppConfig,
    pub(super) front: Arc<Front>,
    pub(super) figures: Arc<Mutex<Figures>>,
    happened: Receiver<Event>,
}

/// The machine in which a program is to go on.
pub(super) struct Next {
    machine: Machine,
    parent: Parent,
    /// What the file of standard output is to be made before.
    output: Option<Output>,
    back: Option<Back>,
}

/// A rollback that isn't over.
struct Back {
    to: CheckpointId,
    begun: Instant,
    answer: Sender<Result<String, String>>,
}

/// Why a program isn't rolled back. It runs on.
#[derive(Debug, thiserror::Error)]
enum RollbackError {
    /// Nobody takes checkpoints of it.
    #[error("the program runs without checkpoints of the whole")]
    NotWhole,
    /// There is no such checkpoint, or it can't be gone on with here.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What it had written to standard output isn't there any more.
    #[error(transparent)]
    Output(#[from] StdoutError),
    /// Who can write the store may have made it: that is for the user to decide, who starts again for it.
    #[error("checkpoint {0}: {1}; cairn restore can go on from it with --trust")]
    Unsigned(u64, Unsigned),
    /// The store had another program before.
    #[error("checkpoint {0} is not of this program: the store was another one's before")]
    OtherProgram(u64),
}

/// Runs a program to its end: from its start, or from `comeback` on. If it's the interpreter of a script, that is `script`.
pub(super) fn run(
    kvm: &System,
    config: &AppConfig,
    comeback: Option<Comeback>,
    script: Option<&Path>,
) -> Result<Ended, RunError> {
    let machine = Machine::build(kvm, config, comeback.as_ref(), None)?;
    if let Some(script) = script {
        machine.calls.with(|process| script::check_seen(process, script))?;
    }
    let id = comeback.as_ref().map(|comeback| comeback.id);
    if let Some(id) = id {
        tracing::info!(id = id.0, "the program goes on");
    }
    let figures = Figures {
        newest: id.map_or(0, |id| id.0),
        taken: comeback.as_ref().map(|comeback| comeback.taken),
        ..Figures::default()
    };
    let key = config.state.key.as_ref();
    let output = comeback.as_ref().and_then(|comeback| comeback.output.clone()).unwrap_or_default();
    let (signer, id) = match comeback {
        Some(comeback) => comeback.signer(key),
        None => (key.cloned().map(Signer::new), None),
    };
    let figures = Arc::new(Mutex::new(figures));
    let (front, happened) = Front::new(config, &figures);
    let front = Arc::new(front);
    let asked: Arc<dyn control::Guest> = Arc::<Front>::clone(&front);
    let control = control::start(asked, config.whole.is_some());
    let lives = Lives { kvm, config, front: Arc::clone(&front), figures, happened };
    let parent = Parent { id, output: output.file(), signer };
    let ended = lives.run(Next { machine, parent, output: Some(output), back: None });
    // In this order: what was asked is answered when nobody is there any more who would do it.
    front.end();
    let newest = whole::read(&lives.figures).newest;
    drop(lives);
    drop(control);
    let (ended, calls) = ended?;
    match (&config.overlay, ended.end.status()) {
        (Some(overlay), 0) => publish(&calls, overlay)?,
        (Some(Overlay { commit: true, .. }), status) => tell_unapplied(config, status, newest),
        _ => {}
    }
    Ok(ended)
}

impl Lives<'_> {
    fn run(&self, first: Next) -> Result<(Ended, Arc<SharedCalls>), RunError> {
        let (mut next, mut number) = (Box::new(first), 0);
        let mut remains = None;
        loop {
            let Next { machine, parent, output, back } = *next;
            machine.bringer.as_ref().map(Bringer::set_running).transpose()?;
            // Not before: what keeps a program from starting leaves the file as it was.
            if let (Some(path), Some(output)) = (&self.config.stdout, &output) {
                stdout::turn_own(path, output)?;
            }
            let (calls, newest) = (Arc::clone(&machine.calls), parent.id);
            let started = || {
                back.into_iter().for_each(|back| self.tell(&back, newest));
                drop(remains.take());
            };
            match machine.run(self, number, parent, started)? {
                Way::Ended(ended) => return Ok((ended, calls)),
                Way::On(other, left) => (next, number, remains) = (other, number + 1, Some(left)),
            }
        }
    }

    /// Waits until the program has ended, or is to go on in another machine, and stands still in this one.
    pub(super) fn wait(&self, life: &Life) -> Option<Box<Next>> {
        while let Ok(event) = self.happened.recv() {
            let back = match event {
                Event::Rollback { to, answer } => Back { to, begun: Instant::now(), answer },
                Event::Stopped(number) if number == life.number => break,
                // It was let out, and the program goes on in this one.
                Event::Stopped(_) => continue,
            };
            match self.go_back(life, &back) {
                Ok((machine, parent, output)) => {
                    return Some(Box::new(Next { machine, parent, output, back: Some(back) }));
                }
                Err(error) => {
                    tracing::info!(to = back.to.0, error, "the program is not rolled back");
                    // Whoever asked may have gone.
                    let _ = back.answer.send(Err(error));
                }
            }
        }
        None
    }

    /// Makes the machine in which the program goes on, and then ends its run in this one. Whatever can fail does so
    /// before that. Answers what the new machine's memory is in the store, too, and where its output stands.
    fn go_back(&self, life: &Life, back: &Back) -> Result<(Machine, Parent, Option<Output>), String> {
        let (machine, comeback) = self.prepare(life, back.to).map_err(|error| chain(&error))?;
        tracing::debug!(after = ?back.begun.elapsed(), "the next machine is built");
        let output = comeback.output.clone();
        let noted = output.as_ref().map(Output::noted).unwrap_or_default();
        let (signer, _) = comeback.signer(self.config.state.key.as_ref());
        let asker = life.asker.as_ref().ok_or("nobody takes its checkpoints")?;
        // Who asks for a checkpoint meanwhile waits for what comes of this.
        self.front.set_life(None);
        match asker.go_back(Arc::new(comeback)) {
            Ok(id) => {
                tracing::debug!(after = ?back.begun.elapsed(), "the program has left this machine");
                Ok((machine, Parent { id: Some(id), output: noted, signer }, output))
            }
            Err(refused) => {
                self.front.set_life(Some(life.clone()));
                Err(refused.to_string())
            }
        }
    }

    fn prepare(&self, life: &Life, to: CheckpointId) -> Result<(Machine, Comeback), RollbackError> {
        let (Some(store), Some(whole)) = (&self.config.store, &self.config.whole) else {
            return Err(RollbackError::NotWhole);
        };
        let key = self.config.state.key.as_ref();
        let comeback = Comeback::open(&store.directory, Some(to), key)?;
        if let (Some(why), Some(_)) = (&comeback.unsigned, key) {
            return Err(RollbackError::Unsigned(to.0, why.clone()));
        }
        if !comeback.saved.config.is_of_same_program(&SavedConfig::new(self.config, whole)) {
            return Err(RollbackError::OtherProgram(to.0));
        }
        let comeback = comeback.with_output(key)?;
        if let (Some(path), Some(output)) = (&self.config.stdout, &comeback.output) {
            stdout::check_own(path, output)?;
        }
        let machine = Machine::build(self.kvm, self.config, Some(&comeback), life.sink.clone())?;
        Ok((machine, comeback))
    }

    /// Tells that the program runs again, from what is the store's `newest`.
    fn tell(&self, back: &Back, newest: Option<CheckpointId>) {
        let took = back.begun.elapsed();
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.rollbacks += 1;
        (figures.newest, figures.taken) = (newest.map_or(0, |id| id.0), Some(SystemTime::now()));
        figures.rollback_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        drop(figures);
        let ms = took.as_secs_f64() * 1000.0;
        let told = format!("rolled back to {} in {ms:.1} ms", back.to.0);
        tracing::info!("{told}");
        // Whoever asked may have gone.
        let _ = back.answer.send(Ok(told));
    }
}

/// Tells that what a program changed in its directories isn't there, and where it is: in the newest checkpoint, if there
/// is one.
fn tell_unapplied(config: &AppConfig, status: u8, newest: u64) {
    let fate = match &config.store {
        _ if newest == 0 => "forgotten".to_owned(),
        Some(store) => {
            let store = store.directory.display();
            format!(
                "not applied; cairn restore {store} --commit-files applies those up to its last checkpoint"
            )
        }
        None => "not applied".to_owned(),
    };
    tell!("cairn: the program ended with status {status}: its changes are {fate}");
}

/// Applies what a program that has ended changed in its overlays.
fn publish(calls: &SharedCalls, overlay: &Overlay) -> Result<(), PublishError> {
    if overlay.commit {
        let published = calls.with(|process| process.files.publish(&overlay.records))?;
        let Published { files, steps, .. } = published;
        tracing::info!(files, steps, "the changes are applied");
    }
    Ok(())
}
