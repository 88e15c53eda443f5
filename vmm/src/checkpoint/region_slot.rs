//! What the trackers of an app guest share: a region has a memslot of its own.

use std::io;
use std::ops::Range;

use cairn_abi::RegionId;
use cairn_engine::{LiveMemory, TrackError};

use crate::kvm::slots::{SlotError, SlotMap};
use crate::memory::program::ProgramMemory;

/// The guest addresses of a region.
pub(super) fn range(
    region: RegionId,
    live: &LiveMemory,
    memory: &ProgramMemory,
) -> Result<Range<u64>, TrackError> {
    let base = live.base().ok_or(TrackError::Scattered(region))?;
    let start = (base.addr().get() - memory.window().address(0)) as u64;
    Ok(start..start + live.bytes() as u64)
}

/// Gives a region's slot back to its surroundings.
pub(super) fn rejoin(slots: &mut SlotMap, region: RegionId, range: &Range<u64>) {
    if let Err(error) = slots.rejoin(range) {
        // The region's memory keeps a slot of its own: slower, and nothing worse.
        tracing::warn!(%region, error = &error as &dyn std::error::Error, "a region's memslot stays apart");
    }
}

/// Starts or ends the log of a region.
pub(super) fn set_logged(
    slots: &SlotMap,
    region: RegionId,
    range: &Range<u64>,
    logged: bool,
) -> Result<(), TrackError> {
    let set = if logged { slots.start_log(range) } else { slots.stop_log(range) };
    set.map_err(refused("KVM_SET_USER_MEMORY_REGION", region))
}

/// Makes an error of a request that KVM refused.
pub(super) fn refused(call: &'static str, region: RegionId) -> impl FnOnce(SlotError) -> TrackError {
    move |error| TrackError::Os { call, region, source: io::Error::other(error) }
}
