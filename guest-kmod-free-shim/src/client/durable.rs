//! Checkpoints on disk.

use std::thread;
use std::time::Duration;

use cairn_abi::reply::{StoreFigures, StoredRegion};
use cairn_abi::{CheckpointId, FEATURE_DURABLE, Level, RegionName, Reply, ReplyBody, Request, Status};

use super::{Client, unexpected};
use crate::error::ShimError;

/// How long to sleep after the first answer of "not yet": a device that may wait has waited already, and one that
/// may not is in a guest where each question stops all CPUs.
const SHORTEST: Duration = Duration::from_micros(50);
/// How long at most, however long the disk takes.
const LONGEST: Duration = Duration::from_millis(10);

/// Sleeps that become longer.
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(SHORTEST)
    }

    fn sleep(&mut self) {
        thread::sleep(self.0);
        self.0 = (self.0 * 2).min(LONGEST);
    }
}

impl Client {
    /// Whether there is a store.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.hello.features & FEATURE_DURABLE != 0
    }

    /// Takes a checkpoint of all regions and has it stored, beside the program. Waits for room if the disk is slower
    /// than the program.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others; earlier checkpoints stand.
    pub fn checkpoint_durable(&mut self, level: Level) -> Result<CheckpointId, ShimError> {
        let request = Request::CheckpointDurable { level };
        let mut pauses = Pauses::new();
        loop {
            match self.ask_with_hints(request) {
                Ok(Reply { body: ReplyBody::Durability(durability), .. }) => return Ok(durability.id),
                Ok(_) => return Err(unexpected(request)),
                Err(error) if error.status() == Some(Status::Busy) => pauses.sleep(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a checkpoint that was [handed to the store](Self::checkpoint_durable), or a newer one, has reached
    /// `level`; if `wait`, when it has.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others: it couldn't be stored. Earlier ones stand.
    pub fn is_durable(
        &mut self,
        checkpoint: CheckpointId,
        level: Level,
        wait: bool,
    ) -> Result<bool, ShimError> {
        let request = Request::Durability { checkpoint, wait: wait.then_some(level) };
        let mut pauses = Pauses::new();
        loop {
            let ReplyBody::Durability(durability) = self.ask(request, None)?.body else {
                return Err(unexpected(request));
            };
            if durability.id != checkpoint {
                return Err(unexpected(request));
            }
            let reached = Some(level) <= durability.reached;
            if reached || !wait {
                return Ok(reached);
            }
            pauses.sleep();
        }
    }

    /// State and figures of the store.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn store_figures(&mut self) -> Result<StoreFigures, ShimError> {
        match self.ask(Request::Store, None)?.body {
            ReplyBody::Store(figures) => Ok(figures),
            _ => Err(unexpected(Request::Store)),
        }
    }

    /// What a checkpoint of the store, the newest if none is named, has under a region's name.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn stored(
        &mut self,
        checkpoint: Option<CheckpointId>,
        name: RegionName,
    ) -> Result<Option<StoredRegion>, ShimError> {
        let request = Request::Stored { checkpoint, name };
        match self.ask_until_ready(request) {
            Ok(Reply { body: ReplyBody::Stored(stored), .. }) => Ok(Some(stored)),
            Ok(_) => Err(unexpected(request)),
            Err(error) if matches!(error.status(), Some(Status::NoCheckpoint | Status::NoRegion)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a checkpoint of the store, the newest if none is named, one of this session. Regions have what is in it
    /// after a [rollback](Self::rollback).
    ///
    /// # Errors
    /// [`ShimError::Mismatch`], [`ShimError::Refused`] among others.
    pub fn recover(&mut self, checkpoint: Option<CheckpointId>) -> Result<CheckpointId, ShimError> {
        let request = Request::Recover { checkpoint };
        match self.ask_until_ready(request)?.body {
            ReplyBody::Checkpoint(id) => Ok(id),
            _ => Err(unexpected(request)),
        }
    }

    /// Makes a request again while the device reads the store for it, piece by piece.
    fn ask_until_ready(&mut self, request: Request) -> Result<Reply, ShimError> {
        loop {
            match self.ask(request, None) {
                Err(error) if error.status() == Some(Status::Busy) => thread::sleep(SHORTEST),
                answer => return answer,
            }
        }
    }
}
