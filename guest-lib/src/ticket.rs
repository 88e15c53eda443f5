//! A checkpoint that was begun.

use cairn_abi::CheckpointId;

use crate::engines::Started;

/// What [`Session::checkpoint_async`](crate::Session::checkpoint_async) answers: turned in with
/// [`Session::wait`](crate::Session::wait), it becomes the checkpoint's id. There is no id to be had
/// from it before: a checkpoint that isn't done can't be rolled back to.
#[derive(Debug)]
pub struct Ticket {
    session: u64,
    begun: Started,
}

impl Ticket {
    pub(crate) fn new(session: u64, begun: Started) -> Self {
        Self { session, begun }
    }

    /// The id that the checkpoint will have.
    #[track_caller]
    pub(crate) fn of(&self, session: u64) -> CheckpointId {
        assert!(self.session == session, "the ticket is another session's");
        self.begun.id
    }

    /// Whether it was done when it was begun.
    pub(crate) fn is_done(&self) -> bool {
        self.begun.done
    }
}
