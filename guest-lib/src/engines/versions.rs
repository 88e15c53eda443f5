//! The retained checkpoints of an engine that keeps each as a whole.

use std::collections::VecDeque;

use cairn_abi::{CheckpointId, RegionId};

use super::Failure;
use crate::region::Regions;

/// A checkpoint and what an engine keeps for it.
#[derive(Debug)]
pub(super) struct Version<S> {
    pub(super) id: CheckpointId,
    pub(super) parent: Option<CheckpointId>,
    pub(super) snapshot: S,
    /// Its regions, in ascending order.
    regions: Vec<RegionId>,
}

/// The newest checkpoints, oldest first, and the counts that every engine reports.
#[derive(Debug)]
pub(super) struct Versions<S> {
    history: u32,
    newest: u64,
    kept: VecDeque<Version<S>>,
    /// The checkpoint that memory derives from.
    pub(super) current: Option<CheckpointId>,
    pub(super) rollbacks: u64,
}

impl<S> Versions<S> {
    pub(super) fn new(history: u32) -> Self {
        Self { history, newest: 0, kept: VecDeque::new(), current: None, rollbacks: 0 }
    }

    pub(super) fn history(&self) -> u32 {
        self.history
    }

    /// Checkpoints taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.newest
    }

    /// Retained checkpoints.
    pub(super) fn retained(&self) -> u32 {
        u32::try_from(self.kept.len()).unwrap_or(self.history)
    }

    /// Adds `snapshot` of `regions` as the newest. Gives back the oldest if it made room.
    pub(super) fn add(&mut self, regions: &Regions, snapshot: S) -> (CheckpointId, Option<S>) {
        let full = self.retained() >= self.history;
        let oldest = if full { self.kept.pop_front() } else { None };
        self.newest += 1;
        let id = CheckpointId(self.newest);
        let parent = self.current.replace(id);
        self.kept.push_back(Version { id, parent, snapshot, regions: sorted(regions) });
        (id, oldest.map(|version| version.snapshot))
    }

    pub(super) fn get(&self, id: CheckpointId) -> Result<&Version<S>, Failure> {
        self.kept.iter().find(|version| version.id == id).ok_or_else(|| self.absent(id))
    }

    /// Takes a checkpoint out for good.
    pub(super) fn remove(&mut self, id: CheckpointId) -> Result<S, Failure> {
        let index = self.kept.iter().position(|version| version.id == id).ok_or_else(|| self.absent(id))?;
        self.kept.remove(index).map(|version| version.snapshot).ok_or(Failure::NoCheckpoint)
    }

    /// The checkpoint, if its regions are exactly today's.
    pub(super) fn with_regions(&self, id: CheckpointId, regions: &Regions) -> Result<&Version<S>, Failure> {
        let version = self.get(id)?;
        match first_difference(&version.regions, &sorted(regions)) {
            Some(region) => Err(Failure::RegionSet(region)),
            None => Ok(version),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Version<S>> {
        self.kept.iter()
    }

    /// The ids of all, ascending.
    pub(super) fn ids(&self) -> Vec<CheckpointId> {
        self.kept.iter().map(|version| version.id).collect()
    }

    /// Why `id` isn't kept. If as many were taken after it as are retained, it would be gone by now had
    /// nobody released it.
    fn absent(&self, id: CheckpointId) -> Failure {
        let taken_after = self.newest.checked_sub(id.0).filter(|_| id.0 > 0);
        match taken_after {
            Some(after) if after >= u64::from(self.history) => Failure::Evicted,
            _ => Failure::NoCheckpoint,
        }
    }
}

fn sorted(regions: &Regions) -> Vec<RegionId> {
    let mut ids: Vec<_> = regions.iter().map(|entry| entry.id).collect();
    ids.sort_unstable();
    ids
}

/// The smallest id that is in only one of two ascending lists.
fn first_difference(one: &[RegionId], other: &[RegionId]) -> Option<RegionId> {
    let common = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    match (one.get(common), other.get(common)) {
        (Some(a), Some(b)) => Some(*a.min(b)),
        (a, b) => a.or(b).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u32]) -> Vec<RegionId> {
        numbers.iter().copied().map(RegionId).collect()
    }

    #[test]
    fn the_difference_of_two_sets_is_named() {
        let difference = |one: &[u32], other: &[u32]| first_difference(&ids(one), &ids(other)).map(|id| id.0);
        assert_eq!(difference(&[], &[]), None);
        assert_eq!(difference(&[1, 3], &[1, 3]), None);
        assert_eq!(difference(&[1, 3], &[1, 2, 3]), Some(2));
        assert_eq!(difference(&[1, 2, 3], &[1, 3]), Some(2));
        assert_eq!(difference(&[1], &[]), Some(1));
    }

    #[test]
    fn the_oldest_goes_when_the_history_is_full() {
        let regions = Regions::new(0);
        let mut versions = Versions::new(2);
        let add = |versions: &mut Versions<u8>, snapshot| versions.add(&regions, snapshot);
        let (first, none) = add(&mut versions, 1);
        assert_eq!(none, None);
        let (second, none) = add(&mut versions, 2);
        assert_eq!(none, None);
        let (third, evicted) = add(&mut versions, 3);
        assert_eq!(evicted, Some(1));
        assert!(matches!(versions.get(first), Err(Failure::Evicted)));
        assert!(matches!(versions.remove(first), Err(Failure::Evicted)));
        assert!(matches!(versions.remove(third), Ok(3)));
        assert!(matches!(versions.get(third), Err(Failure::NoCheckpoint)));
        assert!(matches!(versions.get(CheckpointId(0)), Err(Failure::NoCheckpoint)));
        assert!(matches!(versions.get(CheckpointId(4)), Err(Failure::NoCheckpoint)));
        assert_eq!(versions.get(second).ok().map(|version| version.parent), Some(Some(first)));
    }
}
