//! The memory of a program that was brought back, which runs before it is read: pages that are touched come first, by
//! userfaultfd, and the rest behind them.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cairn_store::{ObjectIndex, PAGE_SIZE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use rangemap::RangeSet;

use crate::guest::app::space::Arrival;
use crate::host::thread::start_confined;
use crate::host::userfault::Userfault;
use crate::machine::app::RunError;
use crate::machine::sandbox;
use crate::machine::whole::SavedError;
use crate::memory::layout::{PAGE, round_down, to_usize};
use crate::memory::program::ProgramMemory;
use crate::store::signature::{CheckedSnapshot, ReadError};
use crate::tell;

/// Pages that come along with one that is touched: neighbours are often touched next, and are unpacked already.
const AROUND: u64 = 16;
/// Pages that come behind between two looks at who waits, and that are brought at a time.
const STRIDE: u64 = 32;
/// A program that goes on touches many pages at first: for so long nothing is brought behind while it waits for pages
/// again and again.
const BEGINNING: Duration = Duration::from_millis(100);
/// How long nobody may have waited for the rest to come in that time, milliseconds.
const LULL_MS: u8 = 1;
/// The exit status when the rest can't be read: as when KVM can't go on with a program.
const UNREADABLE: i32 = 123;

/// What is to come.
pub(super) struct Incoming {
    memory: Arc<ProgramMemory>,
    snapshot: Arc<CheckedSnapshot>,
    object: ObjectIndex,
    /// None once all is there.
    state: Mutex<Option<State>>,
    progress: Mutex<Progress>,
    changed: Condvar,
    stop: AtomicBool,
    /// Threads that want the state: the one that brings the rest lets them go first.
    asking: AtomicUsize,
}

struct State {
    userfault: Arc<Userfault>,
    /// Page numbers.
    pending: RangeSet<u64>,
    /// Room for what is brought at a time.
    buffer: Box<[u8]>,
}

/// How far the thread that brings it has come.
#[derive(Default)]
struct Progress {
    /// Whether the program runs whose memory it is: it can't do without.
    runs: bool,
    /// Whether all is there, or the kernel has no room for the rest now.
    is_over: bool,
    /// Why the rest can't be read, of a program that doesn't run yet.
    failed: Option<ReadError>,
}

/// The thread that brings it. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Bringer {
    incoming: Arc<Incoming>,
    thread: Option<JoinHandle<()>>,
}

impl Incoming {
    /// From now on, who touches a page of `mappings` (addresses) that the snapshot has waits for it.
    ///
    /// # Errors
    /// No userfaultfd here, or it refuses: then nothing has changed.
    pub(super) fn new(
        memory: &Arc<ProgramMemory>,
        snapshot: &Arc<CheckedSnapshot>,
        object: ObjectIndex,
        mappings: &RangeSet<u64>,
    ) -> io::Result<Self> {
        let userfault = Userfault::open_for_missing()?;
        let mut pending: RangeSet<u64> = RangeSet::new();
        for run in snapshot.present(object).map_err(io::Error::other)? {
            let (Some(start), Some(end)) = (run.start.checked_mul(PAGE), run.end.checked_mul(PAGE)) else {
                continue;
            };
            for piece in mappings.overlapping(&(start..end)) {
                pending.insert(piece.start.max(start) / PAGE..piece.end.min(end) / PAGE);
            }
        }
        for mapping in mappings.iter() {
            let pages = mapping.start / PAGE..mapping.end / PAGE;
            let mut inside = pending.overlapping(&pages);
            let Some(first) = inside.next() else { continue };
            let last = inside.next_back().unwrap_or(first);
            let span = first.start.max(pages.start)..last.end.min(pages.end);
            let address = |page: u64| memory.window().address(page * PAGE);
            userfault.register_missing(&(address(span.start)..address(span.end)))?;
        }
        let buffer = vec![0; to_usize(STRIDE) * PAGE_SIZE].into_boxed_slice();
        let state = Mutex::new(Some(State { userfault: Arc::new(userfault), pending, buffer }));
        let (memory, snapshot) = (Arc::clone(memory), Arc::clone(snapshot));
        Ok(Self {
            memory,
            snapshot,
            object,
            state,
            progress: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
        })
    }

