//! Disks that are full, broken, read-only or gone.

use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::libc::{EIO, ENOSPC};

use super::disk::{Fault, Record, TestDisk};
use super::memory_directory;
use super::model::Model;
use super::steps::{Scatter, scattered};
use crate::state::lock;
use crate::{Level, Options, Store, StoreError, Writer};

fn options() -> Options {
    Options {
        base_every: NonZeroUsize::new(4).unwrap(),
        segment_bytes: NonZeroU64::new(60_000).unwrap(),
        ..Options::default()
    }
}

/// Commits steps with `fault` after each number of operations in turn; every commit either succeeds or leaves the
/// store as it was, and the first one without a fault succeeds again.
fn survives(fault: Fault) {
    for wait in 0..40 {
        let directory = memory_directory();
        let (disk, record) = TestDisk::new(directory.path());
        let mut scatter = Scatter(wait + 1);
        let mut model = Model::default();
        let mut writer = Writer::with_disk(directory.path(), options(), disk).unwrap();
        lock(&record.faults).push_back((wait, fault));
        for id in 1..16 {
            let step = scattered(&mut scatter, &model, id);
            let level = if scatter.below(2) == 0 { Level::Synced } else { Level::Written };
            let before = writer.newest();
            match writer.commit(&step.batch(), level) {
                Ok(_) => step.apply(&mut model),
                Err(StoreError::Io { .. }) => assert_eq!(writer.newest(), before, "after {wait}"),
                Err(error) => panic!("after {wait}: {error}"),
            }
            // After a failed fsync, checkpoints that were only written may be gone, and the writer knows.
            let newest = writer.newest().map_or(0, |id| id.0);
            model.checkpoints.retain(|id, _| *id <= newest);
            model.assert_same(&writer.reader().unwrap(), 0);
        }
        lock(&record.faults).clear();
        let step = scattered(&mut scatter, &model, 100);
        writer.commit(&step.batch(), Level::Synced).unwrap();
        step.apply(&mut model);
        writer.compact(&mut |_| true).unwrap();
        drop(writer);
        model.assert_same(&Store::open(directory.path()).unwrap(), 0);
    }
}

#[test]
fn a_full_disk() {
    survives(Fault::Write(ENOSPC, 0));
    survives(Fault::Write(ENOSPC, 777));
}

#[test]
fn a_disk_that_fails_to_write() {
    survives(Fault::Write(EIO, 5));
}

#[test]
fn a_directory_that_takes_no_names() {
    survives(Fault::Names(ENOSPC));
}

#[test]
fn a_directory_that_fails_to_sync() {
    survives(Fault::SyncDirectory(EIO));
}

/// The names of the segments in `directory`.
fn segments(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("segment-"));
    names.sort();
    names
}

#[test]
fn a_segment_that_cannot_be_begun_is_deleted() {
    let (directory, record, mut writer, mut model, mut scatter) = with_lasting(Fault::Sync(EIO));
    let step = scattered(&mut scatter, &model, 4);
    writer.commit(&step.batch(), Level::Synced).unwrap_err();
    let before = segments(directory.path());
    *lock(&record.lasting) = Some(Fault::Write(ENOSPC, 777));
    for _ in 0..10 {
        writer.commit(&step.batch(), Level::Synced).unwrap_err();
        assert_eq!(segments(directory.path()), before);
    }
    *lock(&record.lasting) = None;
    // Its header is written, but not the manifest that names it.
    lock(&record.faults).push_back((1, Fault::Write(ENOSPC, 777)));
    writer.commit(&step.batch(), Level::Synced).unwrap_err();
    assert_eq!(segments(directory.path()), before);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    model.assert_same(&writer.reader().unwrap(), 0);
}

fn with_lasting(fault: Fault) -> (tempfile::TempDir, Arc<Record>, Writer, Model, Scatter) {
    let directory = memory_directory();
    let (disk, record) = TestDisk::new(directory.path());
    let mut scatter = Scatter(3);
    let mut model = Model::default();
    let mut writer = Writer::with_disk(directory.path(), options(), disk).unwrap();
    for id in 1..4 {
        let step = scattered(&mut scatter, &model, id);
        writer.commit(&step.batch(), Level::Synced).unwrap();
        step.apply(&mut model);
    }
    *lock(&record.lasting) = Some(fault);
    (directory, record, writer, model, scatter)
}

#[test]
fn a_failed_fsync_is_believed_by_nobody() {
    let (directory, record, mut writer, mut model, mut scatter) = with_lasting(Fault::Sync(EIO));
    for id in 4..8 {
        let step = scattered(&mut scatter, &model, id);
        writer.commit(&step.batch(), Level::Synced).unwrap_err();
        model.assert_same(&writer.reader().unwrap(), 0);
    }
    *lock(&record.lasting) = None;
    // The segment that failed is given up: what comes is in another one.
    let step = scattered(&mut scatter, &model, 8);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    model.assert_same(&writer.reader().unwrap(), 0);
    drop(writer);
    model.assert_same(&Store::open(directory.path()).unwrap(), 0);
}

#[test]
fn what_a_failed_fsync_lost_is_told() {
    let directory = memory_directory();
    let (disk, record) = TestDisk::new(directory.path());
    let (mut scatter, mut model) = (Scatter(5), Model::default());
    let mut writer = Writer::with_disk(directory.path(), Options::default(), disk).unwrap();
    for (id, level) in [(1, Level::Synced), (2, Level::Written)] {
        let step = scattered(&mut scatter, &model, id);
        writer.commit(&step.batch(), level).unwrap();
        step.apply(&mut model);
    }
    *lock(&record.lasting) = Some(Fault::Sync(EIO));
    writer.sync().unwrap_err();
    *lock(&record.lasting) = None;
    // The disk dropped checkpoint 2: a change to it is refused, one to checkpoint 1 is taken.
    let lost = scattered(&mut scatter, &model, 3);
    assert!(matches!(writer.commit(&lost.batch(), Level::Synced), Err(StoreError::Batch { .. })));
    assert_eq!(writer.newest().map(|id| id.0), Some(1));
    model.checkpoints.remove(&2);
    let step = scattered(&mut scatter, &model, 3);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    model.assert_same(&writer.reader().unwrap(), 0);
}

#[test]
fn a_deleted_directory() {
    let parent = memory_directory();
    let directory = parent.path().join("store");
    let (mut scatter, mut model) = (Scatter(5), Model::default());
    let mut writer = Writer::open(&directory, Options::default()).unwrap();
    let step = scattered(&mut scatter, &model, 1);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    std::fs::remove_dir_all(&directory).unwrap();
    for id in [2, 3] {
        let step = scattered(&mut scatter, &model, id);
        let error = writer.commit(&step.batch(), Level::Synced).unwrap_err();
        assert!(matches!(error, StoreError::Deleted { .. }), "{error}");
    }
    // A complete checkpoint begins the store anew.
    model.checkpoints.clear();
    let step = scattered(&mut scatter, &model, 4);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    assert!(matches!(Writer::open(&directory, Options::default()), Err(StoreError::Locked { .. })));
    drop(writer);
    model.assert_same(&Store::open(&directory).unwrap(), 0);
}

/// Root may write anywhere, so as root this shows only that the mode is no obstacle.
#[test]
fn a_read_only_directory() {
    let directory = memory_directory();
    let mut writer = Writer::open(directory.path(), Options::default()).unwrap();
    let (mut scatter, mut model) = (Scatter(5), Model::default());
    let step = scattered(&mut scatter, &model, 1);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    drop(writer);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    model.assert_same(&Store::open(directory.path()).unwrap(), 0);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
}
