//! What the sink needs of a store.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Snapshot, StoreError, Writer};

/// Where batches go. All calls come from one thread.
pub trait Disk: Send {
    /// The newest checkpoint that is committed.
    fn newest(&self) -> Option<CheckpointId>;

    /// Commits a batch, and answers how many bytes that took.
    ///
    /// # Errors
    /// It isn't committed, and what was committed before is as it was.
    fn commit(&mut self, batch: &Batch, level: Level) -> Result<u64, StoreError>;

    /// Makes synced what is written.
    ///
    /// # Errors
    /// It isn't known to be.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// A committed checkpoint, to be read.
    ///
    /// # Errors
    /// There is no such checkpoint, or its files can't be read.
    fn snapshot(&self, id: CheckpointId) -> Result<Arc<Snapshot>, StoreError>;
}

impl Disk for Writer {
    fn newest(&self) -> Option<CheckpointId> {
        self.newest()
    }

    fn commit(&mut self, batch: &Batch, level: Level) -> Result<u64, StoreError> {
        self.commit(batch, level).map(|committed| committed.bytes)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.sync()
    }

    fn snapshot(&self, id: CheckpointId) -> Result<Arc<Snapshot>, StoreError> {
        self.reader()?.snapshot(id).map(Arc::new)
    }
}

/// The host's number for the reason of an error; 0 if the host wasn't asked.
pub(super) fn errno(error: &StoreError) -> u32 {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return number.unsigned_abs();
        }
        source = error.source();
    }
    0
}