    /// Brings pages that are pending, of those in `pages`.
    fn bring(&self, state: &mut State, pages: &Range<u64>) -> Result<(), ReadError> {
        let runs: Vec<Range<u64>> = state.pending.overlapping(pages).cloned().collect();
        for run in runs {
            let mut at = run.start.max(pages.start);
            let end = run.end.min(pages.end);
            while at < end {
                let part = at..end.min(at + STRIDE);
                if let Err(error) = self.bring_part(state, &part)? {
                    // The kernel is out of memory: whoever touches a page waits, and it is tried again.
                    tracing::debug!(%error, ?part, "pages can't be brought yet");
                    self.set_over();
                    return Ok(());
                }
                at = part.end;
                state.pending.remove(part);
            }
        }
        Ok(())
    }

    /// Brings pages that the buffer has room for.
    fn bring_part(&self, state: &mut State, part: &Range<u64>) -> Result<io::Result<()>, ReadError> {
        let bytes = &mut state.buffer[..to_usize(part.end - part.start) * PAGE_SIZE];
        let (pages, _) = bytes.as_chunks_mut::<PAGE_SIZE>();
        for (page, into) in part.clone().zip(pages) {
            self.snapshot.read_page(self.object, page, into)?;
        }
        Ok(state.userfault.bring(self.memory.window().address(part.start * PAGE), bytes))
    }

    /// Serves who waits; answers whether anybody did.
    fn serve(&self, state: &mut State) -> Result<bool, ReadError> {
        let mut served = false;
        while let Ok(Some(address)) = state.userfault.next_waiting() {
            served = true;
            let base = self.memory.window().address(0) as u64;
            let page = address.wrapping_sub(base) / PAGE;
            if state.pending.contains(&page) {
                let first = round_down(page, AROUND);
                // The page itself first: somebody waits for it.
                self.bring(state, &(page..page + 1))?;
                self.bring(state, &(first..first + AROUND))?;
            } else {
                let place = self.memory.window().address(page * PAGE);
                if let Err(error) = state.userfault.bring_zeros(place) {
                    tracing::debug!(%error, page, "a page of zeros can't be brought yet");
                }
            }
        }
        Ok(served)
    }

    /// One turn: who waits, then some of the rest, unless somebody waited and has to be `preferred`.
    fn turn(&self, preferred: bool) -> Result<Turn, ReadError> {
        let mut guard = self.lock();
        let Some(state) = guard.as_mut() else { return Ok(Turn::Done) };
        let served = self.serve(state)?;
        match state.pending.iter().next().map(|run| run.start) {
            Some(_) if served && preferred => Ok(Turn::Served(Arc::clone(&state.userfault))),
            Some(first) => {
                self.bring(state, &(first..first + STRIDE))?;
                Ok(Turn::More)
            }
            None => {
                // With the descriptor all waiting ends.
                *guard = None;
                Ok(Turn::Done)
            }
        }
    }

    /// Brings all until it's there, or nobody wants it any more.
    fn bring_all(&self, begun: Instant) -> Result<(), ReadError> {
        while !self.stop.load(Ordering::Acquire) {
            while self.asking.load(Ordering::Acquire) != 0 {
                thread::yield_now();
            }
            match self.turn(begun.elapsed() < BEGINNING)? {
                Turn::More => {}
                Turn::Served(userfault) => {
                    let waiting = PollFd::new(userfault.as_fd(), PollFlags::POLLIN);
                    // That nobody comes, or that it can't be told, means that the rest may come.
                    let is_lull = !poll(&mut [waiting], LULL_MS).is_ok_and(|ready| 0 < ready);
                    // First this: when all is there, nobody waits, and all may move.
                    drop(userfault);
                    if is_lull {
                        self.turn(false)?;
                    }
                }
                Turn::Done => break,
            }
        }
        Ok(())
    }

