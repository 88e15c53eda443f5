//! The hypervisor's checkpoint device.

use std::io;
use std::ops::Range;

use cairn_abi::reply::{CheckpointFigures, SessionFigures, StoreFigures, StoredRegion};
use cairn_abi::{CheckpointId, Level, RegionId, RegionMode, RegionName, Status};
use cairn_shim::{CallError, Client, RegionMemory, ShimError};

use super::{Durable, Engine, Failure, Limits, Started};
use crate::error::Error;
use crate::memory::Block;
use crate::region::Regions;

/// The engine: a session with the device, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct DeviceEngine {
    client: Client,
}

impl DeviceEngine {
    /// `None` if this machine has no device.
    pub(super) fn open() -> Result<Option<Self>, Error> {
        match Client::open() {
            Ok(client) => Ok(Some(Self { client })),
            Err(error) if error.is_no_device() => Ok(None),
            Err(error) => Err(Error::Device(Box::new(error))),
        }
    }
}

impl Engine for DeviceEngine {
    fn limits(&self) -> Limits {
        let told = self.client.limits();
        Limits {
            history: told.history,
            regions: usize::try_from(told.max_regions).unwrap_or(usize::MAX),
            bytes: told.max_bytes,
        }
    }

    fn register(
        &mut self,
        name: &RegionName,
        block: &Block,
        mode: RegionMode,
        tag: u64,
    ) -> Result<RegionId, Failure> {
        // SAFETY: a block is mapped readable and writable while it lives, the session unregisters a
        // region, or drops this engine, before its block, and `span` exposes the provenance. Every
        // method of the client is called with the session exclusively, so no slice is in use and no
        // thread of a sound program writes.
        let memory = unsafe { RegionMemory::new(block.span()) };
        self.client.register(memory, *name, mode, tag).map_err(refused)
    }

    fn unregister(&mut self, region: RegionId) -> Result<(), Failure> {
        self.client.unregister(region).map_err(refused)
    }

    fn hint(&mut self, region: RegionId, pages: Range<u64>) {
        self.client.hint(region, pages);
    }

    fn checkpoint(&mut self, _regions: &Regions) -> Result<CheckpointId, Failure> {
        self.client.checkpoint().map_err(refused)
    }

    fn checkpoint_async(&mut self, _regions: &Regions) -> Result<Started, Failure> {
        let ticket = self.client.checkpoint_async().map_err(refused)?;
        Ok(Started { id: ticket.id, done: ticket.done })
    }

    fn is_done(&mut self, id: CheckpointId, wait: bool) -> Result<bool, Failure> {
        self.client.is_done(id, wait).map_err(refused)
    }

    fn rollback(&mut self, _regions: &mut Regions, id: CheckpointId) -> Result<(), Failure> {
        self.client.rollback(id).map_err(refused)
    }

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.client.release(id).map_err(refused)
    }

    fn figures(&mut self) -> Result<SessionFigures, Failure> {
        self.client.query().map_err(refused)
    }

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure> {
        self.client.query_checkpoint(id).map_err(refused)
    }

    fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Failure> {
        let mut all = Vec::new();
        let mut last = CheckpointId(0);
        while let Some(figures) = self.client.query_next(last).map_err(refused)? {
            last = figures.id;
            all.push(figures);
        }
        Ok(all)
    }

    fn durable(&mut self) -> Option<&mut dyn Durable> {
        if self.client.has_store() { Some(self) } else { None }
    }
}

impl Durable for DeviceEngine {
    fn checkpoint(&mut self, level: Level) -> Result<CheckpointId, Failure> {
        self.client.checkpoint_durable(level).map_err(refused)
    }

    fn is_durable(&mut self, id: CheckpointId, level: Level, wait: bool) -> Result<bool, Failure> {
        self.client.is_durable(id, level, wait).map_err(refused)
    }

    fn stored(
        &mut self,
        id: Option<CheckpointId>,
        name: &RegionName,
    ) -> Result<Option<StoredRegion>, Failure> {
        self.client.stored(id, *name).map_err(refused)
    }

    fn recover(&mut self, id: Option<CheckpointId>) -> Result<CheckpointId, Failure> {
        self.client.recover(id).map_err(refused)
    }

    fn figures(&mut self) -> Result<StoreFigures, Failure> {
        self.client.store_figures().map_err(refused)
    }
}

fn refused(error: ShimError) -> Failure {
    match error {
        ShimError::Refused { status: Status::NoCheckpoint, .. } => Failure::NoCheckpoint,
        ShimError::Refused { status: Status::Evicted, .. } => Failure::Evicted,
        ShimError::Refused { status: Status::RegionSet, detail, .. } => Failure::RegionSet(RegionId(detail)),
        ShimError::Refused { status: Status::NotFresh, .. } => Failure::RecoverLate,
        ShimError::Refused { status: Status::Store, detail, .. } => {
            let errno = i32::try_from(detail).ok().filter(|errno| *errno != 0);
            Failure::Store(errno.map(io::Error::from_raw_os_error))
        }
        ShimError::Mismatch { region, stored } => Failure::Unfit { region, stored },
        ShimError::Call(CallError::ForkedChild) => Failure::Other(Error::OtherProcess),
        other => Failure::Other(Error::Device(Box::new(other))),
    }
}
