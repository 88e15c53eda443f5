//! What the thread that checkpoints a whole program is told, and by whom.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use cairn_abi::CheckpointId;

use super::checkpointer::{Failed, chain};
use super::comeback::Comeback;
use crate::guest::app::files::Request;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// To take a checkpoint now.
    Take(Wanted),
    /// To end the program's run here, as it goes on from a checkpoint.
    GoBack(Arc<Comeback>, Sender<Result<CheckpointId, Refused>>),
    /// To end.
    Stop,
}

/// Who wants a checkpoint.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A thread of the monitor.
    Monitor(Sender<Result<CheckpointId, Refused>>),
    /// The program itself.
    Program(Request),
}

impl Wanted {
    pub(super) fn answer(self, outcome: Result<CheckpointId, Refused>) {
        match self {
            // Whoever asked may have gone.
            Self::Monitor(tell) => drop(tell.send(outcome)),
            Self::Program(request) => match outcome {
                Ok(id) => request.answer(Ok(id)),
                Err(Refused(text)) => request.answer(Err(&text)),
            },
        }
    }
}

/// Why there is no checkpoint, as a text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl From<&Failed> for Refused {
    fn from(failed: &Failed) -> Self {
        Self(chain(failed))
    }
}

/// Asks for checkpoints, from any thread that the checkpointer never waits for.
#[derive(Clone, Debug)]
pub(crate) struct Asker(Sender<Order>);

/// Where the thread is told.
pub(crate) type Orders = Receiver<Order>;

/// The two ends of what the thread is told.
pub(crate) fn orders() -> (Asker, Orders) {
    let (sender, receiver) = mpsc::channel();
    (Asker(sender), receiver)
}

impl Asker {
    /// Has a checkpoint taken and waits until the store has it, at the level that the store's checkpoints have.
    ///
    /// # Errors
    /// [`Refused`]: it couldn't be taken or written, or the program has ended.
    pub(crate) fn checkpoint(&self) -> Result<CheckpointId, Refused> {
        let answer = self.begin();
        answer.recv().unwrap_or_else(|_| Err(Refused::from(&Failed::Gone)))
    }

    /// Has a checkpoint taken, and tells through the result when the store has it. A result that is closed says that
    /// the program has ended.
    pub(crate) fn begin(&self) -> Receiver<Result<CheckpointId, Refused>> {
        let (tell, told) = mpsc::channel();
        self.order(Wanted::Monitor(tell));
        told
    }

    /// Has a checkpoint taken for somebody.
    pub(super) fn order(&self, wanted: Wanted) {
        // With a thread that has ended, who wants it goes too, and so learns it.
        let _ = self.0.send(Order::Take(wanted));
    }

    /// Ends the program's run here, as it goes on from `comeback`, and answers what that is in the store: the
    /// checkpoint itself, or a repetition of it, which is then the newest. From then on nothing is written any more.
    ///
    /// # Errors
    /// [`Refused`]: the store failed, and the program runs on; or it has ended.
    pub(crate) fn go_back(&self, comeback: Arc<Comeback>) -> Result<CheckpointId, Refused> {
        let (tell, told) = mpsc::channel();
        let _ = self.0.send(Order::GoBack(comeback, tell));
        told.recv().unwrap_or_else(|_| Err(Refused::from(&Failed::Gone)))
    }

    pub(super) fn stop(&self) {
        let _ = self.0.send(Order::Stop);
    }
}
