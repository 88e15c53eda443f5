//! Directories that are no stores, and stores with things in them that are no files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::memory_directory;
use super::model::Model;
use super::steps::{Scatter, scattered};
use crate::format::manifest::{MANIFEST, MANIFEST_NEW};
use crate::format::segment::file_name;
use crate::lock::LOCK;
use crate::{Level, Options, Store, StoreError, Writer};

/// What isn't the store's to write.
const LETTER: &[u8] = b"dear";

fn refused(directory: &Path) -> String {
    Store::open(directory).unwrap_err().to_string()
}

#[test]
fn places_that_are_no_store() {
    let parent = memory_directory();
    let directory = parent.path();
    assert!(
        refused(&directory.join("missing")).ends_with("missing: not a store: there is no such directory")
    );
    assert!(refused(directory).ends_with("it has no MANIFEST"));
    let letter = directory.join("letter");
    fs::write(&letter, LETTER).unwrap();
    assert!(refused(&letter).ends_with("letter: not a store: it is no directory"));
    assert!(matches!(Writer::open(&letter, Options::default()), Err(StoreError::NotAStore { .. })));
    assert!(matches!(Writer::open(directory, Options::default()), Err(StoreError::NotAStore { .. })));
    assert_eq!(fs::read(&letter).unwrap(), LETTER);
    assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "a lock was left behind");
    // Nor is anything left in a store that can't be read.
    fs::write(directory.join(MANIFEST), "nothing").unwrap();
    assert!(matches!(Writer::open(directory, Options::default()), Err(StoreError::Damaged(_))));
    assert_eq!(fs::read_dir(directory).unwrap().count(), 2, "a lock was left behind");
}

/// A store of one checkpoint, and a file elsewhere.
fn store_and_letter() -> (tempfile::TempDir, Model) {
    let parent = memory_directory();
    let (mut scatter, mut model) = (Scatter(41), Model::default());
    let mut writer = Writer::open(&parent.path().join("store"), Options::default()).unwrap();
    let step = scattered(&mut scatter, &model, 1);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    fs::write(parent.path().join("letter"), LETTER).unwrap();
    (parent, model)
}

#[test]
fn no_link_in_a_store_is_followed() {
    for name in [LOCK, MANIFEST, &file_name(1)] {
        let (parent, _) = store_and_letter();
        let directory = parent.path().join("store");
        // The link leads to what was there: it's refused because it is one.
        let target = parent.path().join("target");
        fs::rename(directory.join(name), &target).unwrap();
        let before = fs::read(&target).unwrap();
        symlink(&target, directory.join(name)).unwrap();
        let error = Writer::open(&directory, Options::default()).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{name}: {error}");
        assert_eq!(name == LOCK, Store::open(&directory).is_ok(), "{name}");
        assert_eq!(fs::read(&target).unwrap(), before, "{name}");
    }
}

#[test]
fn what_the_writer_makes_takes_the_place_of_a_link() {
    let (parent, mut model) = store_and_letter();
    let (directory, letter) = (parent.path().join("store"), parent.path().join("letter"));
    let mut writer = Writer::open(&directory, Options::default()).unwrap();
    for name in [MANIFEST_NEW, &file_name(2), &file_name(3)] {
        symlink(&letter, directory.join(name)).unwrap();
    }
    writer.compact(&mut |_| true).unwrap();
    let step = scattered(&mut Scatter(42), &model, 2);
    writer.commit(&step.batch(), Level::Synced).unwrap();
    step.apply(&mut model);
    model.assert_same(&writer.reader().unwrap(), 0);
    assert_eq!(fs::read(&letter).unwrap(), LETTER);
}

#[test]
fn nobody_waits_at_a_pipe() {
    for name in [LOCK, MANIFEST, &file_name(1)] {
        let (parent, _) = store_and_letter();
        let directory = parent.path().join("store");
        fs::remove_file(directory.join(name)).unwrap();
        mkfifo(&directory.join(name), Mode::S_IRWXU).unwrap();
        assert!(matches!(Writer::open(&directory, Options::default()), Err(StoreError::Io { .. })), "{name}");
        assert_eq!(name == LOCK, Store::open(&directory).is_ok(), "{name}");
    }
}
