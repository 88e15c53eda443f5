//! The thread that copies asynchronous checkpoints while the program runs.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::checkpoint::Freezer;
use crate::host::thread::start_confined;
use crate::machine::app::RunError;
use crate::machine::sandbox;

/// The running thread. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Copier {
    freezer: Arc<Freezer>,
    thread: Option<JoinHandle<()>>,
}

/// What pages can be frozen with here. Without it asynchronous checkpoints aren't offered to the program.
pub(super) fn freezer() -> Option<Arc<Freezer>> {
    match Freezer::open() {
        Ok(freezer) => Some(Arc::new(freezer)),
        Err(error) => {
            tracing::debug!(%error, "no userfaultfd for writes of the kernel: no asynchronous checkpoints");
            None
        }
    }
}

impl Copier {
    /// Starts it. When this returns, pages may be frozen.
    ///
    /// # Errors
    /// The thread can't be made or confined.
    pub(super) fn start(freezer: Arc<Freezer>) -> Result<Self, RunError> {
        let copied = Arc::clone(&freezer);
        let started = start_confined("copier", sandbox::confine_copier, move || copied.copy());
        let thread = started.map_err(|source| RunError::Host { what: "a thread", source })??;
        Ok(Self { freezer, thread: Some(thread) })
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.freezer.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }
}
