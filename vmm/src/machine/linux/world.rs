//! Stopping the world: the threads of a machine's vCPUs, and how one of them holds all others outside of the
//! guest.
//!
//! ```text
//!             enter                     pause_others
//!   outside ----------> inside   outside ------------> pausing: the gate is closed, and every other
//!      ^   (gate open)     |        ^                  thread is outside or on its way there
//!      +-------------------+        +-------------------+
//!        KVM_RUN returned             the guard is dropped
//! ```
//!
//! A thread that comes to a closed gate waits there, outside. One that wants to pause while another does
//! waits outside too, so two can't wait for each other.
//!
//! Entering and closing are a store each, followed by a load of what the other stored (Dekker's way): a
//! thread that doesn't see the gate closed is seen inside by the one that closes it, and kicked.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::devices::calling_cpu::PauseFigures;

/// How a thread's stay in the guest is cut short.
pub trait Kicker: Send + Sync {
    /// Makes a stay that begins after this, or that goes on, end soon. From any thread.
    fn kick(&self);

    /// Forgets kicks so far. From the thread itself, before it enters.
    fn forget(&self);
}

/// All vCPU threads of a machine.
pub struct World {
    members: Vec<Member>,
    /// Whether a thread must stop at the gate: somebody pauses, or the machine has stopped.
    closed: AtomicBool,
    gate: Mutex<Gate>,
    /// Signalled when the gate may be passed, or a pause begun.
    opened: Condvar,
    /// Signalled when a thread came out while the gate is closed.
    came_out: Condvar,
}

#[derive(Default)]
struct Member {
    inside: AtomicBool,
    kicker: OnceLock<Box<dyn Kicker>>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Who pauses the others, how often it began without ending, and since when.
    pauser: Option<(usize, u32, Instant)>,
    stopped: bool,
    figures: PauseFigures,
}

/// One thread's place in the world.
#[derive(Clone, Debug)]
pub struct Seat {
    world: Arc<World>,
    index: usize,
}

/// A thread is in the guest, until this is dropped.
#[derive(Debug)]
pub struct Inside<'a>(&'a Seat);

/// All other threads are outside of the guest, until this is dropped.
#[derive(Debug)]
pub struct Pause<'a>(&'a Seat);

impl World {
    /// A world of `count` threads, which take their seats when they're ready.
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        let members = std::iter::repeat_with(Member::default).take(count).collect();
        Arc::new(Self {
            members,
            closed: AtomicBool::new(false),
            gate: Mutex::default(),
            opened: Condvar::new(),
            came_out: Condvar::new(),
        })
    }

    /// Thread number `index`'s seat; `None` if there is no such number or somebody took it.
    pub fn seat(self: &Arc<Self>, index: usize, kicker: Box<dyn Kicker>) -> Option<Seat> {
        let taken = self.members.get(index)?.kicker.set(kicker).is_err();
        (!taken).then(|| Seat { world: Arc::clone(self), index })
    }

    /// Ends the world: every thread comes out, and none enters again.
    pub fn stop(&self) {
        let mut gate = self.lock();
        gate.stopped = true;
        self.close(None);
        self.opened.notify_all();
    }

    /// The pauses so far.
    #[must_use]
    pub fn pauses(&self) -> PauseFigures {
        self.lock().figures
    }

    /// Closes the gate and kicks who is inside, except one.
    fn close(&self, except: Option<usize>) {
        self.closed.store(true, Ordering::SeqCst);
        for member in self.others(except).filter(|member| member.is_inside()) {
            if let Some(kicker) = member.kicker.get() {
                kicker.kick();
            }
        }
    }

    fn others(&self, except: Option<usize>) -> impl Iterator<Item = &Member> {
        let others = self.members.iter().enumerate().filter(move |(index, _)| Some(*index) != except);
        others.map(|(_, member)| member)
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn is_inside(&self) -> bool {
        self.inside.load(Ordering::SeqCst)
    }
}

impl Seat {
    /// Enters the guest, as soon as the gate is open; `None` when the machine has stopped.
    #[must_use]
    pub fn enter(&self) -> Option<Inside<'_>> {
        let member = self.member();
        loop {
            // First forget, then be seen: who sees this thread inside kicks it after that.
            if let Some(kicker) = member.kicker.get() {
                kicker.forget();
            }
            member.inside.store(true, Ordering::SeqCst);
            let inside = Inside(self);
            if !self.world.closed.load(Ordering::SeqCst) {
                return Some(inside);
            }
            drop(inside);
            let shut = |gate: &mut Gate| gate.pauser.is_some() && !gate.stopped;
            let waited = self.world.opened.wait_while(self.world.lock(), shut);
            if waited.unwrap_or_else(PoisonError::into_inner).stopped {
                return None;
            }
        }
    }

    /// Holds all other threads outside of the guest. The caller is outside. It may pause again while it
    /// does; it must not enter.
    ///
    /// A lock that the caller holds must not be one that another thread needs to finish what it is doing
    /// outside before it pauses.
    #[must_use]
    pub fn pause_others(&self) -> Pause<'_> {
        let world = &*self.world;
        let mut gate = world.lock();
        if let Some((pauser, depth, _)) = &mut gate.pauser
            && *pauser == self.index
        {
            *depth += 1;
            return Pause(self);
        }
        let waited = world.opened.wait_while(gate, |gate| gate.pauser.is_some());
        gate = waited.unwrap_or_else(PoisonError::into_inner);
        gate.pauser = Some((self.index, 1, Instant::now()));
        world.close(Some(self.index));
        let inside = |_: &mut Gate| world.others(Some(self.index)).any(Member::is_inside);
        drop(world.came_out.wait_while(gate, inside));
        Pause(self)
    }

    /// The world.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    fn member(&self) -> &Member {
        &self.world.members[self.index]
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.member().inside.store(false, Ordering::SeqCst);
        if self.0.world.closed.load(Ordering::SeqCst) {
            // Under the lock: the one that waits has looked before, and hears this, or looks after.
            let _gate = self.0.world.lock();
            self.0.world.came_out.notify_all();
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.world.lock();
        let Some((_, depth, since)) = &mut gate.pauser else { return };
        *depth -= 1;
        if *depth != 0 {
            return;
        }
        let length = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        gate.figures.add(length);
        gate.pauser = None;
        self.0.world.closed.store(gate.stopped, Ordering::SeqCst);
        self.0.world.opened.notify_all();
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside: Vec<_> = self.members.iter().map(Member::is_inside).collect();
        f.debug_struct("World").field("inside", &inside).field("gate", &self.gate).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
