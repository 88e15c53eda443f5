//! What the engine needs to know about writes, and from whom.

use std::io;
use std::ops::Range;

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
///
/// The pages of scattered memory may move and come and go while the program runs. The tracker keeps their
/// [`PagePlaces`](crate::PagePlaces) true as each call says, and **takes an open page that is absent as open
/// still**: wherever it comes back, it is reported. So is a protected page whose bytes may have changed while
/// nobody looked, as when it comes back in another frame.
pub trait Tracker {
    /// Starts to track `memory` under the name `region`. Every page is open, but for those that are known to be
    /// zeros, which is what the engine takes a region to have been before. Their places needn't be known yet.
    ///
    /// # Errors
    /// The region can't be tracked; nothing of it is left behind.
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError>;

    /// Takes note of `memory`, whose program says itself what it writes: nothing need be watched. Of the calls
    /// below, only [`detach`](Self::detach) is made for it; for scattered memory also
    /// [`before_restore`](Self::before_restore), and the places must be true as for any other.
    ///
    /// # Errors
    /// The region can't be had; nothing of it is left behind.
    fn attach_hinted(&mut self, _region: RegionId, _memory: &LiveMemory) -> Result<(), TrackError> {
        Ok(())
    }

    /// Stops tracking `region` and leaves its memory writable.
    fn detach(&mut self, region: RegionId);

    /// Adds every open page of `region` to `written`, which is empty on entry: a kernel call may overwrite its words.
    ///
    /// Nothing is used up: a page stays open, and is reported again, until it is protected.
    ///
    /// Scattered memory: every page's place is true when this returns, and stays so until the engine's call ends or
    /// [`before_restore`](Self::before_restore) is called.
    ///
    /// # Errors
    /// What was written isn't known. What was open still is.
    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError>;

    /// Protects `pages` and no others.
    ///
    /// # Errors
    /// Some of `pages` aren't protected; these are open.
    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError>;

    /// Holds back whoever writes one of `held`, until it is [thawed](FrozenPages::thaw): the write then goes on, and is
    /// reported by the next collect. `held` are all of `pages`, and others between them that cost less to hold than to
    /// leave out. `pages` are open until they are [taken](FrozenPages::taken), and nothing is collected before.
    ///
    /// `None` if nobody can be held back here, and nothing was done: the engine then takes the pages at once.
    ///
    /// # Errors
    /// As for [`protect`](Self::protect); nobody is held back.
    fn freeze(
        &mut self,
        _region: RegionId,
        _pages: &PageSet,
        _held: &PageSet,
    ) -> Result<Option<Box<dyn FrozenPages>>, TrackError> {
        Ok(None)
    }

    /// The engine is about to write `pages` of live memory itself; afterwards it protects those that shall be.
    ///
    /// Trackers whose protection would stop the engine too make these pages writable here, and those pages
    /// are open from then on. The others have nothing to do.
    ///
    /// Scattered memory: `pages` are present, and differ from what shall be in them. Their places are true when this returns:
    /// [writable](crate::Place::Writable) where the program itself could write now, and where all that a write by
    /// the CPU would leave behind has been left (the accessed and dirty bits of its page tables). Pages that aren't
    /// writable then are not written; the program is asked to make them so.
    ///
    /// # Errors
    /// Some of `pages` can't be written. The engine then writes none.
    fn before_restore(&mut self, _region: RegionId, _pages: &PageSet) -> Result<(), TrackError> {
        Ok(())
    }

    /// The engine is about to write `pages` of live memory in one piece that [isn't watched](Self::attach_hinted). For
    /// trackers that tell somebody else what was written.
    fn before_unwatched_restore(&mut self, _region: RegionId, _pages: &PageSet) {}
}

/// Pages of one region that nobody can write, until they are thawed.
///
/// Whatever thread copies the pages thaws them, so this works beside the tracker. Whoever is held back may hold
/// locks: this must need none of those.
pub trait FrozenPages: std::fmt::Debug + Send {
    /// The pages in `range`, which are held, were taken: those of them that are in `pages`, the set that was frozen,
    /// are protected now, as far as can be, and all are thawed. Called once for each page at most.
    fn taken(&self, range: Range<usize>, pages: &PageSet);

    /// Lets those go on who wait to write `pages`, and lets others write them. They may be thawed already.
    fn thaw(&self, pages: Range<usize>);

    /// Counts `pages` as open, taken or not: their checkpoint failed.
    fn reopen(&self, pages: &PageSet);
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
    /// The tracker can follow memory in one piece only.
    #[error("region {0} is scattered over memory, which this tracker can't follow")]
    Scattered(RegionId),
    /// The tracker has no such region.
    #[error("region {0} is not tracked")]
    NotAttached(RegionId),
}
