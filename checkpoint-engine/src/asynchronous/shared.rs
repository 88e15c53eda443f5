//! Work that several threads do a batch at a time, and that one of them ends.

use std::sync::{Mutex, PoisonError};

/// Pages that nobody can write before they were taken.
pub(super) trait Batches {
    /// Takes and thaws the next pages. Returns whether there is more to do.
    fn copy_some(&mut self) -> bool;

    /// Takes and thaws the page at `address`, or thaws it again. Returns whether there is such a page.
    fn copy_at(&mut self, address: u64) -> bool;

    /// Thaws what wasn't taken.
    fn thaw_all(&self);
}

/// What one thread at a time can use.
pub(super) trait Lock {
    /// What it is.
    type Data;

    /// Uses it.
    fn with<R>(&self, use_it: impl FnOnce(&mut Self::Data) -> R) -> R;
}

impl<T> Lock for Mutex<T> {
    type Data = T;

    fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        use_it(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The work, if there is any.
#[derive(Debug, Default)]
pub(super) struct Shared<L>(pub(super) L);

impl<W: Batches, L: Lock<Data = Option<W>>> Shared<L> {
    /// Gives everybody work. What there was before has ended.
    pub(super) fn begin(&self, work: W) {
        self.0.with(|shared| *shared = Some(work));
    }

    /// Does a part of it. Returns whether there is more.
    pub(super) fn copy_some(&self) -> bool {
        self.0.with(|shared| shared.as_mut().is_some_and(Batches::copy_some))
    }

    /// Does what somebody waits for. Returns whether it's a part of the work: if not, nobody need wait.
    pub(super) fn copy_at(&self, address: u64) -> bool {
        self.0.with(|shared| shared.as_mut().is_some_and(|work| work.copy_at(address)))
    }

    /// Does all that is left, and ends the work.
    pub(super) fn finish(&self) -> Option<W> {
        self.0.with(|shared| {
            while shared.as_mut().is_some_and(Batches::copy_some) {}
            shared.take()
        })
    }

    /// Ends the work as it is.
    pub(super) fn cancel(&self) {
        // Before others see that there is none, and that so nobody waits.
        self.0.with(|shared| shared.take().iter().for_each(Batches::thaw_all));
    }

    /// Looks at the work.
    pub(super) fn look<R>(&self, look: impl FnOnce(&W) -> R) -> Option<R> {
        self.0.with(|shared| shared.as_ref().map(look))
    }
}
