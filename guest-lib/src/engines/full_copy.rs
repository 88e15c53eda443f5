//! Copies every region whole at every checkpoint.

use cairn_abi::reply::{CheckpointFigures, SessionFigures};
use cairn_abi::{CheckpointId, RegionId, RegionName};

use super::versions::Versions;
use super::{Engine, Failure, Limits, MAX_BYTES, MAX_REGIONS};
use crate::error::Error;
use crate::memory::Block;
use crate::region::Regions;

/// The copies of one checkpoint, in the order of the regions' slots.
type Snapshot = Vec<Copied>;

/// One region's content.
#[derive(Debug)]
struct Copied {
    region: RegionId,
    bytes: Block,
}

/// The engine. Buffers are used again: a buffer's first touch costs more than a copy.
#[derive(Debug)]
pub(super) struct FullCopy {
    versions: Versions<Snapshot>,
    spare: Vec<Block>,
    last_region: u32,
    live: Vec<RegionId>,
}

impl FullCopy {
    pub(super) fn new(history: u32) -> Self {
        Self { versions: Versions::new(history), spare: Vec::new(), last_region: 0, live: Vec::new() }
    }

    fn recycle(&mut self, snapshot: Snapshot) {
        self.spare.extend(snapshot.into_iter().map(|copied| copied.bytes));
    }

    /// A buffer of `len` bytes, used or new.
    fn buffer(&mut self, len: usize) -> Result<Block, Error> {
        if let Some(index) = self.spare.iter().position(|block| block.len() == len) {
            return Ok(self.spare.swap_remove(index));
        }
        let block = Block::map(len).map_err(Error::system("getting memory for a checkpoint"))?;
        block.prefer_huge_pages();
        Ok(block)
    }
}

impl Engine for FullCopy {
    fn limits(&self) -> Limits {
        Limits { history: self.versions.history(), regions: MAX_REGIONS, bytes: MAX_BYTES }
    }

    fn register(&mut self, _name: &RegionName, block: &Block) -> Result<RegionId, Failure> {
        if block.is_owned() {
            block.prefer_huge_pages();
        }
        self.last_region += 1;
        let id = RegionId(self.last_region);
        self.live.push(id);
        Ok(id)
    }

    fn unregister(&mut self, region: RegionId) -> Result<(), Failure> {
        self.live.retain(|live| *live != region);
        self.spare.clear();
        Ok(())
    }

    fn checkpoint(&mut self, regions: &Regions) -> Result<CheckpointId, Failure> {
        let mut snapshot = Snapshot::new();
        if let Some(evicted) = self.versions.evict() {
            self.recycle(evicted);
        }
        for entry in regions.iter() {
            let mut bytes = self.buffer(entry.block.len())?;
            bytes.bytes_mut().copy_from_slice(entry.block.bytes());
            snapshot.push(Copied { region: entry.id, bytes });
        }
        Ok(self.versions.add(regions, snapshot))
    }

    fn rollback(&mut self, regions: &mut Regions, id: CheckpointId) -> Result<(), Failure> {
        let version = self.versions.with_regions(id, regions)?;
        for (entry, copied) in regions.iter_mut().zip(&version.snapshot) {
            entry.block.bytes_mut().copy_from_slice(copied.bytes.bytes());
        }
        self.versions.current = Some(id);
        self.versions.rollbacks += 1;
        Ok(())
    }

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure> {
        let snapshot = self.versions.remove(id)?;
        self.recycle(snapshot);
        Ok(())
    }

    fn figures(&mut self) -> Result<SessionFigures, Failure> {
        let held: usize =
            self.versions.iter().flat_map(|version| &version.snapshot).map(|copied| copied.bytes.len()).sum();
        Ok(SessionFigures {
            regions: u32::try_from(self.live.len()).unwrap_or(u32::MAX),
            retained: self.versions.retained(),
            current: self.versions.current.map_or(0, |id| id.0),
            checkpoints: self.versions.taken(),
            rollbacks: self.versions.rollbacks,
            history_bytes: held as u64,
            ..SessionFigures::default()
        })
    }

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure> {
        let version = self.versions.get(id)?;
        Ok(CheckpointFigures { id, parent: version.parent, pages_changed: 0, bytes: 0 })
    }
}
