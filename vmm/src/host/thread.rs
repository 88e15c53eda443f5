//! Threads that give up rights before they do anything.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that calls `confine`, and then `work` if that went well. Returns when it's known whether it did.
///
/// # Errors
/// There is no thread to be had, or it panicked. Within: what `confine` says; the thread has ended then.
pub fn start_confined<E: Send + 'static>(
    name: &str,
    confine: impl FnOnce() -> Result<(), E> + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<Result<JoinHandle<()>, E>> {
    let (tell, told) = mpsc::channel();
    let run = move || {
        let confined = confine();
        let goes_on = confined.is_ok();
        if tell.send(confined).is_ok() && goes_on {
            work();
        }
    };
    let thread = Builder::new().name(name.to_owned()).spawn(run)?;
    let confined = told.recv().map_err(|_| io::Error::other("it panicked before it was confined"))?;
    Ok(confined.map(|()| thread))
}
