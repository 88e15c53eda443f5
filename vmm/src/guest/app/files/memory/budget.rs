//! The bytes that all memory files of a guest share.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
};

use super::super::backend::Answer;

/// Descriptors that files in memory leave free for the monitor and for what else the guest opens. Bounds
/// what a guest can take from the monitor by filling its private directories.
const RESERVED_DESCRIPTORS: u64 = 256;

/// The part of the descriptors that idle files of an overlay may have; each has up to two.
const IDLE_PART: u64 = 16;

/// Most names of the host that an overlay takes before it forgets those that nobody uses.
const MOST_IDLE: usize = 4096;

/// With less than this left, names of the host that nobody uses are forgotten first.
const SHORT_BYTES: u64 = 1 << 20;

/// The bytes that all memory files of a guest may take together.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    /// Descriptors that the monitor can have, as of the start.
    descriptors: u64,
    used: Mutex<u64>,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self { limit, descriptors, used: Mutex::new(0) }
    }

    /// The most bytes there can be.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that files take now.
    #[must_use]
    pub fn used(&self) -> u64 {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether enough descriptors are free after this one. The kernel gives the lowest free number, so a
    /// high one means that all below are taken.
    pub(super) fn leaves_descriptors(&self, fd: &OwnedFd) -> bool {
        let number = u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
        number.saturating_add(RESERVED_DESCRIPTORS) < self.descriptors
    }

    /// How many files of the host may be open beneath an overlay though nobody uses them any more: a part of
    /// the descriptors that there can be, and [`MOST_IDLE`] at most.
    pub(super) fn idle_files(&self) -> usize {
        usize::try_from(self.descriptors / IDLE_PART).unwrap_or(usize::MAX).min(MOST_IDLE)
    }

    /// Whether the budget is about to be used up by names.
    pub(super) fn is_short(&self) -> bool {
        self.limit.saturating_sub(self.used()) < SHORT_BYTES
    }

    pub(super) fn take(&self, bytes: u64) -> Answer<()> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = used.checked_add(bytes).filter(|sum| *sum <= self.limit).ok_or(Errno::ENOSPC)?;
        *used = sum;
        Ok(())
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(bytes);
    }
}
