//! A thread that serves the queue of one device, so that a vCPU that notifies goes on at once.
//!
//! ```text
//!            start                notify               queue empty
//!   Idle ------------> Started -----------> Serving ----------------> Started
//!    ^                    |                    |
//!    |      stop          |       stop         | the request in flight is finished first
//!    +--------------------+--------------------+
//! ```

use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vm_memory::GuestMemoryMmap;

use crate::host::thread::start_confined;
use crate::memory::marks::FrameMarks;
use crate::memory::ram::Ram;
use crate::virtio::buffers::Buffers;
use crate::virtio::device::ActivateError;
use crate::virtio::interrupts::Interrupts;
use crate::virtio::queue::{QueueError, RequestQueue};

/// What becomes of the requests of a queue.
pub trait Server: Send + 'static {
    /// Serves one request and returns how many bytes of its writable buffers are written, from the first on.
    /// `features` are those that driver and device agreed on.
    fn serve(&mut self, memory: &GuestMemoryMmap<FrameMarks>, features: u64, buffers: &Buffers) -> u32;
}

/// Gives up, for the calling thread, what serving requests doesn't take.
pub type Confine = fn() -> io::Result<()>;

/// The only queue of the devices here.
const QUEUE: u16 = 0;

/// The thread. Dropping it waits for the request in flight and ends the thread.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Whoever serves stops after the request in flight.
    stopping: AtomicBool,
    /// The rings can't be used until the driver resets the device.
    broken: AtomicBool,
    /// The server panicked: not even a reset helps.
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    notified: bool,
    serving: bool,
    quit: bool,
}

/// A queue, and the features that were agreed on for it.
#[derive(Debug)]
struct Job {
    queue: RequestQueue,
    features: u64,
}

impl Worker {
    /// Starts a thread that lets `server` serve requests in `ram`, and tells the driver by `interrupts`. The first
    /// that it does is `confine`.
    ///
    /// # Errors
    /// What the operating system says if there is no thread to be had, and what `confine` says.
    pub fn spawn(
        name: &str,
        server: Box<dyn Server>,
        ram: Arc<Ram>,
        interrupts: Arc<Interrupts>,
        confine: Confine,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let body = Body { shared: Arc::clone(&shared), server, ram, interrupts, noted: false };
        let thread = start_confined(name, confine, move || body.run())??;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands the thread a queue, which it serves at the next [`notify`](Self::notify).
    ///
    /// # Errors
    /// [`ActivateError::Failed`] if the server panicked before.
    pub fn start(&self, queue: RequestQueue, features: u64) -> Result<(), ActivateError> {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(ActivateError::Failed);
        }
        self.shared.lock().job = Some(Job { queue, features });
        Ok(())
    }

    /// Wakes the thread: there is something in the queue.
    pub fn notify(&self) {
        self.shared.lock().notified = true;
        self.shared.changed.notify_all();
    }

    /// Takes the queue from the thread, after the request in flight.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let serving = |state: &mut State| state.serving;
        let waited = self.shared.changed.wait_while(self.shared.lock(), serving);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.job = None;
        state.notified = false;
        self.shared.stopping.store(false, Ordering::Relaxed);
        self.shared.broken.store(false, Ordering::Relaxed);
    }

    /// Whether only a reset helps.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.lock().quit = true;
        self.shared.changed.notify_all();
        // If the server's end panics, it has said so already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a queue with something in it; `None` at the end.
    fn next(&self) -> Option<Job> {
        let nothing = |state: &mut State| !(state.quit || state.notified && state.job.is_some());
        let waited = self.changed.wait_while(self.lock(), nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.quit {
            return None;
        }
        state.notified = false;
        state.serving = true;
        state.job.take()
    }

    fn put_back(&self, job: Job) {
        let mut state = self.lock();
        state.job = Some(job);
        state.serving = false;
        self.changed.notify_all();
    }
}

/// What the thread owns.
struct Body {
    shared: Arc<Shared>,
    server: Box<dyn Server>,
    ram: Arc<Ram>,
    interrupts: Arc<Interrupts>,
    noted: bool,
}

impl Body {
    fn run(mut self) {
        while let Some(mut job) = self.shared.next() {
            // What a server is built on may panic at what it meets in an image. The device is lost then, and
            // not whoever waits for the request in flight.
            match catch_unwind(AssertUnwindSafe(|| self.serve(&mut job))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.break_down(&error),
                Err(_) => {
                    self.shared.failed.store(true, Ordering::Relaxed);
                    self.break_down(&"its thread panicked");
                }
            }
            self.shared.put_back(job);
        }
    }

    /// Serves until the queue is empty.
    fn serve(&mut self, job: &mut Job) -> Result<(), QueueError> {
        let ram = Arc::clone(&self.ram);
        let memory = ram.memory();
        while !self.shared.broken.load(Ordering::Relaxed) {
            job.queue.suppress_notifications(memory)?;
            while !self.shared.stopping.load(Ordering::Relaxed)
                && let Some(taken) = job.queue.take(memory)?
            {
                let written = match &taken.buffers {
                    Ok(buffers) => self.server.serve(memory, job.features, buffers),
                    Err(error) => {
                        tracing::debug!(%error, "a request's chain is broken");
                        0
                    }
                };
                if job.queue.give_back(memory, taken, written)? {
                    self.interrupts.queue_used(QUEUE);
                }
            }
            if self.shared.stopping.load(Ordering::Relaxed) || !job.queue.resume_notifications(memory)? {
                break;
            }
        }
        Ok(())
    }

    /// From here on only a reset helps.
    fn break_down(&mut self, error: &dyn Display) {
        if !std::mem::replace(&mut self.noted, true) {
            tracing::warn!(%error, "a virtio device stops until its driver resets it; logged once");
        }
        self.shared.broken.store(true, Ordering::Relaxed);
        self.interrupts.config_changed();
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
