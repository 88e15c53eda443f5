//! The threads that help with large checkpoints and rollbacks.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::{io, thread};

use cairn_engine::{MAX_HELPERS, Pool};

use crate::machine::sandbox::{self, SandboxError};

/// Threads that work on a checkpoint unless told otherwise, where the host has so many cores. A few use up what
/// bandwidth its memory has.
const MOST_BY_DEFAULT: usize = 8;
/// Threads that can be asked for: the one that serves the request, and its helpers.
pub const MOST_THREADS: usize = MAX_HELPERS + 1;

/// Why there are no helpers.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The host refused a thread.
    #[error("the host refused a thread that helps with checkpoints; try --threads 1")]
    Thread(#[from] io::Error),
    /// It can't be confined.
    #[error("a thread that helps with checkpoints can't be confined")]
    Sandbox(#[from] SandboxError),
}

/// Starts the helpers, confined, so that `threads` work on a checkpoint together; by default one for each core:
/// while a checkpoint is made, the program's own has nothing to do. None for one thread.
///
/// # Errors
/// [`HelperError`].
pub fn start(threads: Option<NonZeroUsize>) -> Result<Option<Arc<Pool>>, HelperError> {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_BY_DEFAULT);
    let threads = threads.map_or_else(cores, NonZeroUsize::get);
    let Some(helpers) = NonZeroUsize::new(threads.saturating_sub(1)) else { return Ok(None) };
    let pool = Pool::start(helpers, || sandbox::confine_helper().map_err(HelperError::Sandbox))?;
    Ok(Some(Arc::new(pool)))
}
