//! The store of a guest: opened before anything is confined, then one thread's.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_store::{Level, Options, StoreError, Writer};

use crate::machine::sandbox;
use crate::store::Sink;

/// Where checkpoints go that shall survive, and which.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's directory. It's made if it isn't there.
    pub directory: PathBuf,
    /// What is kept of it.
    pub options: Options,
    /// The level that every checkpoint of a program shall have, not just those that ask for it.
    pub level_of_all: Option<Level>,
}

/// Why a guest has no store.
#[derive(Debug, thiserror::Error)]
pub enum StoringError {
    /// It can't be opened.
    #[error("the store can't be used")]
    Open(#[from] StoreError),
    /// No thread for it.
    #[error("the host refused a thread for the store")]
    Thread(#[source] io::Error),
}

/// Opens the store, if there is to be one, and starts its thread.
///
/// # Errors
/// [`StoringError`].
pub(super) fn start(config: Option<&StoreConfig>) -> Result<Option<Arc<Sink>>, StoringError> {
    let Some(StoreConfig { directory, options, level_of_all }) = config else { return Ok(None) };
    let writer = Writer::open(directory, *options)?;
    let confine = || sandbox::confine_store().map_err(io::Error::other);
    let sink = Sink::start(writer, *level_of_all, confine).map_err(StoringError::Thread)?;
    Ok(Some(Arc::new(sink)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_abi::CheckpointId;
    use cairn_store::Store;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// What the store makes of a checkpoint, on top of what it says.
    fn commit(sink: &Sink, id: u64) -> bool {
        let (id, base) = (CheckpointId(id), sink.base());
        sink.submit(sink.batch(id, base.parent), Level::Synced, base).unwrap();
        sink.level_of(id, Some(Level::Synced), PATIENCE).is_ok_and(|level| level == Some(Level::Synced))
    }

    /// A call outside of the thread's list would end all tests here.
    #[test]
    fn the_confined_thread_makes_a_deleted_store_anew() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("store");
        let (options, level_of_all) = (Options::default(), None);
        let config = StoreConfig { directory: directory.clone(), options, level_of_all };
        let sink = start(Some(&config)).unwrap().unwrap();
        for round in 0..2 {
            let first = 1 + 10 * round;
            assert!(commit(&sink, first) && commit(&sink, first + 1));
            std::fs::remove_dir_all(&directory).unwrap();
            assert!(!commit(&sink, first + 2), "it was written to no store");
            assert!(commit(&sink, first + 3) && commit(&sink, first + 4));
            let stored = Store::open(&directory).unwrap();
            let ids: Vec<u64> = stored.checkpoints().iter().map(|checkpoint| checkpoint.id.0).collect();
            assert_eq!(ids, [first + 3, first + 4]);
        }
    }
}
