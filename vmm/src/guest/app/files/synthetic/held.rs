//! What open synthesized files hold: each has its text, or its names, as they were when it was opened.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::errno::Errno;

use super::super::backend::Answer;

/// Bytes that all open synthesized files of a guest hold at most. They are the monitor's memory and not the guest's:
/// a program with many mappings could otherwise open its own list of them, of megabytes, a thousand times.
const MOST_HELD: u64 = 64 << 20;

/// The bytes that all open synthesized files of a guest hold.
#[derive(Clone, Debug, Default)]
pub(in crate::guest::app::files) struct Holding(Arc<AtomicU64>);

/// Something that an open file holds; what it takes is given back with it.
#[derive(Debug)]
pub(super) struct Held<T> {
    value: T,
    bytes: u64,
    all: Holding,
}

impl Holding {
    /// Counts what an open file is to hold, which takes so many bytes.
    ///
    /// # Errors
    /// `ENOMEM` when all together would hold too much.
    pub(super) fn hold<T>(&self, value: T, bytes: usize) -> Answer<Held<T>> {
        let bytes = u64::try_from(bytes).map_err(|_| Errno::ENOMEM)?;
        let more = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= MOST_HELD);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::ENOMEM)?;
        Ok(Held { value, bytes, all: self.clone() })
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let all = Holding::default();
        let most = usize::try_from(MOST_HELD).unwrap();
        let first = all.hold((), most - 1).unwrap();
        let second = all.hold((), 1).unwrap();
        assert_eq!(all.clone().hold((), 1).unwrap_err(), Errno::ENOMEM);
        assert!(all.hold((), 0).is_ok());
        drop(second);
        assert_eq!(all.hold((), 2).unwrap_err(), Errno::ENOMEM);
        assert_eq!(all.hold((), usize::MAX).unwrap_err(), Errno::ENOMEM);
        drop(first);
        assert!(all.hold((), most).is_ok());
    }
}
