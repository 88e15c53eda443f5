//! A stored checkpoint on its way into an engine, piece by piece.

use std::ops::Range;
use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId};
use cairn_engine::{Engine, EngineError, PAGE_SIZE, Tracker};
use cairn_store::{ObjectIndex, Snapshot};

use super::saver::{SavedRegion, stored_region};
use crate::devices::checkpoint::Failure;
use crate::store::disk::errno;

/// Pages that are read in one request: 16 MiB, so that a guest's kernel runs on in between.
const PAGES_PER_REQUEST: u64 = 4096;

/// What is read, and how far.
#[derive(Debug)]
pub(super) struct Loading {
    id: CheckpointId,
    snapshot: Arc<Snapshot>,
    /// What is left, last first.
    left: Vec<(RegionId, ObjectIndex, Range<u64>)>,
}

/// Whether there is more to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    More,
    Done,
}

impl Loading {
    /// Compares what the checkpoint has with the regions there are.
    ///
    /// # Errors
    /// [`Failure::Mismatch`].
    pub(super) fn begin(
        id: CheckpointId,
        snapshot: Arc<Snapshot>,
        regions: &[SavedRegion],
    ) -> Result<Self, Failure> {
        let mut left = Vec::new();
        for region in regions {
            let mismatch = |stored| Failure::Mismatch { region: Some(region.id), stored };
            let found = snapshot.find(region.name.as_str());
            let object =
                snapshot.objects().iter().find(|object| object.name.as_str() == region.name.as_str());
            let (Some(index), Some(object)) = (found, object) else { return Err(mismatch(None)) };
            if object.pages != region.span.len() / PAGE_SIZE as u64 || object.tag != region.tag {
                return Err(mismatch(stored_region(id, object)));
            }
            left.extend(snapshot.present(index).map(|pages| (region.id, index, pages)));
        }
        let is_region = |name: &str| regions.iter().any(|region| region.name.as_str() == name);
        if let Some(other) = snapshot.objects().iter().find(|object| !is_region(object.name.as_str())) {
            return Err(Failure::Mismatch { region: None, stored: stored_region(id, other) });
        }
        left.reverse();
        Ok(Self { id, snapshot, left })
    }

    /// Which it is.
    pub(super) fn id(&self) -> CheckpointId {
        self.id
    }

    /// Reads the next pages.
    ///
    /// # Errors
    /// The store's, or the engine's; nothing is recovered.
    pub(super) fn go_on<T: Tracker>(&mut self, engine: &mut Engine<T>) -> Result<Progress, Failure> {
        let mut bytes = [0; PAGE_SIZE];
        for _ in 0..PAGES_PER_REQUEST {
            let Some((region, object, pages)) = self.left.last_mut() else { return Ok(Progress::Done) };
            let Some(page) = pages.next() else {
                self.left.pop();
                continue;
            };
            self.snapshot.read_page(*object, page, &mut bytes).map_err(|error| {
                let id = self.id;
                tracing::error!(error = &error as &dyn std::error::Error, %id, "a stored checkpoint can't be read");
                Failure::Store(errno(&error))
            })?;
            let page = usize::try_from(page).map_err(|_| Failure::Limit)?;
            engine.import_page(*region, page, &bytes).map_err(|error| match error {
                EngineError::NoMemory => Failure::NoMemory,
                error => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a checkpoint can't be recovered"
                    );
                    Failure::Host
                }
            })?;
        }
        Ok(Progress::More)
    }
}
