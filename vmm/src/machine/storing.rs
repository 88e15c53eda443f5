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
