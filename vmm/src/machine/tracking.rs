//! Which tracker a guest gets: what was asked for, or what costs least here.

use std::fmt;

use cairn_engine::HostCosts;

use crate::checkpoint::{LogCosts, Scanning};
use crate::kvm::dirty_ring::FEWEST_ENTRIES;
use crate::kvm::system::{KvmError, System};
use crate::kvm::vm::WriteLog;
use crate::machine::host_costs::{HostFigures, TrackerFigures};

/// Pages that the epochs which are compared write: as many as a small hot set has.
const PAGES: u64 = 100;
/// Pages of an epoch that were not written in the one before, beside the hot ones.
const COLD_PAGES: u64 = 10;
/// The ring is taken if it costs at most this much of what the bitmap does, in percent: near equality is noise.
const PERCENT: u64 = 90;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrackerMode {
    /// Whatever costs least.
    Auto,
    /// KVM's dirty bitmap for every region.
    Bitmap,
    /// KVM's dirty ring for every region.
    Ring,
    /// Nothing is tracked: all is compared.
    Scan,
}

/// How a guest's writes are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracking {
    /// How KVM logs.
    pub log: WriteLog,
    /// Which regions need no log.
    pub scanning: Scanning,
    /// What things cost with it.
    pub costs: HostCosts,
    /// What the log's calls cost.
    pub log_costs: LogCosts,
}

/// What the same epochs cost with each log, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// With the bitmap.
    pub bitmap_ns: u64,
    /// With the ring, where there is one.
    pub ring_ns: Option<u64>,
}

impl Tracking {
    /// What `mode` comes to on this host. `ring_entries` is what the user wants, if anything.
    ///
    /// # Errors
    /// [`KvmError::Lacks`] when the ring was asked for and isn't there, or not of that size.
    pub fn choose(
        kvm: &System,
        mode: TrackerMode,
        ring_entries: Option<u32>,
        figures: &HostFigures,
    ) -> Result<Self, KvmError> {
        let scanning = match mode {
            TrackerMode::Auto => Scanning::WherePays,
            TrackerMode::Bitmap | TrackerMode::Ring => Scanning::Never,
            TrackerMode::Scan => Scanning::Always,
        };
        let by_ring = match mode {
            TrackerMode::Ring => true,
            TrackerMode::Auto => Comparison::new(figures).ring_wins(),
            TrackerMode::Bitmap | TrackerMode::Scan => false,
        };
        if !by_ring {
            let (costs, log_costs) = figures.costs(&figures.bitmap);
            return Ok(Self { log: WriteLog::Bitmap, scanning, costs, log_costs });
        }
        let most = kvm.ring_entries().ok_or(KvmError::Lacks("KVM_CAP_DIRTY_LOG_RING_ACQ_REL"))?;
        let entries = ring_entries.unwrap_or(most);
        if !entries.is_power_of_two() || !(FEWEST_ENTRIES..=most).contains(&entries) {
            return Err(KvmError::Lacks("a dirty ring of so many entries"));
        }
        let (costs, log_costs) = figures.costs(figures.ring.as_ref().unwrap_or(&figures.bitmap));
        Ok(Self { log: WriteLog::Ring { entries }, scanning, costs, log_costs })
    }
}

impl Comparison {
    /// Compares by three epochs: one in which nothing is written, one that writes pages which weren't written
    /// before, and one of a hot set with a few others.
    #[must_use]
    pub fn new(figures: &HostFigures) -> Self {
        let compare = u64::from(figures.compare_ns);
        let simple = |log: &TrackerFigures| {
            let (idle, call) = (u64::from(log.collect_ns), u64::from(log.protect_call_ns));
            let page = u64::from(log.fault_ns) + u64::from(log.protect_ns);
            3 * idle + 2 * call + (PAGES + COLD_PAGES) * page
        };
        // Between two resets, which cost a fault for each hot page, cold ones pile up and are compared in vain.
        let ring = |log: &TrackerFigures| {
            let reset = PAGES * u64::from(log.fault_ns);
            simple(log) + (2 * reset * COLD_PAGES * compare).isqrt()
        };
        Self { bitmap_ns: simple(&figures.bitmap), ring_ns: figures.ring.as_ref().map(ring) }
    }

    /// Whether the ring is worth it.
    #[must_use]
    pub fn ring_wins(&self) -> bool {
        self.ring_ns.is_some_and(|ring| ring * 100 <= self.bitmap_ns * PERCENT)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |nanoseconds: u64| nanoseconds / 1000;
        let chosen = if self.ring_wins() { "ring" } else { "bitmap" };
        write!(f, "{chosen} (three typical epochs take {} us with the bitmap", us(self.bitmap_ns))?;
        match self.ring_ns {
            Some(ring) => write!(f, " and {} us with the ring)", us(ring)),
            None => write!(f, ", and there is no ring)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITMAP: TrackerFigures =
        TrackerFigures { fault_ns: 6000, protect_ns: 50, protect_call_ns: 2000, collect_ns: 5000 };

    fn comparison(ring: Option<TrackerFigures>) -> Comparison {
        Comparison::new(&HostFigures { exit_ns: 20_000, compare_ns: 150, copy_ns: 400, bitmap: BITMAP, ring })
    }

    #[test]
    fn the_ring_must_be_clearly_better() {
        assert!(!comparison(None).ring_wins());
        assert!(!comparison(Some(BITMAP)).ring_wins());
        // Cheaper calls don't outweigh the faults of hot pages after a reset.
        assert!(!comparison(Some(TrackerFigures { collect_ns: 50, ..BITMAP })).ring_wins());
        assert!(comparison(Some(TrackerFigures { fault_ns: 3000, collect_ns: 50, ..BITMAP })).ring_wins());
    }
}
