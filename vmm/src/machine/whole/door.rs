//! Where the vCPU's thread can be asked to stop between two instructions and to have something done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::guest::app::cpu::Cpu;
use crate::guest::app::image::FrozenCpu;
use crate::host::signal::{self, Thread};
use crate::kvm::kernel_vcpu::Kick;
use crate::kvm::system::KvmError;
use crate::machine::app::RunError;

/// How long whoever asks waits before it kicks again. A kick can come too early, when the thread is about to wait in a
/// system call of the host, or find the program inside the stub.
const AGAIN: Duration = Duration::from_millis(1);

/// What is done while the program stands still, with its registers, on the vCPU's thread.
type Work = Box<dyn FnOnce(&FrozenCpu) + Send>;

/// The door. One asks at a time.
pub(crate) struct Door {
    kick: Kick,
    asked: AtomicBool,
    /// Whether the vCPU's thread is to leave the program where it stands.
    leaving: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    thread: Option<Thread>,
    work: Option<Work>,
    ended: bool,
}

/// The program has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone;

impl Door {
    /// The door of a vCPU.
    ///
    /// # Errors
    /// KVM or the host refuses what kicking needs.
    pub(crate) fn new(cpu: &Cpu) -> Result<Self, RunError> {
        let prepared = signal::prepare();
        prepared.map_err(|errno| RunError::Host { what: "a signal handler", source: errno.into() })?;
        let (asked, leaving) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { kick: cpu.kick()?, asked, leaving, state: Mutex::default(), changed: Condvar::new() })
    }

    /// The calling thread runs the vCPU from now on.
    pub(crate) fn enter(&self) {
        self.lock().thread = Some(Thread::current());
        self.changed.notify_all();
    }

    /// The vCPU doesn't run any more.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        (state.ended, state.thread, state.work) = (true, None, None);
        self.changed.notify_all();
    }

    /// Does what was asked for, if anything, after a run that was interrupted. Answers whether to go on.
    ///
    /// # Errors
    /// [`KvmError`] when KVM doesn't tell the registers.
    pub(crate) fn pass(&self, cpu: &Cpu) -> Result<bool, KvmError> {
        // First, as a kick that comes from here on is for the next time. One may be left from a time when nobody asks
        // any more: it would end every run at once.
        self.kick.clear();
        if !self.asked.load(Ordering::Acquire) {
            return Ok(true);
        }
        // None: it must run on a little. Who asked kicks again.
        let Some(registers) = cpu.freeze()? else { return Ok(true) };
        let work = self.lock().work.take();
        if let Some(work) = work {
            work(&registers);
        }
        self.asked.store(false, Ordering::Release);
        let _state = self.lock();
        self.changed.notify_all();
        Ok(!self.leaving.load(Ordering::Acquire))
    }

    /// The vCPU's thread leaves the program where it stands. Called by the work that is done [there](Self::at_stop).
    pub(crate) fn let_out(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Has `work` done between two instructions of the program, which stands still meanwhile; answers what it answers,
    /// and how long the program stood.
    ///
    /// # Errors
    /// [`Gone`] when the program has ended.
    pub(crate) fn at_stop<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FrozenCpu) -> T + Send + 'static,
    ) -> Result<(T, Duration), Gone> {
        let (tell, told) = std::sync::mpsc::channel();
        let mut state = self.lock();
        state.work = Some(Box::new(move |registers| {
            let begun = Instant::now();
            let done = work(registers);
            // Whoever asked waits for it.
            let _ = tell.send((done, begun.elapsed()));
        }));
        self.asked.store(true, Ordering::Release);
        loop {
            // Work that lets the thread out is done, and then the program has ended.
            if state.ended || !self.asked.load(Ordering::Acquire) {
                return told.try_recv().map_err(|_| Gone);
            }
            if let Some(thread) = state.thread.filter(|_| state.work.is_some()) {
                self.kick.set();
                thread.interrupt();
            }
            state = self.changed.wait_timeout(state, AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("asked", &self.asked).finish_non_exhaustive()
    }
}
