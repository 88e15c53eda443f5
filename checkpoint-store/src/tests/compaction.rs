//! Compaction keeps chains short and the directory small, and nobody notices.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_abi::CheckpointId;

use super::memory_directory;
use super::model::Model;
use super::steps::{Scatter, scattered};
use crate::{Level, Options, Store, Writer, verify};

fn options() -> Options {
    Options {
        base_every: NonZeroUsize::new(4).unwrap(),
        segment_bytes: NonZeroU64::new(100_000).unwrap(),
        ..Options::default()
    }
}

fn directory_bytes(directory: &Path) -> u64 {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn chains_stay_short() {
    let directory = memory_directory();
    let (mut scatter, mut model) = (Scatter(21), Model::default());
    let mut writer = Writer::open(directory.path(), options()).unwrap();
    for id in 1..=200 {
        let step = scattered(&mut scatter, &model, id);
        writer.commit(&step.batch(), Level::Written).unwrap();
        step.apply(&mut model);
        writer.wait_for_compaction();
        let store = writer.reader().unwrap();
        let deltas = store.checkpoints().iter().map(|info| info.deltas).max();
        assert!(deltas <= Some(5), "{deltas:?} deltas at checkpoint {id}");
    }
    model.assert_same(&writer.reader().unwrap(), 0);
}

#[test]
fn the_directory_stays_small() {
    for limits in [(NonZeroUsize::new(5), None), (None, Some(400_000))] {
        let directory = memory_directory();
        let (mut scatter, mut model) = (Scatter(22), Model::default());
        let options = Options { keep: limits.0, keep_bytes: limits.1, ..options() };
        let mut writer = Writer::open(directory.path(), options).unwrap();
        for id in 1..=200 {
            let step = scattered(&mut scatter, &model, id);
            writer.commit(&step.batch(), Level::Written).unwrap();
            step.apply(&mut model);
            writer.wait_for_compaction();
            // Two objects of at most 28 pages: an image is 229,376 bytes.
            let bytes = directory_bytes(directory.path());
            assert!(bytes < 1_000_000, "{bytes} bytes at checkpoint {id} with {limits:?}");
        }
        let store = writer.reader().unwrap();
        let oldest = store.checkpoints()[0].id.0;
        assert!(limits.0.is_none() || oldest == 196);
        model.assert_same(&store, oldest);
    }
}

#[test]
fn verify_finds_no_damage_in_a_store_that_is_compacted_meanwhile() {
    let directory = memory_directory();
    let (mut scatter, mut model) = (Scatter(24), Model::default());
    let options = Options {
        keep: NonZeroUsize::new(3),
        segment_bytes: NonZeroU64::new(1).unwrap(),
        ..Options::default()
    };
    let mut writer = Writer::open(directory.path(), options).unwrap();
    for id in 1..=8 {
        let step = scattered(&mut scatter, &model, id);
        writer.commit(&step.batch(), Level::Written).unwrap();
        step.apply(&mut model);
    }
    writer.wait_for_compaction();
    let segments = || std::fs::read_dir(directory.path()).unwrap().count();
    let before = segments();
    let mut compacted = false;
    let found = verify(directory.path(), &mut |_, _| {
        if !std::mem::replace(&mut compacted, true) {
            writer.compact(&mut |_| true).unwrap();
        }
    });
    let found = found.unwrap();
    assert!(segments() < before, "compaction had nothing to do");
    assert_eq!(found.damage, []);
    assert_eq!((found.whole, found.kept), (3, 3));
}

#[test]
fn readers_always_find_a_complete_checkpoint() {
    let directory = memory_directory();
    let (mut scatter, mut model) = (Scatter(23), Model::default());
    // What the writer will commit is known beforehand, so that readers can compare.
    let mut steps = Vec::new();
    for id in 1..=150 {
        let step = scattered(&mut scatter, &model, id);
        step.apply(&mut model);
        steps.push(step);
    }
    let options = Options { keep: NonZeroUsize::new(3), ..options() };
    let mut writer = Writer::open(directory.path(), options).unwrap();
    writer.commit(&steps[0].batch(), Level::Written).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in &steps[1..] {
                writer.commit(&step.batch(), Level::Written).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut read = 0;
        while !done.load(Ordering::Relaxed) || read == 0 {
            let store = Store::open(directory.path()).unwrap();
            let newest = store.checkpoints().last().unwrap().id.0;
            // It may be dropped before it's opened; what is opened stays.
            if let Ok(snapshot) = store.snapshot(CheckpointId(newest)) {
                model.checkpoints[&newest].compare(&snapshot).unwrap();
                read += 1;
            }
        }
    });
    drop(writer);
    model.assert_same(&Store::open(directory.path()).unwrap(), 148);
}
