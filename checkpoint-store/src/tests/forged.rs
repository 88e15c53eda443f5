//! Records that nobody wrote, and bytes that hide those that somebody did.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_abi::CheckpointId;
use zerocopy::IntoBytes;

use super::hostile::{STORE, crafted};
use super::memory_directory;
use super::steps::{Scatter, scattered};
use crate::catalogue::read_manifest;
use crate::format::index::Index;
use crate::format::record::{COMMIT, Commit, Encoding, Kind, Mark, RECORD_HEADER, RecordHeader};
use crate::format::segment::{SEGMENT_HEADER, file_name};
use crate::format::{MAX_ID, crc, len32, len64};
use crate::tests::model::Model;
use crate::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Store, StoreError, Writer, verify};

fn record(mark: Mark, kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
    let len = len32(payload.len());
    let header = RecordHeader {
        kind,
        encoding: Encoding::Raw,
        checkpoint: id,
        stored: len,
        raw: len,
        crc: crc(payload),
    };
    [&header.encode(mark)[..], payload].concat()
}

fn commit(mark: Mark, id: u64, group: u64, index_crc: u32, synced: u64) -> Vec<u8> {
    let commit = Commit {
        parent: 0.into(),
        base: 0.into(),
        time_ms: 0.into(),
        group: group.into(),
        index_at: 0.into(),
        index_crc: index_crc.into(),
        objects: 0.into(),
        synced: synced.into(),
    };
    record(mark, Kind::Commit, id, commit.as_bytes())
}

/// A whole checkpoint without objects, which says that all before it was on the disk.
fn group(mark: Mark, id: u64) -> Vec<u8> {
    let index = Index::default().encode();
    let own = record(mark, Kind::Index, id, &index);
    let len = len64(own.len() + RECORD_HEADER + COMMIT);
    [own, commit(mark, id, len, crc(&index), u64::MAX)].concat()
}

fn ids(directory: &Path) -> Vec<u64> {
    Store::open(directory).unwrap().checkpoints().iter().map(|info| info.id.0).collect()
}

fn segment(directory: &Path) -> (PathBuf, Vec<u8>) {
    let path = directory.join(file_name(1));
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

/// A store of two checkpoints, of which the second has a page that begins with a whole checkpoint 77, and where in the
/// segment that is. `mark` is what its records begin with, by the mark that those of the store do.
fn with_forged_page(mark: impl FnOnce(Mark) -> Mark) -> (tempfile::TempDir, usize, usize) {
    let directory = memory_directory();
    let mut writer = Writer::open(directory.path(), Options::default()).unwrap();
    let forged = group(mark(Mark::of(read_manifest(directory.path()).unwrap().store)), 77);
    let mut page = [0x5a; PAGE_SIZE];
    page[..forged.len()].copy_from_slice(&forged);
    for (id, bytes) in [(1, [1; PAGE_SIZE]), (2, page)] {
        let mut batch = Batch::new(CheckpointId(id), writer.newest());
        let name = ObjectName::new("memory").unwrap();
        let object = batch.object(Object { name, tag: 0, address: 0, pages: 4 }).unwrap();
        batch.page(object, 0, &bytes).unwrap();
        writer.commit(&batch, Level::Written).unwrap();
    }
    drop(writer);
    let (_, bytes) = segment(directory.path());
    let at = bytes.windows(forged.len()).position(|window| window == forged).unwrap();
    (directory, at, forged.len())
}

#[test]
fn a_checkpoint_in_a_page_is_none_when_a_death_cuts_the_record_around_it() {
    // Even a guest that had read the mark.
    let (directory, at, len) = with_forged_page(|own| own);
    let (path, bytes) = segment(directory.path());
    for cut in (at..bytes.len()).step_by(7) {
        fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(ids(directory.path()), [1], "cut {cut}, forged at {at} of {len} bytes");
    }
    let found = verify(directory.path(), &mut |_, _| {}).unwrap();
    assert_eq!(found.damage, []);
}

#[test]
fn a_checkpoint_in_a_page_is_none_when_the_power_takes_the_record_around_it() {
    let (directory, at, _) = with_forged_page(|_| Mark::of([3; 16]));
    let (path, mut bytes) = segment(directory.path());
    bytes[at - RECORD_HEADER..at].fill(0);
    // With the end of the group, and without.
    for len in [bytes.len(), bytes.len() - RECORD_HEADER - COMMIT] {
        fs::write(&path, &bytes[..len]).unwrap();
        assert_eq!(ids(directory.path()), [1]);
    }
    let found = verify(directory.path(), &mut |_, _| {}).unwrap();
    assert_eq!(found.damage, []);
}

#[test]
fn ids_have_a_bound() {
    let mark = Mark::of(STORE);
    let directory = crafted(&[group(mark, MAX_ID), group(mark, u64::MAX)].concat());
    assert_eq!(ids(directory.path()), [MAX_ID]);
    let directory = memory_directory();
    let mut writer = Writer::open(directory.path(), Options::default()).unwrap();
    let refused = writer.commit(&Batch::new(CheckpointId(MAX_ID + 1), None), Level::Written);
    assert!(matches!(refused, Err(StoreError::Batch { .. })), "{refused:?}");
}

/// Bytes that this thread has read, by any system call.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn many_bad_places_cost_no_more_than_one() {
    const MANY: u64 = 2000;
    let mark = Mark::of(STORE);
    let own = len64(RECORD_HEADER + COMMIT);
    let mut records = Vec::new();
    for id in 1..=MANY {
        records.push(b'x');
        records.extend(commit(mark, id, own, 0, 0));
    }
    // Only the last one shows that what is bad was once on the disk.
    let end = len64(SEGMENT_HEADER + records.len());
    records.extend(commit(mark, MANY + 1, own, 0, end));
    let directory = crafted(&records);
    let before = bytes_read();
    let store = Store::open(directory.path()).unwrap();
    let read = bytes_read() - before;
    assert!(read < 8 * end, "{read} bytes read of {end}");
    assert_eq!(len64(store.checkpoints().len()), MANY + 1);
    assert!(store.damage().is_some());
}

#[test]
fn verify_tells_of_checkpoints_behind_bad_bytes() {
    let directory = memory_directory();
    let (mut scatter, mut model) = (Scatter(31), Model::default());
    let mut writer = Writer::open(directory.path(), Options::default()).unwrap();
    for id in 1..=6 {
        let step = scattered(&mut scatter, &model, id);
        writer.commit(&step.batch(), Level::Written).unwrap();
        step.apply(&mut model);
    }
    drop(writer);
    let (path, bytes) = segment(directory.path());
    // In the header of the first record, and in its payload.
    for at in [SEGMENT_HEADER + 16, SEGMENT_HEADER + RECORD_HEADER] {
        let mut bad = bytes.clone();
        bad[at..at + 8].copy_from_slice(b"whatever");
        fs::write(&path, &bad).unwrap();
        assert_eq!(ids(directory.path()), [0; 0]);
        let found = verify(directory.path(), &mut |_, _| {}).unwrap();
        let [damage] = &found.damage[..] else { panic!("{found:?}") };
        assert_eq!(damage.offset, len64(SEGMENT_HEADER));
        assert!(damage.what.ends_with("can't be reached: 6"), "{damage}");
    }
    // What a death leaves is no damage.
    for len in (SEGMENT_HEADER..bytes.len()).step_by(211) {
        fs::write(&path, &bytes[..len]).unwrap();
        assert_eq!(Store::open(directory.path()).unwrap().lost(), None, "{len} bytes");
    }
}
