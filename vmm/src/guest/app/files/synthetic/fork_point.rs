//! /dev/cairn: where the program asks for a checkpoint of itself, and learns on which side of it it is.
//! [`cairn_abi::fork_point`] says what is written and read.

use std::{
    fmt::Debug,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use cairn_abi::{
    CheckpointId,
    fork_point::{Answer as Line, MOST_ANSWER, MOST_REQUESTS, REQUEST},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use serde::{Deserialize, Serialize};

use super::super::{
    backend::{Answer, OpenRequest},
    open::{Object, SynthesizedFile, SynthesizedHandle},
    status::Status,
};

/// Takes checkpoints of the whole program.
pub trait WholeCheckpoints: Debug + Send + Sync {
    /// Has one taken, without waiting for it, and `request` answered when the store has it or when it's known that
    /// there will be none.
    fn ask(&self, request: Request);
}

/// A request that waits for its answer. Dropping it answers that there is no checkpoint.
#[derive(Debug)]
pub struct Request {
    state: Option<Arc<Shared>>,
    waiting: Arc<AtomicUsize>,
}

impl Request {
    /// Tells the program what its request came to.
    pub fn answer(mut self, outcome: Result<CheckpointId, &str>) {
        if let Some(state) = self.state.take() {
            state.settle(match outcome {
                Ok(id) => Line::Taken(id),
                Err(reason) => Line::Failed(reason),
            });
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.settle(Line::Failed("nobody takes checkpoints of this program any more"));
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What makes up the node.
#[derive(Clone, Debug)]
pub(in crate::guest::app::files) struct ForkPointNode {
    checkpoints: Arc<dyn WholeCheckpoints>,
    /// Requests of the guest that wait, on any of its open files and on those that it closed.
    waiting: Arc<AtomicUsize>,
}

impl ForkPointNode {
    pub(in crate::guest::app::files) fn new(checkpoints: Arc<dyn WholeCheckpoints>) -> Self {
        Self { checkpoints, waiting: Arc::default() }
    }

    pub(super) fn open(&self, status: Status, request: &OpenRequest) -> Answer<Object> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let state = Arc::new(Shared {
            state: Mutex::default(),
            // An answer can be had at once, though it be empty.
            answered: EventFd::from_value_and_flags(1, flags)?,
        });
        let file = ForkPoint { node: self.clone(), state, waits: AtomicBool::new(true) };
        Ok(Object::Synthesized(SynthesizedHandle::new(Box::new(file), status, request)))
    }
}

/// An open /dev/cairn.
#[derive(Debug)]
pub(in crate::guest::app::files) struct ForkPoint {
    node: ForkPointNode,
    state: Arc<Shared>,
    /// Whether reading waits for the answer.
    waits: AtomicBool,
}

/// What the program shares with whoever answers.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Can be read while reading the file wouldn't wait.
    answered: EventFd,
}

#[derive(Debug, Default)]
enum State {
    /// There is nothing to read.
    #[default]
    Idle,
    /// A request waits for its answer.
    Asked,
    /// An answer, and how much of it was read.
    Answered { line: Vec<u8>, read: usize },
}

/// An open /dev/cairn as plain data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::guest::app::files) enum ForkPointImage {
    /// The program has asked and wasn't told anything yet.
    Asked,
    /// What is left to read.
    Rest(Vec<u8>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request its answer.
    fn settle(&self, line: Line<'_>) {
        let mut text = line.to_string().replace('\n', " ");
        while MOST_ANSWER <= text.len() {
            text.pop();
        }
        text.push('\n');
        self.has(text.into_bytes());
    }

    /// There is this to read, without waiting.
    fn has(&self, line: Vec<u8>) {
        let mut state = self.lock();
        *state = if line.is_empty() { State::Idle } else { State::Answered { line, read: 0 } };
        // With the lock, or the next request might already be there. It can only fail where it is full, and so
        // readable anyhow.
        let _ = self.answered.write(1);
    }

    /// A request begins.
    ///
    /// # Errors
    /// `EBUSY` when there is one.
    fn begin(&self) -> Answer<()> {
        let mut state = self.lock();
        if !matches!(*state, State::Idle) {
            return Err(Errno::EBUSY);
        }
        *state = State::Asked;
        // Empty it; it can only fail where it is.
        let _ = self.answered.read();
        Ok(())
    }

    /// At most `length` bytes of the answer, nothing if there was no request; None while it isn't there.
    fn take(&self, length: usize) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let (part, is_over) = match &mut *state {
            State::Idle => return Some(Vec::new()),
            State::Asked => return None,
            State::Answered { line, read } => {
                let part = line[*read..].iter().copied().take(length).collect::<Vec<u8>>();
                *read += part.len();
                (part, *read == line.len())
            }
        };
        if is_over {
            *state = State::Idle;
        }
        Some(part)
    }
}

impl ForkPoint {
    /// Can be read while reading the file wouldn't wait, and written always.
    pub(in crate::guest::app::files) fn answered(&self) -> BorrowedFd<'_> {
        self.state.answered.as_fd()
    }

    /// As plain data. A program that was told nothing yet will be told that it was brought back.
    pub(in crate::guest::app::files) fn image(&self) -> ForkPointImage {
        match &*self.state.lock() {
            State::Idle => ForkPointImage::Rest(Vec::new()),
            State::Asked | State::Answered { read: 0, .. } => ForkPointImage::Asked,
            State::Answered { line, read } => ForkPointImage::Rest(line[*read..].to_vec()),
        }
    }

    /// Goes on as the image of a checkpoint says, in a program that was brought back from it.
    pub(in crate::guest::app::files) fn restore(&self, image: &ForkPointImage, from: CheckpointId) {
        match image {
            ForkPointImage::Asked => self.state.settle(Line::Resumed(from)),
            ForkPointImage::Rest(rest) => self.state.has(rest[..rest.len().min(MOST_ANSWER)].to_vec()),
        }
    }
}

impl SynthesizedFile for ForkPoint {
    fn read(&self, _offset: u64, length: usize) -> Answer<Vec<u8>> {
        loop {
            if let Some(bytes) = self.state.take(length) {
                return Ok(bytes);
            }
            if !self.waits.load(Ordering::Relaxed) {
                return Err(Errno::EAGAIN);
            }
            // Interrupted when the checkpoint is to be taken: the call is made again then.
            poll(&mut [PollFd::new(self.answered(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        }
    }

    fn write(&self, _offset: u64, bytes: &[u8]) -> Answer<usize> {
        if bytes != REQUEST {
            return Err(Errno::EINVAL);
        }
        let waiting = &self.node.waiting;
        let counted = |count: usize| (count < MOST_REQUESTS).then_some(count + 1);
        if waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_err() {
            return Err(Errno::EBUSY);
        }
        let mut request = Request { state: None, waiting: Arc::clone(waiting) };
        self.state.begin()?;
        request.state = Some(Arc::clone(&self.state));
        self.node.checkpoints.ask(request);
        Ok(bytes.len())
    }

    fn size(&self) -> u64 {
        0
    }

    fn set_nonblocking(&self, on: bool) {
        self.waits.store(!on, Ordering::Relaxed);
    }

    fn fork_point(&self) -> Option<&ForkPoint> {
        Some(self)
    }
}
