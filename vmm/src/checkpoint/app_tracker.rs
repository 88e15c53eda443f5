//! The tracker of an app guest: KVM's log, where that pays.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use cairn_abi::RegionId;
use cairn_engine::{FrozenPages, HostCosts, LiveMemory, PageSet, TrackError, Tracker};

use crate::checkpoint::bitmap::BitmapTracker;
use crate::checkpoint::freeze::Freezer;
use crate::checkpoint::ring::RingTracker;
use crate::checkpoint::scan::{LogCosts, Scan};
use crate::kvm::dirty_ring::DirtyRing;
use crate::kvm::slots::SlotMap;
use crate::kvm::system::KvmError;
use crate::memory::program::ProgramMemory;

/// Which regions are compared as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scanning {
    /// Those for which that costs less.
    WherePays,
    /// All.
    Always,
    /// None.
    Never,
}

/// What trackers are made of, for one session after the other.
#[derive(Clone, Debug)]
pub struct TrackerParts {
    /// The memslots.
    pub slots: Arc<Mutex<SlotMap>>,
    /// The program's memory.
    pub memory: Arc<ProgramMemory>,
    /// The vCPU's ring, where the machine logs by a ring.
    pub ring: Option<Arc<Mutex<DirtyRing>>>,
    /// What holds writers off while a checkpoint is copied, where the host can.
    pub freezer: Option<Arc<Freezer>>,
    /// Which regions are scanned.
    pub scanning: Scanning,
    /// What things cost here.
    pub costs: HostCosts,
    /// What the log's calls cost.
    pub log_costs: LogCosts,
}

/// Tracks regions that have a memslot of their own.
#[derive(Debug)]
pub struct AppTracker {
    log: Log,
    scanning: Scanning,
    costs: HostCosts,
    log_costs: LogCosts,
    /// Few, and found by id.
    regions: Vec<(RegionId, Scan)>,
}

#[derive(Debug)]
enum Log {
    Bitmap(BitmapTracker),
    Ring(RingTracker),
}

impl TrackerParts {
    /// A tracker without regions.
    #[must_use]
    pub fn tracker(&self) -> AppTracker {
        let Self { slots, memory, ring, freezer, scanning, costs, log_costs } = self.clone();
        let log = match ring {
            Some(ring) => Log::Ring(RingTracker::new(ring, slots, memory, costs)),
            None => Log::Bitmap(BitmapTracker::new(slots, memory, freezer)),
        };
        AppTracker { log, scanning, costs, log_costs, regions: Vec::new() }
    }
}

impl AppTracker {
    /// The region that shares memory with `range`, if there is one.
    #[must_use]
    pub fn region_in(&self, range: &Range<u64>) -> Option<RegionId> {
        match &self.log {
            Log::Bitmap(log) => log.region_in(range),
            Log::Ring(log) => log.region_in(range),
        }
    }

    /// Makes room in a log that is nearly full.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn make_room(&mut self) -> Result<(), KvmError> {
        match &mut self.log {
            Log::Bitmap(_) => Ok(()),
            Log::Ring(log) => log.make_room(),
        }
    }

    fn set_logged(&mut self, region: RegionId, logged: bool) -> Result<(), TrackError> {
        tracing::debug!(%region, logged, "how a region's changes are found");
        match &mut self.log {
            Log::Bitmap(log) => log.set_logged(region, logged),
            Log::Ring(log) => log.set_logged(region, logged),
        }
    }

    fn log(&mut self) -> &mut dyn Tracker {
        match &mut self.log {
            Log::Bitmap(log) => log,
            Log::Ring(log) => log,
        }
    }

    fn scan(&mut self, region: RegionId) -> Result<&mut Scan, TrackError> {
        let found = self.regions.iter_mut().find(|(id, _)| *id == region);
        found.map(|(_, scan)| scan).ok_or(TrackError::NotAttached(region))
    }

    fn is_scanned(&mut self, region: RegionId) -> Result<bool, TrackError> {
        Ok(match self.scanning {
            Scanning::Never => false,
            Scanning::Always => true,
            Scanning::WherePays => self.scan(region)?.is_scanned(),
        })
    }
}

impl Tracker for AppTracker {
    fn attach(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.log().attach(region, memory)?;
        self.regions.push((region, Scan::new(memory.pages() as u64, &self.costs, self.log_costs)));
        let unlogged = match self.is_scanned(region) {
            Ok(true) => self.set_logged(region, false),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        unlogged.inspect_err(|_| self.detach(region))
    }

    fn attach_hinted(&mut self, region: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        self.log().attach_hinted(region, memory)
    }

    fn detach(&mut self, region: RegionId) {
        self.regions.retain(|(id, _)| *id != region);
        self.log().detach(region);
    }

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        if self.is_scanned(region)? {
            written.fill();
            return Ok(());
        }
        self.log().collect(region, written)?;
        if self.scanning == Scanning::WherePays {
            let (costs, log_costs) = (self.costs, self.log_costs);
            let scan = self.scan(region)?;
            if scan.is_open_question() && scan.tracked(written.count() as u64, &costs, log_costs) {
                self.set_logged(region, false)?;
                written.fill();
            }
        }
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        if self.scanning == Scanning::WherePays {
            let (costs, log_costs) = (self.costs, self.log_costs);
            let scan = self.scan(region)?;
            if !scan.is_scanned() {
                if scan.is_open_question() {
                    scan.protected(pages.count() as u64);
                }
            } else if scan.would_protect(pages.count() as u64, &costs, log_costs) {
                // All of it was compared just now, so that the log may start with these pages protected.
                let logged = self.set_logged(region, true);
                logged.or_else(|error| self.scan(region)?.stay_scanned(error))?;
            }
        }
        if self.is_scanned(region)? {
            return Ok(());
        }
        self.log().protect(region, pages)
    }

    fn before_restore(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        self.log().before_restore(region, pages)
    }

    fn before_unwatched_restore(&mut self, region: RegionId, pages: &PageSet) {
        self.log().before_unwatched_restore(region, pages);
    }

    /// Not where a region is compared whole, as then all of it would be held, nor with the ring, which protects no
    /// page by itself.
    fn freeze(
        &mut self,
        region: RegionId,
        pages: &PageSet,
        held: &PageSet,
    ) -> Result<Option<Box<dyn FrozenPages>>, TrackError> {
        if self.is_scanned(region)? {
            return Ok(None);
        }
        self.log().freeze(region, pages, held)
    }
}
