//! The power fails: what was done to the disk is replayed up to any point, what wasn't synced is dropped, done in
//! another order, or done in part.

use std::collections::BTreeMap;
use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;

use cairn_abi::CheckpointId;
use nix::libc::EIO;

use super::disk::{Done, Fault, TestDisk};
use super::memory_directory;
use super::model::Model;
use super::steps::{Scatter, scattered};
use crate::state::lock;
use crate::{Level, Options, Store, StoreError, Writer};

/// A sector: what a disk writes as a whole.
const SECTOR: usize = 512;

/// A file's state on the disk, and what may or may not have got there since.
#[derive(Clone, Default, Debug)]
struct OnDisk {
    certain: Vec<u8>,
    since: Vec<Done>,
}

/// What is on the disk after the first operations.
#[derive(Clone, Default, Debug)]
struct Platter {
    files: BTreeMap<u64, OnDisk>,
    certain_names: BTreeMap<String, u64>,
    names_since: Vec<Done>,
}

fn apply(bytes: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Write(_, offset, new) => {
            let start = usize::try_from(*offset).unwrap();
            bytes.resize(bytes.len().max(start + new.len()), 0);
            bytes[start..start + new.len()].copy_from_slice(new);
        }
        Done::Truncate(_, len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        _ => {}
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, done: &Done) {
    match done {
        Done::Name(name, number) => drop(names.insert(name.clone(), *number)),
        Done::Rename(from, to) => {
            if let Some(number) = names.remove(from) {
                names.insert(to.clone(), number);
            }
        }
        Done::Remove(name) => drop(names.remove(name)),
        _ => {}
    }
}

impl Platter {
    fn take(&mut self, done: &Done) {
        match done {
            Done::Write(number, ..) | Done::Truncate(number, _) => {
                self.files.entry(*number).or_default().since.push(done.clone());
            }
            Done::Sync(number) => {
                let file = self.files.entry(*number).or_default();
                for done in std::mem::take(&mut file.since) {
                    apply(&mut file.certain, &done);
                }
            }
            Done::Name(..) | Done::Rename(..) | Done::Remove(_) => self.names_since.push(done.clone()),
            Done::SyncDirectory => {
                for done in std::mem::take(&mut self.names_since) {
                    apply_name(&mut self.certain_names, &done);
                }
            }
            Done::Promise(_) => {}
        }
    }

    /// One of the states in which the power's loss can leave the directory.
    fn leave(&self, directory: &Path, scatter: &mut Scatter) {
        // All, nothing or anything of what is uncertain.
        let mood = scatter.below(3);
        let lucky = |scatter: &mut Scatter| match mood {
            0 => false,
            1 => true,
            _ => scatter.below(2) == 0,
        };
        let mut names = self.certain_names.clone();
        for done in &self.names_since {
            if lucky(scatter) {
                apply_name(&mut names, done);
            }
        }
        for (name, number) in &names {
            let file = self.files.get(number).cloned().unwrap_or_default();
            let mut bytes = file.certain;
            let mut since = file.since;
            if scatter.below(2) == 0 {
                since.reverse();
            }
            for done in since {
                match &done {
                    Done::Write(number, offset, new) if mood == 2 => {
                        for (place, sector) in new.chunks(SECTOR).enumerate() {
                            if lucky(scatter) {
                                let at = offset + (place * SECTOR) as u64;
                                apply(&mut bytes, &Done::Write(*number, at, sector.to_vec()));
                            }
                        }
                    }
                    done if lucky(scatter) => apply(&mut bytes, done),
                    _ => {}
                }
            }
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
}

/// Runs a history on a recording disk, with a fault after so many operations; answers what was done, and the model.
fn history(seed: u64, options: Options, fault: Option<(u64, Fault)>) -> (Vec<Done>, Model) {
    let directory = memory_directory();
    let (disk, record) = TestDisk::new(directory.path());
    let mut scatter = Scatter(seed);
    let mut model = Model::default();
    let mut writer = Writer::with_disk(directory.path(), options, disk).unwrap();
    lock(&record.faults).extend(fault);
    for id in 1..=24 {
        let step = scattered(&mut scatter, &model, id);
        let level = if scatter.below(2) == 0 { Level::Synced } else { Level::Written };
        match writer.commit(&step.batch(), level) {
            Ok(_) => step.apply(&mut model),
            Err(StoreError::Io { .. }) if fault.is_some() => continue,
            Err(error) => panic!("{error}"),
        }
        if level == Level::Synced {
            lock(&record.done).push(Done::Promise(id));
        }
        if id == 12 {
            let compacted = writer.compact(&mut |_| true);
            assert!(compacted.is_ok() || fault.is_some(), "{compacted:?}");
        }
    }
    drop(writer);
    let done = lock(&record.done).clone();
    (done, model)
}

/// Asserts that what a loss of power left is the newest promised checkpoint at least, and nothing that never was.
fn check(directory: &Path, promised: Option<u64>, model: &Model, at: usize) {
    let store = match Store::open(directory) {
        Ok(store) => store,
        Err(error) if promised.is_none() => {
            // Nothing was promised yet, so there may be no store; but the next writer must get along with that.
            let writer = Writer::open(directory, Options::default());
            assert!(writer.is_ok(), "after {at} operations: {error}, then {:?}", writer.err());
            return;
        }
        Err(error) => panic!("after {at} operations: {error}"),
    };
    assert_eq!(store.damage(), None, "after {at} operations");
    let newest = store.checkpoints().last().map(|info| info.id.0);
    assert!(promised <= newest, "after {at} operations: promised {promised:?}, found {newest:?}");
    for info in store.checkpoints() {
        let id = info.id.0;
        let snapshot = store.snapshot(CheckpointId(id));
        let snapshot = snapshot.unwrap_or_else(|error| panic!("after {at} operations, {id}: {error}"));
        if let Err(difference) = model.checkpoints[&id].compare(&snapshot) {
            panic!("after {at} operations, checkpoint {id}: {difference}");
        }
    }
    drop(store);
    // The next writer goes on from there.
    let mut writer = Writer::open(directory, Options::default()).unwrap();
    let mut scatter = Scatter(7);
    let mut known = model.clone();
    known.checkpoints.retain(|id, _| newest.is_some_and(|newest| *id <= newest));
    let oldest = writer.reader().unwrap().checkpoints().first().map_or(0, |info| info.id.0);
    known.checkpoints.retain(|id, _| oldest <= *id);
    let step = scattered(&mut scatter, &known, newest.unwrap_or(0) + 1);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut known);
    let found = writer.reader().unwrap().snapshot(CheckpointId(step.id)).unwrap();
    known.checkpoints[&step.id].compare(&found).unwrap();
}

fn replay(seed: u64, options: Options, fault: Option<(u64, Fault)>) {
    let (done, model) = history(seed, options, fault);
    let mut scatter = Scatter(seed ^ 0x5eed);
    let mut platter = Platter::default();
    let mut promised = None;
    for (at, done) in done.iter().enumerate() {
        platter.take(done);
        if let Done::Promise(id) = done {
            promised = promised.max(Some(*id));
        }
        for _ in 0..2 {
            let directory = memory_directory();
            platter.leave(directory.path(), &mut scatter);
            check(directory.path(), promised, &model, at);
        }
    }
}

#[test]
fn the_newest_synced_checkpoint_outlives_the_power() {
    replay(1, Options::default(), None);
}

#[test]
fn and_so_it_does_while_segments_end_and_compaction_runs() {
    let options = Options {
        base_every: NonZeroUsize::new(3).unwrap(),
        segment_bytes: NonZeroU64::new(40_000).unwrap(),
        keep: NonZeroUsize::new(6),
        ..Options::default()
    };
    for seed in 2..4 {
        replay(seed, options, None);
    }
}

#[test]
fn and_so_it_does_after_the_directory_failed_to_sync() {
    let options = Options { segment_bytes: NonZeroU64::new(40_000).unwrap(), ..Options::default() };
    for wait in [1, 2, 5] {
        replay(4 + wait, options, Some((wait, Fault::SyncDirectory(EIO))));
    }
}

/// The test's own disk must not promise what it doesn't do.
#[test]
fn a_disk_that_forgets_is_noticed() {
    let mut platter = Platter::default();
    for done in [Done::Name("x".into(), 0), Done::Write(0, 0, vec![1; 1024])] {
        platter.take(&done);
    }
    assert!(platter.certain_names.is_empty());
    platter.take(&Done::SyncDirectory);
    assert_eq!(platter.files[&0].certain, []);
    platter.take(&Done::Sync(0));
    assert_eq!(platter.files[&0].certain, [1; 1024]);
}
