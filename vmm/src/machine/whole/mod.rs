//! Checkpoints of whole programs, which know nothing of it: taken while they run, kept in a store, and brought back in
//! another process.
//!
//! The thread of the vCPU stops between two instructions of the program (`door`); what the process is then goes into
//! values, and what changed of its memory (`tracker`) into buffers (`pages`). A thread of its own (`checkpointer`)
//! makes a batch of it and commits it.

mod arrival;
mod checkpointer;
mod comeback;
mod door;
mod figures;
mod files;
mod hot;
mod objects;
mod orders;
pub(crate) mod output;
mod pages;
mod prefix;
mod program;
mod saved;
mod session;
pub(crate) mod stdout;
mod take;
mod tracker;
mod trust;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cairn_abi::CheckpointId;
use cairn_store::Level;

pub(crate) use arrival::Bringer;
pub(crate) use checkpointer::chain;
pub(crate) use comeback::Comeback;
pub(crate) use door::{Door, Exit};
pub use figures::Figures;
pub(crate) use orders::{Asker, Orders, orders};
pub(crate) use output::OutputFile;
pub(crate) use program::for_program;
pub use saved::{SavedConfig, SavedError};
pub use stdout::StdoutError;
pub use trust::{Consent, Rights, Untrusted};

use crate::host::pagemap::Pagemap;
use crate::kvm::slots::SlotMap;
use crate::machine::app::RunError;
use crate::machine::calls::SharedCalls;
use crate::machine::sandbox;
use crate::machine::unit::SharedUnit;
use crate::store::signature::Signer;
use crate::store::{Owner, Sink};
use checkpointer::Checkpointer;
use output::OutputSource;
use pages::Pages;
use take::Source;
use tracker::Tracker;

/// How checkpoints of the whole program are taken, into the machine's store.
#[derive(Clone, Debug)]
pub struct WholeConfig {
    /// Between the beginnings of two; None: only those that are asked for.
    pub every: Option<Duration>,
}

/// The thread at work. Dropping it waits for what it's writing.
#[derive(Debug)]
pub(crate) struct Whole {
    asker: Asker,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is made of.
pub(crate) struct Parts {
    pub(crate) config: SavedConfig,
    pub(crate) sink: Arc<Sink>,
    /// How certain each shall be.
    pub(crate) level: Option<Level>,
    pub(crate) door: Arc<Door>,
    pub(crate) calls: Arc<SharedCalls>,
    pub(crate) unit: Arc<SharedUnit>,
    pub(crate) slots: Arc<Mutex<SlotMap>>,
    /// What whoever wants a checkpoint tells the thread.
    pub(crate) orders: (Asker, Orders),
    /// The checkpoint that the program was brought back from.
    pub(crate) parent: Option<CheckpointId>,
    /// What the file of standard output is, if there is one.
    pub(crate) output: OutputFile,
    /// Signs its checkpoints.
    pub(crate) signer: Option<Signer>,
    /// What was done so far.
    pub(crate) figures: Arc<Mutex<Figures>>,
}

/// Who makes checkpoints for the store: no session.
const OWNER: Owner = Owner(u32::MAX);

impl Whole {
    /// Starts to checkpoint a program that doesn't run yet.
    ///
    /// # Errors
    /// [`RunError::Host`].
    pub(crate) fn start(parts: Parts) -> Result<Self, RunError> {
        let Parts { config, sink, level, door, calls, unit, slots, orders, parent, output, signer, figures } =
            parts;
        let (asker, orders) = orders;
        let host = |what| move |source: io::Error| RunError::Host { what, source };
        if !sink.claim(OWNER) {
            return Err(RunError::Broken("somebody else has the store"));
        }
        let output = config.has_stdout().then(|| OutputSource::new(output)).transpose();
        let output = output.map_err(host("the file of standard output"))?;
        let pagemap = Pagemap::open().map_err(host("to tell which pages there are"))?;
        let memory = calls.with(|process| Arc::clone(process.memory()));
        let tracker = Tracker::new(slots, memory, pagemap);
        if parent.is_some() {
            // What is in memory is what the parent has, and the program doesn't run yet.
            tracker.begin().map_err(|error| host("to follow the memory")(io::Error::other(error)))?;
        }
        let checkpointer = Checkpointer {
            door,
            source: Arc::new(Source { calls, unit, tracker, output }),
            sink,
            level: level.unwrap_or(Level::Written),
            config,
            figures,
            parent,
            signer,
            pages: Pages::default(),
            files_lost: false,
            told: String::new(),
        };
        let thread = thread::Builder::new().name("checkpointer".to_owned());
        let checkpoint = move || match sandbox::confine() {
            Ok(()) => checkpointer.run(&orders),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no checkpoints are taken")
            }
        };
        let thread = thread.spawn(checkpoint).map_err(host("a thread"))?;
        Ok(Self { asker, thread: Some(thread) })
    }

    /// For whoever wants a checkpoint at a time of its own.
    pub(crate) fn asker(&self) -> Asker {
        self.asker.clone()
    }
}

/// The figures as they are now.
pub(crate) fn read(figures: &Mutex<Figures>) -> Figures {
    *figures.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.asker.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }
}
