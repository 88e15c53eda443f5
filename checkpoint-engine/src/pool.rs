//! Threads that share large pieces of work with the one that asks for it, and sleep otherwise.
//!
//! ```text
//!   asks:     posts the job, takes parts as the helpers do, waits for those that are still at work
//!   helpers:  asleep ── woken ──> take parts while there are any ──> asleep
//! ```
//! Nobody needs to come: parts that no helper takes are done by the thread that asks, so that on a machine
//! without a spare core a job costs little more than without helpers. What could cost more is a helper that took a
//! part and then lost its core: a job that took longer than it would have alone is followed by some that aren't
//! shared ([`sharing`]).

mod sharing;

use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use sharing::Sharing;

/// Helpers that a pool has at most. More than share the memory's bandwidth are of no use.
pub const MAX_HELPERS: usize = 31;

/// Parts that a job has at most: they fit on a stack.
pub(crate) const MAX_PARTS: usize = 32;

/// Parts of a job for each thread, so that one that comes late, or is slower, holds nobody up for long.
const PARTS_PER_THREAD: usize = 4;

/// Pages from which on work is shared: 0.1 ms of work by `examples/compare_cost.rs`, several times what it takes to
/// wake a thread that sleeps.
const LEAST_PAGES: usize = 1024;

/// A number of helper threads. It is shared by the engines of a process; the threads end with it.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    least_pages: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There are parts to take, or the pool ends.
    wake: Condvar,
    /// The last helper at work is done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    /// The next part to be taken, of `parts`.
    next: usize,
    parts: usize,
    /// Helpers at work on a part.
    running: usize,
    panicked: bool,
    ends: bool,
    sharing: Sharing,
}

/// What each part of a job does, for as long as somebody may take one.
#[derive(Clone, Copy, Debug)]
struct Job(NonNull<dyn Fn(usize) + Sync + 'static>);

// SAFETY: a `Job` is a pointer to a function that any thread may call at the same time as others (`Sync`).
// That it is still there is what `Pool::run` sees to.
unsafe impl Send for Job {}

impl Pool {
    /// Starts `helpers` threads, each of which calls `prepare` first. It may give up rights of its thread.
    ///
    /// # Errors
    /// The host has no thread more, or the first error of `prepare`; none is left behind.
    pub fn start<E: From<io::Error> + Send + 'static>(
        helpers: NonZeroUsize,
        prepare: impl Fn() -> Result<(), E> + Clone + Send + 'static,
    ) -> Result<Self, E> {
        let count = helpers.get().min(MAX_HELPERS);
        let mut pool = Self { shared: Arc::default(), helpers: Vec::new(), least_pages: LEAST_PAGES };
        let (prepared, ready) = mpsc::channel();
        for index in 0..count {
            let (shared, prepare, prepared) = (Arc::clone(&pool.shared), prepare.clone(), prepared.clone());
            let name = format!("engine {}", index + 1);
            let helper = thread::Builder::new().name(name).spawn(move || help(&shared, prepare, prepared))?;
            pool.helpers.push(helper);
        }
        drop(prepared);
        for _ in 0..count {
            ready.recv().map_err(|_| io::Error::other("a helper thread of the engine has panicked"))??;
        }
        Ok(pool)
    }

    /// A pool that shares work of any size.
    #[cfg(test)]
    pub(crate) fn eager(helpers: usize) -> Option<Arc<Self>> {
        let mut pool = Self::start(NonZeroUsize::new(helpers)?, || Ok::<_, io::Error>(())).unwrap();
        pool.least_pages = 2;
        Some(Arc::new(pool))
    }

    /// Into how many parts work of `pages` pages is best cut.
    pub(crate) fn parts(&self, pages: usize) -> usize {
        if pages < self.least_pages {
            return 1;
        }
        let parts = (self.helpers.len() + 1) * PARTS_PER_THREAD;
        parts.min(MAX_PARTS).min(pages / self.least_pages.div_ceil(PARTS_PER_THREAD)).max(1)
    }

    /// Calls `work` with each number below `parts`, on this thread and on helpers, in any order, and returns when
    /// all have returned.
    ///
    /// # Panics
    /// A part does.
    pub(crate) fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let Some(mut running) = self.post(parts, work) else {
            // Somebody else has the helpers, or they have no core.
            return (0..parts).for_each(work);
        };
        let start = Instant::now();
        let (mut own, mut own_time) = (0, Duration::ZERO);
        while let Some((_, part)) = self.shared.lock().take_part() {
            work(part);
            own += 1;
            own_time = start.elapsed();
        }
        let panicked = running.finish();
        self.shared.lock().sharing.took(start.elapsed(), own_time, own, parts);
        assert!(!panicked, "a helper thread of the engine has panicked");
    }

    /// Offers the parts to the helpers, if they have nothing to do.
    fn post<'a>(&'a self, parts: usize, work: &'a (dyn Fn(usize) + Sync)) -> Option<Running<'a>> {
        let mut state = self.shared.lock();
        if parts < 2 || state.job.is_some() || !state.sharing.next() {
            return None;
        }
        // SAFETY: only the lifetime changes. `Running` takes the job away, and waits until no helper is in it,
        // before it ends, whichever way that is; it can't outlive `work`, and nothing here forgets it.
        let job = unsafe {
            mem::transmute::<NonNull<dyn Fn(usize) + Sync>, NonNull<dyn Fn(usize) + Sync>>(work.into())
        };
        (state.job, state.next, state.parts, state.panicked) = (Some(Job(job)), 0, parts, false);
        drop(state);
        for _ in 0..self.helpers.len().min(parts - 1) {
            self.shared.wake.notify_one();
        }
        Some(Running { shared: &self.shared, over: false })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches panics of the work; one of its own was told by its thread.
            let _ = helper.join();
        }
    }
}

