//! A program's own checkpoint session, on its way into a checkpoint of the whole and back.
//!
//! The session's values are a section; its bytes are objects. The mirror of a region is one, of which each checkpoint has
//! what changed since the one before. Each version of the history that differs from another is one, told when it
//! has changed: a session that does nothing costs no more than its values.

use cairn_abi::{CheckpointId, RegionId};
use cairn_store::{Batch, PAGE_SIZE};

use super::objects;
use super::saved::SavedError;
use crate::checkpoint::{KeeperStateError, MirrorPages, SessionBytes, SessionSource, TakePage};
use crate::machine::unit::UnitState;
use crate::store::signature::{CheckedSnapshot, ReadError};

const MIRROR_TAG: u64 = u64::from_le_bytes(*b"mirror\0\0");
const DELTA_TAG: u64 = u64::from_le_bytes(*b"delta\0\0\0");

fn mirror_name(region: RegionId) -> String {
    format!("session:mirror:{}", region.0)
}

fn delta_name(id: CheckpointId) -> String {
    format!("session:delta:{}", id.0)
}

/// Puts a session's bytes into a batch.
///
/// # Errors
/// [`SavedError`]: too much of something.
pub(super) fn write(batch: &mut Batch, state: &UnitState, bytes: &SessionBytes) -> Result<(), SavedError> {
    let mut mirrors = Vec::with_capacity(bytes.mirrors.len());
    for (region, pages) in &bytes.mirrors {
        mirrors.push(objects::add(batch, &mirror_name(*region), MIRROR_TAG, *pages)?);
    }
    for (mirror, page, content) in bytes.pages() {
        let Some(mirror) = mirrors.get(mirror).copied() else { continue };
        match content {
            MirrorPages::Zeros(count) => batch.zero(mirror, page..page + count)?,
            MirrorPages::Page(bytes) => batch.page(mirror, page, bytes)?,
            MirrorPages::Chunks(mask, bytes) => batch.chunks(mirror, page, mask, bytes)?,
        }
    }
    for (id, len) in state.deltas() {
        let delta = objects::add(batch, &delta_name(id), DELTA_TAG, len.div_ceil(PAGE_SIZE as u64))?;
        if let Some((_, bytes)) = bytes.deltas.iter().find(|(told, _)| *told == id) {
            objects::put(batch, delta, bytes)?;
        }
    }
    Ok(())
}

/// The session's bytes in a store.
#[derive(Debug)]
pub(super) struct StoredSession<'a>(pub(super) &'a CheckedSnapshot);

impl SessionSource for StoredSession<'_> {
    fn mirror(&self, region: RegionId, take: &mut TakePage<'_>) -> Result<(), KeeperStateError> {
        // A region of which there is no checkpoint yet has none.
        let Some(object) = self.0.find(&mirror_name(region)) else { return Ok(()) };
        let mut bytes = [0; PAGE_SIZE];
        for page in self.0.present(object).map_err(unreadable)?.into_iter().flatten() {
            self.0.read_page(object, page, &mut bytes).map_err(unreadable)?;
            take(page, &bytes)?;
        }
        Ok(())
    }

    fn delta(&self, id: CheckpointId, len: u64) -> Result<Vec<u8>, KeeperStateError> {
        let object = self.0.find(&delta_name(id)).ok_or(KeeperStateError::Impossible("history"))?;
        let len = usize::try_from(len).map_err(|_| KeeperStateError::Impossible("history"))?;
        let mut delta = Vec::new();
        let mut bytes = [0; PAGE_SIZE];
        for page in 0..len.div_ceil(PAGE_SIZE) as u64 {
            self.0.read_page(object, page, &mut bytes).map_err(unreadable)?;
            delta.extend_from_slice(&bytes);
        }
        delta.truncate(len);
        Ok(delta)
    }
}

fn unreadable(error: ReadError) -> KeeperStateError {
    KeeperStateError::Read(Box::new(error))
}
