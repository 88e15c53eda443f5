//! An app guest that is built, and its threads.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use cairn_abi::CheckpointId;

use super::RunError;
use super::front::{Event, Life};
use super::lives::{Lives, Next};
use crate::checkpoint::Freezer;
use crate::devices::bus::Bus;
use crate::guest::app::cpu::Cpu;
use crate::kvm::slots::SlotMap;
use crate::machine::calls::SharedCalls;
use crate::machine::copier::Copier;
use crate::machine::end::Ended;
use crate::machine::poller;
use crate::machine::run_loop::RunLoop;
use crate::machine::sandbox::{self, SandboxError};
use crate::machine::unit::{SharedUnit, UnitRegisters};
use crate::machine::whole::{self, Bringer, Door, Exit, OutputFile, SavedConfig, Whole};
use crate::store::Sink;
use crate::store::signature::Signer;

/// What the first checkpoint is a change to.
pub(super) struct Parent {
    /// The checkpoint that the program was brought back from, if that can be.
    pub(super) id: Option<CheckpointId>,
    /// What the file of standard output is, if there is one.
    pub(super) output: OutputFile,
    /// Signs what follows.
    pub(super) signer: Option<Signer>,
}

/// A guest that is ready to run.
pub(super) struct Machine {
    pub(super) slots: Arc<Mutex<SlotMap>>,
    pub(super) cpu: Cpu,
    pub(super) calls: Arc<SharedCalls>,
    pub(super) unit: Arc<SharedUnit>,
    pub(super) bus: Bus<UnitRegisters>,
    pub(super) freezer: Option<Arc<Freezer>>,
    /// Brings the memory of a program that was brought back.
    pub(super) bringer: Option<Bringer>,
    pub(super) store: Option<Arc<Sink>>,
    /// Where whoever wants checkpoints of the whole asks for them.
    pub(super) orders: Option<(whole::Asker, whole::Orders)>,
}

impl Machine {
    /// Runs the vCPU and the poller, each on a confined thread of its own, until the program ends or goes on in another
    /// machine; there were `number` before. Its memory is what checkpoint `parent` has, if that is one. `started` is
    /// called when it runs.
    pub(super) fn run(
        mut self,
        lives: &Lives<'_>,
        number: usize,
        parent: Parent,
        started: impl FnOnce(),
    ) -> Result<Way, RunError> {
        let whole = self.start_whole(lives, parent)?;
        // From here on somebody may wait at the door, and is waited for by whoever drops `whole`.
        let exit = whole.as_ref().map(|(_, door)| Exit(Arc::clone(door)));
        let teller = Teller { events: lives.front.events(), number, _exit: exit };
        let Self { cpu, calls, unit, bus, freezer, bringer, store, .. } = self;
        let (asker, door) = whole.as_ref().map(|(whole, door)| (whole.asker(), Arc::clone(door))).unzip();
        let life = Life { number, unit: Arc::clone(&unit), calls: Arc::clone(&calls), sink: store, asker };
        lives.front.set_life(Some(life.clone()));
        let host = |what| move |source| RunError::Host { what, source };
        // Before those that would wait for it, and longer than they.
        let copier = freezer.map(Copier::start).transpose()?;
        let (polled, posted) = (Arc::clone(&unit), Arc::clone(&calls));
        let poller =
            thread::Builder::new().name("poller".to_owned()).spawn(move || -> Result<(), SandboxError> {
                sandbox::confine()?;
                poller::run(&polled, &posted);
                Ok(())
            });
        let poller = poller.map_err(host("a thread"))?;
        let served = Arc::clone(&unit);
        let vcpu = thread::Builder::new().name("vcpu".to_owned()).spawn(move || {
            let _teller = teller;
            sandbox::confine()?;
            RunLoop::new(cpu, calls, bus, served).with_door(door).run()
        });
        let vcpu = vcpu.map_err(host("a thread"))?;
        started();
        let next = lives.wait(&life);
        lives.front.set_life(None);
        match (joined(vcpu, poller, &unit)?, next) {
            (Some(ended), _) => Ok(Way::Ended(ended)),
            (None, Some(next)) => {
                // Ends the thread that takes checkpoints: the next machine has its own.
                drop(whole);
                Ok(Way::On(
                    next,
                    Remains { _copier: copier, _bringer: bringer, _calls: life.calls, _unit: unit },
                ))
            }
            (None, None) => Err(RunError::Broken("the guest's thread left it")),
        }
    }

    /// Begins to checkpoint the whole program if that is asked for, and makes the door where it is stopped for it.
    fn start_whole(
        &mut self,
        lives: &Lives<'_>,
        parent: Parent,
    ) -> Result<Option<(Whole, Arc<Door>)>, RunError> {
        let config = lives.config;
        let (Some(wanted), Some(sink), Some(orders)) = (&config.whole, &self.store, self.orders.take())
        else {
            return Ok(None);
        };
        let door = Arc::new(Door::new(&self.cpu)?);
        let parts = whole::Parts {
            config: SavedConfig::new(config, wanted),
            sink: Arc::clone(sink),
            level: config.store.as_ref().and_then(|store| store.level_of_all),
            door: Arc::clone(&door),
            calls: Arc::clone(&self.calls),
            unit: Arc::clone(&self.unit),
            slots: Arc::clone(&self.slots),
            orders,
            parent: parent.id,
            output: parent.output,
            signer: parent.signer,
            figures: Arc::clone(&lives.figures),
        };
        Ok(Some((Whole::start(parts)?, door)))
    }
}

/// Waits for the vCPU's thread, which ends by itself, and then ends the poller's. Answers how the program ended, if it
/// did.
fn joined(
    vcpu: JoinHandle<Result<Option<Ended>, RunError>>,
    poller: JoinHandle<Result<(), SandboxError>>,
    unit: &SharedUnit,
) -> Result<Option<Ended>, RunError> {
    let ended = vcpu.join();
    unit.stop();
    // A thread that panicked has told so; its end is the program's.
    let polled = poller.join().unwrap_or(Ok(()));
    let ended = ended.unwrap_or(Err(RunError::Broken("the guest's thread has panicked")))?;
    polled?;
    Ok(ended)
}

/// How a machine's run ends.
pub(super) enum Way {
    /// The program has ended.
    Ended(Ended),
    /// It goes on in another machine.
    On(Box<Next>, Remains),
}

/// What is left of a machine in which nothing runs any more. To drop it takes a while: its memory goes with it.
pub(super) struct Remains {
    _copier: Option<Copier>,
    _bringer: Option<Bringer>,
    _calls: Arc<SharedCalls>,
    _unit: Arc<SharedUnit>,
}

/// Tells that the vCPU has stopped for good, however it did.
struct Teller {
    events: Sender<Event>,
    /// Of which machine.
    number: usize,
    /// Tells it at the door.
    _exit: Option<Exit>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        // Whoever started the machine may have given up.
        let _ = self.events.send(Event::Stopped(self.number));
    }
}