/// A job that helpers may be at work on.
struct Running<'a> {
    shared: &'a Shared,
    over: bool,
}

impl Running<'_> {
    /// Takes the job away when no helper is at work on it. Whether one has panicked.
    fn finish(&mut self) -> bool {
        let mut state = self.shared.lock();
        // Should this thread have panicked, parts are left that nobody is to take.
        state.next = state.parts;
        while 0 < state.running {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.job = None;
        self.over = true;
        state.panicked
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.finish();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_part(&mut self) -> Option<(Job, usize)> {
        let (job, part) = (self.job?, self.next);
        if part == self.parts {
            return None;
        }
        self.next += 1;
        Some((job, part))
    }
}

/// A helper's life.
fn help<E>(shared: &Shared, prepare: impl Fn() -> Result<(), E>, prepared: Sender<Result<(), E>>) {
    let answer = prepare();
    let fit = answer.is_ok();
    // Nobody listens if another helper couldn't be started; then the pool ends.
    let _ = prepared.send(answer);
    drop(prepared);
    let mut state = shared.lock();
    while fit && !state.ends {
        let Some((job, part)) = state.take_part() else {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.running += 1;
        drop(state);
        // SAFETY: this part was taken under the lock and counts as running until the lock is taken again: until
        // then `Running` waits, and what the pointer leads to is there.
        let work = unsafe { job.0.as_ref() };
        let result = panic::catch_unwind(AssertUnwindSafe(|| work(part)));
        state = shared.lock();
        state.running -= 1;
        state.panicked |= result.is_err();
        if state.running == 0 {
            shared.done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn pool(helpers: usize) -> Pool {
        Pool::start(NonZeroUsize::new(helpers).unwrap(), || Ok::<_, io::Error>(())).unwrap()
    }

    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn every_part_is_done_once_whoever_does_it() {
        for helpers in [1, 2, 5] {
            let pool = pool(helpers);
            for parts in (0..40).chain([1000]) {
                let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|part| count(&counts[part]));
                // What the parts borrow is there until the last has returned, and then it's seen here.
                assert!(counts.into_iter().all(|count| count.into_inner() == 1), "{helpers} {parts}");
            }
        }
    }

    #[test]
    fn a_thread_that_finds_the_helpers_taken_does_without() {
        let pool = pool(2);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        pool.run(8, &|_| count(&total));
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 500 * 8);
    }

    #[test]
    fn a_panic_of_any_part_is_the_asker_s_and_the_pool_goes_on() {
        let pool = pool(3);
        for bad in 0..8 {
            let work = |part| assert_ne!(part, bad);
            let caught = panic::catch_unwind(AssertUnwindSafe(|| pool.run(8, &work)));
            assert!(caught.is_err(), "{bad}");
            let total = AtomicUsize::new(0);
            pool.run(8, &|_| count(&total));
            assert_eq!(total.into_inner(), 8);
        }
    }

    #[test]
    fn a_pool_whose_helpers_are_not_prepared_is_none() {
        let refuse = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let refused = Pool::start(NonZeroUsize::new(3).unwrap(), refuse).map(drop).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let panics = || -> io::Result<()> { panic!("not prepared") };
        assert!(Pool::start(NonZeroUsize::MIN, panics).is_err());
    }

    #[test]
    fn small_work_is_in_one_part() {
        let pool = pool(1);
        assert_eq!([0, 1, LEAST_PAGES - 1].map(|pages| pool.parts(pages)), [1; 3]);
        assert_eq!([LEAST_PAGES, 2 * LEAST_PAGES, 1 << 30].map(|pages| pool.parts(pages)), [4, 8, 8]);
    }
}
