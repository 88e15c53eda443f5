//! A checkpoint that was begun.

use cairn_abi::{CheckpointId, Level};

use crate::engines::Started;

/// What [`Session::checkpoint_async`](crate::Session::checkpoint_async) and
/// [`Session::checkpoint_durable_async`](crate::Session::checkpoint_durable_async) answer: turned in with
/// [`Session::wait`](crate::Session::wait), it becomes the checkpoint's id. There is no id to be had
/// from it before: a checkpoint that isn't done can't be rolled back to.
#[derive(Debug)]
pub struct Ticket {
    session: u64,
    begun: Started,
    /// If it's done when it is in the store.
    level: Option<Level>,
}

impl Ticket {
    pub(crate) fn new(session: u64, begun: Started, level: Option<Level>) -> Self {
        Self { session, begun, level }
    }

    /// The id that the checkpoint will have.
    #[track_caller]
    pub(crate) fn of(&self, session: u64) -> CheckpointId {
        assert!(self.session == session, "the ticket is another session's");
        self.begun.id
    }

    /// What it must have reached on disk to be done.
    pub(crate) fn level(&self) -> Option<Level> {
        self.level
    }

    /// Whether it was done when it was begun.
    pub(crate) fn is_done(&self) -> bool {
        self.begun.done
    }
}