    fn run(&self) {
        let begun = Instant::now();
        match self.bring_all(begun) {
            Ok(()) => tracing::info!(after = ?begun.elapsed(), "all memory is there"),
            Err(error) => self.fail(error),
        }
        // Whoever waits in vain, as the program has ended or won't begin, goes on.
        *self.lock() = None;
        self.set_over();
    }

    /// The rest can't be read. A program that runs waits for it: it can't go on, nor end in any other way.
    fn fail(&self, error: ReadError) {
        let mut progress = self.progress();
        if progress.runs {
            tell!("cairn: the rest of the program's memory can't be read: {error}");
            std::process::exit(UNREADABLE)
        }
        progress.failed = Some(error);
    }

    fn set_over(&self) {
        self.progress().is_over = true;
        self.changed.notify_all();
    }

    /// Waits until all is there, of a program that doesn't run yet; or as much as the kernel has room for.
    ///
    /// # Errors
    /// It can't be read: the program must not run.
    pub(super) fn wait(&self) -> Result<(), ReadError> {
        let progress = self.changed.wait_while(self.progress(), |progress| !progress.is_over);
        progress.unwrap_or_else(PoisonError::into_inner).failed.take().map_or(Ok(()), Err)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`lock`](Self::lock), for everybody but the thread that brings the rest, which would have it again at once.
    fn ask(&self) -> MutexGuard<'_, Option<State>> {
        self.asking.fetch_add(1, Ordering::AcqRel);
        let guard = self.lock();
        self.asking.fetch_sub(1, Ordering::AcqRel);
        guard
    }
}

/// What a turn did.
enum Turn {
    /// Some of the rest came, and there is more.
    More,
    /// Somebody waited, and nothing else came.
    Served(Arc<Userfault>),
    /// All is there.
    Done,
}

impl Arrival for Incoming {
    fn cancel(&self, range: &Range<u64>) {
        if let Some(state) = self.ask().as_mut() {
            let pages = range.start / PAGE..range.end / PAGE;
            if !pages.is_empty() {
                state.pending.remove(pages);
            }
        }
    }

    fn pending(&self) -> RangeSet<u64> {
        self.ask().as_ref().map(|state| state.pending.clone()).unwrap_or_default()
    }

    fn hasten(&self, range: &Range<u64>) -> Result<(), Errno> {
        let mut guard = self.ask();
        let Some(state) = guard.as_mut() else { return Ok(()) };
        let pages = range.start / PAGE..range.end / PAGE;
        if pages.is_empty() {
            return Ok(());
        }
        self.bring(state, &pages).map_err(|error| {
            tracing::error!(%error, "memory that is to be moved can't be read");
            Errno::EIO
        })?;
        if state.pending.overlaps(&pages) { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn hand_over(&self, range: &Range<u64>) -> Result<(), Errno> {
        self.hasten(range)?;
        // Without it, all of the memory is left to itself.
        let Some(userfault) = self.ask().as_ref().map(|state| Arc::clone(&state.userfault)) else {
            return Ok(());
        };
        let address = |at| self.memory.window().address(at);
        userfault.unregister(&(address(range.start)..address(range.end))).map_err(|error| {
            tracing::error!(%error, "memory that is to be moved can't be handed over");
            error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
        })
    }
}

impl Bringer {
    /// Starts it.
    ///
    /// # Errors
    /// [`RunError::Host`], [`RunError::Sandbox`].
    pub(super) fn start(incoming: Arc<Incoming>) -> Result<Self, RunError> {
        let brings = Arc::clone(&incoming);
        let started = start_confined("bringer", sandbox::confine, move || brings.run());
        let thread = started.map_err(|source| RunError::Host { what: "a thread", source })??;
        Ok(Self { incoming, thread: Some(thread) })
    }

    /// The program runs from now on: should the rest turn out to be unreadable, the process ends.
    ///
    /// # Errors
    /// [`RunError::Saved`]: something was unreadable already, and the program must not run.
    pub(crate) fn set_running(&self) -> Result<(), RunError> {
        let mut progress = self.incoming.progress();
        progress.runs = true;
        progress.failed.take().map_or(Ok(()), |error| Err(SavedError::from(error).into()))
    }
}

impl Drop for Bringer {
    fn drop(&mut self) {
        self.incoming.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}
