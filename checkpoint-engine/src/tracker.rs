//! What the engine needs to know about writes, and from whom.

use std::io;

use cairn_abi::RegionId;
use thiserror::Error;

use crate::{LiveMemory, PageSet};

/// Tells which pages of a region may have been written.
///
/// A page is *protected* from a successful [`protect`](Self::protect) until the next write to it, and *open*
/// otherwise. The engine relies on one thing: **an open page is reported by every
/// [`collect`](Self::collect)**. Reporting more than was written costs time, not correctness.
///
/// The engine calls these while the program is quiet: what writes between a `collect` and the `protect` that
/// follows it may be missed.
pub trait Tracker {
    /// Starts to track `memory` under the name `region`. Every page is open, but for those that are known to be
    /// zeros, which is what the engine takes a region to have been before.
    ///
    /// # Errors
    /// The region can't be tracked; nothing of it is left behind.
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError>;

    /// Stops tracking `region` and leaves its memory writable.
    fn detach(&mut self, region: RegionId);

    /// Adds every open page of `region` to `written`, which is empty on entry: a kernel call may overwrite its words.
    ///
    /// Nothing is used up: a page stays open, and is reported again, until it is protected.
    ///
    /// # Errors
    /// What was written isn't known. What was open still is.
    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError>;

    /// Protects `pages` and no others.
    ///
    /// # Errors
    /// Some of `pages` aren't protected; these are open.
    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError>;

    /// The engine is about to write `pages` of live memory itself; afterwards it protects those that shall be.
    ///
    /// Trackers whose protection would stop the engine too make these pages writable here, and those pages
    /// are open from then on. The others have nothing to do.
    ///
    /// # Errors
    /// Some of `pages` can't be written. The engine then writes none.
    fn before_restore(&mut self, _region: RegionId, _pages: &PageSet) -> Result<(), TrackError> {
        Ok(())
    }
}

/// Why a tracker could not do its work.
#[derive(Debug, Error)]
pub enum TrackError {
    /// The operating system refused.
    #[error("{call} failed while tracking region {region}")]
    Os {
        /// The system call or ioctl.
        call: &'static str,
        /// The region that it was made for.
        region: RegionId,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The tracker has no such region.
    #[error("region {0} is not tracked")]
    NotAttached(RegionId),
}
