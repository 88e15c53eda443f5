//! A session whose engine fails halfway through a rollback.

use std::io;
use std::panic::{self, AssertUnwindSafe};

use super::*;

crate::region_data! {
    struct Count {
        value: u64,
    }
}

/// Keeps checkpoints, and rolls back to the first one only in part.
#[derive(Debug)]
struct Failing(Box<dyn Engine>);

impl Engine for Failing {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn register(
        &mut self,
        name: &RegionName,
        block: &Block,
        mode: cairn_abi::RegionMode,
        tag: u64,
    ) -> Result<RegionId, Failure> {
        self.0.register(name, block, mode, tag)
    }

    fn unregister(&mut self, region: RegionId) -> Result<(), Failure> {
        self.0.unregister(region)
    }

    fn checkpoint(&mut self, regions: &Regions) -> Result<CheckpointId, Failure> {
        self.0.checkpoint(regions)
    }

    fn rollback(&mut self, regions: &mut Regions, id: CheckpointId) -> Result<(), Failure> {
        if id == CheckpointId(1) {
            regions.iter_mut().for_each(|entry| entry.block.bytes_mut()[..64].fill(0xa5));
            return Err(Error::Lost { id, source: Some(io::ErrorKind::NotFound.into()) }.into());
        }
        self.0.rollback(regions, id)
    }

    fn release(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.0.release(id)
    }

    fn figures(&mut self) -> Result<SessionFigures, Failure> {
        self.0.figures()
    }

    fn checkpoint_figures(&mut self, id: CheckpointId) -> Result<CheckpointFigures, Failure> {
        self.0.checkpoint_figures(id)
    }

    fn checkpoints(&mut self) -> Result<Vec<CheckpointFigures>, Failure> {
        self.0.checkpoints()
    }
}

#[test]
fn what_a_rollback_left_in_pieces_is_not_used_or_kept_until_another_succeeds() {
    let engine = Failing(engines::open(EngineKind::FullCopy, 3).unwrap());
    let mut session = Session::new(EngineKind::FullCopy, Box::new(engine), Level::Synced).unwrap();
    let arena = session.arena::<Count>("count", 4096, |_| Ok(Count { value: 5 })).unwrap();
    let [first, second] = [session.checkpoint().unwrap(), session.checkpoint().unwrap()];
    assert!(matches!(session.rollback(CheckpointId(9)), Err(Error::NoCheckpoint { .. })));
    assert_eq!(session.read(&arena, |root| root.value), 5);

    assert!(matches!(session.rollback(first), Err(Error::Lost { .. })));
    let read = panic::catch_unwind(AssertUnwindSafe(|| session.read(&arena, |root| root.value)));
    assert!(read.is_err());
    assert!(matches!(session.checkpoint(), Err(Error::Torn)));
    assert!(matches!(session.rollback(CheckpointId(9)), Err(Error::NoCheckpoint { .. })));
    assert!(matches!(session.checkpoint(), Err(Error::Torn)));

    session.rollback(second).unwrap();
    assert_eq!(session.read(&arena, |root| root.value), 5);
    session.checkpoint().unwrap();
}

#[test]
fn what_a_rollback_left_in_pieces_needs_no_hint_to_be_repaired() {
    let engine = Failing(engines::open(EngineKind::FullCopy, 3).unwrap());
    let mut session = Session::new(EngineKind::FullCopy, Box::new(engine), Level::Synced).unwrap();
    let table = session.region_with::<u8>("table", 4096, RegionMode::Checked).unwrap();
    let [first, second] = [session.checkpoint().unwrap(), session.checkpoint().unwrap()];
    assert!(matches!(session.rollback(first), Err(Error::Lost { .. })));
    session.rollback(second).unwrap();
    assert_eq!(session.slice(&table)[0], 0);
    session.slice_mut(&table)[0] = 1;
    assert!(matches!(session.rollback(second), Err(Error::NotHinted { offset: 0, .. })));
}
