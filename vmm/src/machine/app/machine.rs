//! An app guest that is built, and its threads.

use std::sync::{Arc, Mutex};
use std::{io, thread};

use cairn_abi::CheckpointId;

use super::{AppConfig, RunError};
use crate::checkpoint::Freezer;
use crate::devices::bus::Bus;
use crate::guest::app::cpu::Cpu;
use crate::kvm::slots::SlotMap;
use crate::machine::calls::SharedCalls;
use crate::machine::copier::Copier;
use crate::machine::end::Ended;
use crate::machine::run_loop::RunLoop;
use crate::machine::sandbox::{self, SandboxError};
use crate::machine::status::About;
use crate::machine::unit::{SharedUnit, UnitRegisters};
use crate::machine::whole::{self, Bringer, Door, SavedConfig, Whole};
use crate::machine::{control, poller};
use crate::store::Sink;

/// A guest that is ready to run.
pub(super) struct Machine {
    pub(super) slots: Arc<Mutex<SlotMap>>,
    pub(super) cpu: Cpu,
    pub(super) calls: Arc<SharedCalls>,
    pub(super) unit: Arc<SharedUnit>,
    pub(super) bus: Bus<UnitRegisters>,
    pub(super) freezer: Option<Arc<Freezer>>,
    pub(super) about: About,
    /// Brings the memory of a program that was brought back.
    pub(super) bringer: Option<Bringer>,
    pub(super) store: Option<Arc<Sink>>,
}

impl Machine {
    /// Runs the vCPU and the poller, each on a confined thread of its own.
    pub(super) fn run(self, config: &AppConfig, parent: Option<CheckpointId>) -> Result<Ended, RunError> {
        let Self { slots, cpu, calls, unit, bus, freezer, about, store, bringer: _bringer } = self;
        let whole = match (&config.whole, &store) {
            (Some(wanted), Some(sink)) => {
                let door = Arc::new(Door::new(&cpu)?);
                let parts = whole::Parts {
                    config: SavedConfig::new(config, wanted),
                    sink: Arc::clone(sink),
                    level: config.store.as_ref().and_then(|store| store.level_of_all),
                    door: Arc::clone(&door),
                    calls: Arc::clone(&calls),
                    unit: Arc::clone(&unit),
                    slots,
                    parent,
                };
                Some((Whole::start(parts)?, door))
            }
            _ => None,
        };
        let (asked, counting) = (Arc::clone(&unit), Arc::clone(&calls));
        let taken = whole.as_ref().map(|(whole, _)| whole.figures());
        let _control = control::start(move || {
            let (counted, figures) = asked.with(|unit| (unit.counted(), unit.figures()));
            let taken = taken.as_deref().into_iter().flat_map(|taken| whole::read(taken).named());
            let counted = counting.counted().into_iter().chain(counted).chain(taken);
            let sessions = figures.map(|figures| (0, figures));
            about.status(counted, sessions, store.as_ref().map(|store| store.figures()))
        });
        let door = whole.as_ref().map(|(_, door)| Arc::clone(door));
        let host = |what| move |source| RunError::Host { what, source };
        // Before those that would wait for it, and longer than they.
        let _copier = freezer.map(Copier::start).transpose()?;
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
            sandbox::confine()?;
            RunLoop::new(cpu, calls, bus, served).with_door(door).run()
        });
        let ended = vcpu.map_err(host("a thread"))?.join();
        unit.stop();
        // A thread that panicked has told so; its end is the program's.
        let polled = poller.join().unwrap_or(Ok(()));
        let ended = ended.unwrap_or_else(|_| {
            Err(RunError::Host {
                what: "to go on",
                source: io::Error::other("the guest's thread has panicked"),
            })
        })?;
        polled?;
        Ok(ended)
    }
}
