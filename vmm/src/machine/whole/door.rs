//! Where the vCPU's thread can be asked to stop between two instructions and to have something done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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

/// Says, when it's dropped, that the vCPU doesn't run any more and won't. Held from before anybody asks at the door, so that
/// who asks learns of any end: also of a thread that panicked, and of one that there never was.
#[derive(Debug)]
pub(crate) struct Exit(pub(crate) Arc<Door>);

impl Drop for Exit {
    fn drop(&mut self) {
        self.0.leave();
    }
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
    fn leave(&self) {
        let mut state = self.lock();
        (state.ended, state.thread) = (true, None);
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
                // What nobody does any more must not stay here: it may hold this door, and the store.
                let undone = state.work.take();
                drop(state);
                drop(undone);
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::guest::app::program::Entry;
    use crate::kvm::system::System;
    use crate::kvm::vm::WriteLog;
    use crate::machine::bare::Bare;
    use crate::memory::layout::{LOWEST, PAGE};

    /// A vCPU that stands before the first instruction of a program that there isn't.
    fn cpu() -> Cpu {
        let kvm = System::open().unwrap();
        let bare = Bare::build(&kvm, 1 << 20, WriteLog::Bitmap).map_err(RunError::from).unwrap();
        let Bare { vm, system, mut space, .. } = bare;
        let entry = Entry { instruction: LOWEST, stack: LOWEST + PAGE };
        Cpu::new(&kvm, &vm, system, space.tables_mut(), entry).unwrap()
    }

    /// A thread that stops at the door again and again, as that of a vCPU does, until it's let out.
    fn passing(cpu: Cpu, door: &Arc<Door>) -> thread::JoinHandle<()> {
        let (door, exit) = (Arc::clone(door), Exit(Arc::clone(door)));
        thread::spawn(move || {
            let _exit = exit;
            door.enter();
            while door.pass(&cpu).unwrap() {
                thread::yield_now();
            }
        })
    }

    /// Whether nobody but the test has the door.
    fn is_alone(door: &Arc<Door>) -> bool {
        Arc::strong_count(door) == 1
    }

    #[test]
    fn work_is_done_at_the_door_until_its_thread_is_let_out() {
        let cpu = cpu();
        let door = Arc::new(Door::new(&cpu).unwrap());
        let thread = passing(cpu, &door);
        assert_eq!(door.at_stop(|cpu| cpu.general[16]).unwrap().0, LOWEST, "the instruction pointer");
        let inside = Arc::clone(&door);
        assert_eq!(door.at_stop(move |_| inside.let_out()).map(|(done, _)| done), Ok(()));
        thread.join().unwrap();
        let inside = Arc::clone(&door);
        assert!(door.at_stop(move |_| inside.let_out()).is_err());
        assert!(is_alone(&door), "work that wasn't done has stayed");
    }

    #[test]
    fn whoever_asks_learns_that_the_thread_has_panicked() {
        let cpu = cpu();
        let door = Arc::new(Door::new(&cpu).unwrap());
        let thread = passing(cpu, &door);
        assert!(door.at_stop(|_| -> () { panic!("of this test") }).is_err());
        assert!(thread.join().is_err());
        assert!(door.at_stop(|_| ()).is_err());
        assert!(is_alone(&door));
    }

    #[test]
    fn whoever_asks_learns_that_there_never_will_be_a_thread() {
        let door = Arc::new(Door::new(&cpu()).unwrap());
        let exit = Exit(Arc::clone(&door));
        thread::scope(|scope| {
            let inside = Arc::clone(&door);
            let asks = scope.spawn(|| door.at_stop(move |_| inside.let_out()).is_err());
            while !door.asked.load(Ordering::Acquire) {
                thread::yield_now();
            }
            drop(exit);
            assert!(asks.join().unwrap());
        });
        assert!(is_alone(&door), "work that wasn't done has stayed");
    }
}
