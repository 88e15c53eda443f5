//! The program's state behind one lock, for the two threads that answer its system calls: that of the
//! vCPU, to which calls come as exits, and the poller, which finds them posted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;

use crate::guest::app::posted::{CallPage, Handover, Posted, SystemPage};
use crate::guest::app::process::{Process, Segments};
use crate::guest::app::syscalls::{self, Flow};
use crate::machine::poll_policy::PollPolicy;
use crate::machine::unit::{Look, SharedUnit};

/// The program's state, shared by the two threads.
///
/// Whoever serves a call holds the state's lock from taking the call to answering it ([`Handover`]), so that each posted
/// call is served once; that may be long, where the call waits. It comes before the unit's lock, as a call
/// may end regions, and before that of polling, which is held for moments.
#[derive(Debug)]
pub struct SharedCalls {
    served: Handover<Mutex<State>, SystemPage>,
    polling: Mutex<Polling>,
    /// What the policy says, for those who don't have its lock.
    polls: AtomicBool,
    unit: Arc<SharedUnit>,
    exits: AtomicU64,
    posted: AtomicU64,
}

#[derive(Debug)]
struct State {
    process: Process,
    /// How the program ends by a posted call. It's told at the exit that follows.
    end: Option<Flow>,
}

#[derive(Debug)]
struct Polling {
    policy: PollPolicy,
    /// What the stub was last told.
    offered: bool,
}

/// How a call that came by an exit goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// The answer, or the program's end.
    pub flow: Flow,
    /// The bases of the program's segments from now on.
    pub segments: Segments,
}

impl SharedCalls {
    /// A program whose calls may be posted in `page`. `policy` decides when they are.
    #[must_use]
    pub fn new(
        process: Process,
        page: Option<CallPage>,
        mut policy: PollPolicy,
        unit: Arc<SharedUnit>,
    ) -> Self {
        if page.is_some() {
            policy.activated();
        }
        let polls = AtomicBool::new(policy.polls());
        let served = Handover::new(Mutex::new(State { process, end: None }), page);
        Self {
            served,
            polling: Mutex::new(Polling { policy, offered: false }),
            polls,
            unit,
            exits: AtomicU64::new(0),
            posted: AtomicU64::new(0),
        }
    }

    /// Uses the program's state.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut Process) -> R) -> R {
        self.served.with(|state| use_it(&mut state.process))
    }

    /// Serves a call that came by an exit. `posted` says that its stub had posted it and gave up.
    pub fn serve_exit(&self, number: u64, args: &[u64; 6], posted: bool) -> Served {
        self.served.exit(posted, |state, found| {
            let flow = match (state.end.take(), found) {
                (Some(end), _) => end,
                // A program that wrote this itself has answered its own call.
                (None, Posted::Answered(value)) => Flow::Answer(Ok(value)),
                (None, Posted::Untouched | Posted::Declined) => {
                    if let Some(page) = self.served.page()
                        && syscalls::may_be_posted(&state.process, number, args)
                    {
                        self.count_exit(page, found == Posted::Untouched);
                    }
                    syscalls::dispatch(&mut state.process, number, args)
                }
            };
            Served { flow, segments: state.process.segments }
        })
    }

    /// Counts an exit, for whatever reason it was.
    pub fn count(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the vCPU left the guest, and how many calls were served without that, by the names that a status
    /// has for them.
    pub fn counted(&self) -> [(&'static str, u64); 2] {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("exits", load(&self.exits)), ("calls_without_exit", load(&self.posted))]
    }

    /// What the poller does over and over; with `check_time`, also a look at the clock.
    pub fn look(&self, check_time: bool) -> Look {
        let Some(page) = self.served.page() else {
            return Look::Over;
        };
        if self.serve_posted() {
            return Look::Served;
        }
        if check_time || !self.polls() {
            return self.check(page);
        }
        Look::Nothing
    }

    /// Whether calls are polled for.
    pub fn polls(&self) -> bool {
        self.polls.load(Ordering::Relaxed)
    }

    fn serve_posted(&self) -> bool {
        self.served.poll(
            |state| state.end.is_none(),
            |state, number, args| {
                if !syscalls::may_be_posted(&state.process, number, &args) {
                    return None;
                }
                self.polling().policy.served(Instant::now());
                match syscalls::dispatch(&mut state.process, number, &args) {
                    Flow::Answer(answer) => {
                        self.posted.fetch_add(1, Ordering::Relaxed);
                        Some(raw(answer))
                    }
                    end => {
                        state.end = Some(end);
                        None
                    }
                }
            },
        )
    }

    /// Tells the policy that nothing was found, and the stub what it decides. The poller itself tells the
    /// stub that it polls, so that nobody waits for a thread that is still waking up.
    fn check(&self, page: &CallPage) -> Look {
        let mut polling = self.polling();
        polling.policy.found_nothing(Instant::now());
        let polls = polling.policy.polls();
        self.polls.store(polls, Ordering::Relaxed);
        polling.offer(page, polls);
        if polls { Look::Nothing } else { Look::Over }
    }

    /// Tells the policy of an exit that polling could have saved.
    fn count_exit(&self, page: &CallPage, missed: bool) {
        let mut polling = self.polling();
        let before = polling.policy.polls();
        polling.policy.notified(Instant::now(), missed);
        let polls = polling.policy.polls();
        self.polls.store(polls, Ordering::Relaxed);
        if !polls {
            polling.offer(page, false);
        }
        drop(polling);
        if polls && !before {
            self.unit.wake();
        }
    }

    fn polling(&self) -> MutexGuard<'_, Polling> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Polling {
    /// Tells the stub whether somebody looks for its calls.
    fn offer(&mut self, page: &CallPage, offered: bool) {
        if offered != self.offered {
            self.offered = offered;
            page.offer(offered);
        }
    }
}

/// A call's answer as the program's register has it.
#[must_use]
pub fn raw(answer: Result<u64, Errno>) -> u64 {
    match answer {
        Ok(value) => value,
        Err(errno) => i64::from(errno as i32).wrapping_neg().cast_unsigned(),
    }
}
