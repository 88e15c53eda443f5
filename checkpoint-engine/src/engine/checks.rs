//! What is refused before anything is done.

use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionName};

use super::Engine;
use crate::versions::{Member, RegionSet};
use crate::{EngineError, LiveMemory, SetSide, Tracker};

impl<T: Tracker> Engine<T> {
    pub(super) fn check_new_region(&self, name: RegionName, memory: &LiveMemory) -> Result<(), EngineError> {
        if memory.pages() == 0 {
            return Err(EngineError::EmptyRegion);
        }
        if self.regions.len() >= self.config.max_regions {
            return Err(EngineError::TooManyRegions { max: self.config.max_regions });
        }
        let others: usize = self.regions.iter().map(|region| region.live.bytes()).sum();
        let bytes = others.saturating_add(memory.bytes()) as u64;
        let max = self.config.max_region_bytes;
        if bytes > max {
            return Err(EngineError::TooManyBytes { bytes, max });
        }
        for region in &self.regions {
            if region.name == name {
                return Err(EngineError::NameTaken(name));
            }
            if region.live.overlaps(memory) {
                return Err(EngineError::Overlap(region.id));
            }
        }
        Ok(())
    }

    /// Refuses a checkpoint whose regions aren't today's.
    pub(super) fn check_set(&self, checkpoint: CheckpointId, set: &RegionSet) -> Result<(), EngineError> {
        if Arc::ptr_eq(set, &self.set) {
            return Ok(());
        }
        let missing_in = |other: &RegionSet| {
            let other = Arc::clone(other);
            move |member: &&Member| !other.contains(member)
        };
        let dropped = set.iter().find(missing_in(&self.set)).map(|member| (member, SetSide::Checkpoint));
        let added = || self.set.iter().find(missing_in(set)).map(|member| (member, SetSide::Today));
        match dropped.or_else(added) {
            None => Ok(()),
            Some((member, side)) => {
                Err(EngineError::RegionSet { checkpoint, region: member.id, name: member.name, side })
            }
        }
    }
}
