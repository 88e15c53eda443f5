//! Stores whose bytes are anybody's.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_abi::CheckpointId;
use zerocopy::IntoBytes;

use super::memory_directory;
use super::model::{Change, Model};
use super::steps::{Scatter, scattered};
use crate::catalogue::read_manifest;
use crate::format::manifest::{MANIFEST, Manifest};
use crate::format::record::{COMMIT, Encoding, Kind, Mark, RECORD_HEADER, RecordHeader};
use crate::format::segment::{SEGMENT_HEADER, SegmentHeader, file_name};
use crate::format::{crc, len32};
use crate::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Store, StoreError, Writer, verify};

/// A small store with a finished segment, a merged checkpoint and an active segment.
fn small() -> (tempfile::TempDir, Model) {
    let directory = memory_directory();
    let (mut scatter, mut model) = (Scatter(11), Model::default());
    let mut writer = Writer::open(directory.path(), Options::default()).unwrap();
    for id in 1..=5 {
        let mut step = scattered(&mut scatter, &model, id);
        // Few pages, because each byte is flipped.
        for (_, pages, changes) in &mut step.objects {
            *pages = 6;
            let last = changes.pop_last().map(|(page, change)| (page % 6, change));
            changes.clear();
            changes.extend(last.map(|(page, change)| match change {
                Change::Page(_) if id != 1 => (page, Change::Chunks(0b101, 9)),
                change => (page, change),
            }));
        }
        writer.commit(&step.batch(), Level::Synced).unwrap();
        step.apply(&mut model);
        if id == 3 {
            writer.compact(&mut |_| true).unwrap();
        }
    }
    drop(writer);
    (directory, model)
}

fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| !path.ends_with("LOCK"))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// What a reader makes of the store: an error or right pages for each checkpoint of the model. Answers whether
/// everything was as it should be.
fn read_all(directory: &Path, model: &Model, what: &str) -> bool {
    let store = match Store::open(directory) {
        Ok(store) => store,
        Err(error) => {
            assert_names_a_file(&error, what);
            return false;
        }
    };
    let mut whole = store.damage().is_none();
    for (id, contents) in &model.checkpoints {
        let compared = match store.snapshot(CheckpointId(*id)) {
            Ok(snapshot) => contents.compare(&snapshot),
            Err(StoreError::Unknown { .. }) => {
                // Only what is at the end of the active segment may vanish: that can't be told from a torn commit.
                whole = false;
                continue;
            }
            Err(error) => {
                assert_names_a_file(&error, what);
                Err(error.to_string())
            }
        };
        if let Err(difference) = compared {
            assert!(!difference.contains("differs"), "{what}: checkpoint {id}: {difference}");
            whole = false;
        }
    }
    assert!(store.checkpoints().iter().all(|info| model.checkpoints.contains_key(&info.id.0)), "{what}");
    whole
}

fn assert_names_a_file(error: &StoreError, what: &str) {
    let named = matches!(
        error,
        StoreError::Damaged(_)
            | StoreError::Version { .. }
            | StoreError::NotAStore { .. }
            | StoreError::Io { .. }
    );
    assert!(named, "{what}: {error}");
    assert!(
        error.to_string().contains("segment-") || error.to_string().contains("MANIFEST"),
        "{what}: {error}"
    );
}

/// Whether verify finds fault with the store.
fn is_found(directory: &Path) -> bool {
    match verify(directory, &mut |_, _| {}) {
        Ok(found) => !found.damage.is_empty() || found.whole < found.kept,
        Err(_) => true,
    }
}

/// Whether verify tells at least that there are bytes that belong to no checkpoint.
fn is_unfinished(directory: &Path) -> bool {
    verify(directory, &mut |_, _| {}).is_ok_and(|found| found.unfinished != 0)
}

#[test]
fn a_whole_store_is_found_whole() {
    let (directory, model) = small();
    assert!(read_all(directory.path(), &model, "untouched"));
    let found = verify(directory.path(), &mut |_, _| {}).unwrap();
    assert_eq!((found.whole, found.kept, found.unfinished), (5, 5, 0));
    assert_eq!(found.damage, []);
}

#[test]
fn verify_tells_how_far_it_is_within_one_checkpoint() {
    let directory = memory_directory();
    let mut writer = Writer::open(directory.path(), Options::default()).unwrap();
    let mut batch = Batch::new(CheckpointId(1), None);
    let name = ObjectName::new("memory").unwrap();
    let object = batch.object(Object { name, tag: 0, address: 0, pages: 256 }).unwrap();
    for page in 0..256_u64 {
        let mut bytes = [0; PAGE_SIZE];
        bytes[..8].copy_from_slice(&(page + 1).to_le_bytes());
        batch.page(object, page, &bytes).unwrap();
    }
    writer.commit(&batch, Level::Synced).unwrap();
    drop(writer);
    let mut told = Vec::new();
    let found = verify(directory.path(), &mut |done, total| told.push((done, total))).unwrap();
    assert!(4 < told.len() && told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&(found.bytes, found.bytes)));
}

#[test]
fn any_flipped_byte_is_an_error_and_verify_finds_it() {
    let (directory, model) = small();
    for (path, bytes) in files(directory.path()) {
        let mut flipped = bytes.clone();
        for at in 0..bytes.len() {
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            let what = format!("byte {at} of {} flipped", path.display());
            read_all(directory.path(), &model, &what);
            // Without its commit record the last checkpoint is as one that was never finished.
            let last = path.ends_with(file_name(2)) && bytes.len() - RECORD_HEADER - COMMIT <= at;
            let found = is_found(directory.path()) || (last && is_unfinished(directory.path()));
            assert!(found, "{what}: verify finds nothing");
            flipped[at] = bytes[at];
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(read_all(directory.path(), &model, "restored"));
}

#[test]
fn any_truncation_is_found() {
    let (directory, model) = small();
    for (path, bytes) in files(directory.path()) {
        for len in 0..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let what = format!("{} cut to {len} bytes", path.display());
            let whole = read_all(directory.path(), &model, &what);
            // What was cut off may be of no use any more; and a cut between two checkpoints of the active segment is
            // as if the second never was.
            let active = path.ends_with(file_name(2));
            assert!(whole || active || is_found(directory.path()), "{what}: verify finds nothing");
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn what_is_appended_is_no_checkpoint() {
    let (directory, model) = small();
    for (path, bytes) in files(directory.path()) {
        // Zeros, noise, and the records of the same file once more.
        for more in [vec![0; 5000], vec![0xa5; 4097], bytes[bytes.len().min(64)..].to_vec()] {
            fs::write(&path, [bytes.clone(), more].concat()).unwrap();
            let what = format!("{} grown", path.display());
            let whole = read_all(directory.path(), &model, &what);
            assert!(whole || path.ends_with(MANIFEST), "{what}: a checkpoint was lost");
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn files_in_each_others_places() {
    let (directory, model) = small();
    let files = files(directory.path());
    for (path, bytes) in &files {
        for (other, instead) in &files {
            if path != other {
                fs::write(path, instead).unwrap();
                let what = format!("{} in the place of {}", other.display(), path.display());
                assert!(!read_all(directory.path(), &model, &what), "{what}");
                assert!(is_found(directory.path()), "{what}: verify finds nothing");
                fs::write(path, bytes).unwrap();
            }
        }
        fs::remove_file(path).unwrap();
        assert!(!read_all(directory.path(), &model, "removed"), "{} removed", path.display());
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_segment_of_another_store() {
    let ((directory, model), (other, _)) = (small(), small());
    for ((path, bytes), (theirs, instead)) in files(directory.path()).into_iter().zip(files(other.path())) {
        assert_eq!(path.file_name(), theirs.file_name());
        fs::write(&path, instead).unwrap();
        if !path.ends_with(MANIFEST) {
            assert!(!read_all(directory.path(), &model, "another store's"), "{}", path.display());
        }
        fs::write(&path, bytes).unwrap();
    }
}

/// The random number of crafted stores.
pub(super) const STORE: [u8; 16] = [7; 16];

/// A store of one segment with these bytes behind its header.
pub(super) fn crafted(records: &[u8]) -> tempfile::TempDir {
    let directory = memory_directory();
    let store = STORE;
    let manifest = Manifest {
        store,
        generation: 1,
        active: 1,
        next_segment: 2,
        oldest_kept: 0,
        keep: 0,
        segments: Vec::new(),
        checkpoints: Vec::new(),
    };
    fs::write(directory.path().join(MANIFEST), manifest.encode()).unwrap();
    let segment = [SegmentHeader::new(store, 1).as_bytes(), records].concat();
    assert_eq!(segment.len(), SEGMENT_HEADER + records.len());
    fs::write(directory.path().join(file_name(1)), segment).unwrap();
    directory
}

fn record(kind: Kind, encoding: Encoding, raw: u32, payload: &[u8]) -> Vec<u8> {
    let header =
        RecordHeader { kind, encoding, checkpoint: 1, stored: len32(payload.len()), raw, crc: crc(payload) };
    [&header.encode(Mark::of(STORE))[..], payload].concat()
}

#[test]
fn manifests_whose_numbers_cannot_be_added_up() {
    let (directory, _) = small();
    let whole = read_manifest(directory.path()).unwrap();
    let claims: [fn(&mut Manifest); 4] = [
        |claim| claim.segments[0].length = u64::MAX.into(),
        |claim| claim.checkpoints[0].group = (claim.segments[0].length.get() - 64).into(),
        |claim| claim.next_segment = u64::MAX,
        |claim| claim.generation = u64::MAX,
    ];
    for (number, change) in claims.into_iter().enumerate() {
        let mut claim = whole.clone();
        change(&mut claim);
        fs::write(directory.path().join(MANIFEST), claim.encode()).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Damaged(_))), "{number}");
    }
}

#[test]
fn lengths_beyond_their_bounds_allocate_nothing() {
    // A header with a right checksum that claims 4 GiB.
    for (kind, stored, raw) in [(Kind::Block, u32::MAX, u32::MAX), (Kind::Index, 1 << 30, 1 << 30)] {
        let header = RecordHeader { kind, encoding: Encoding::Raw, checkpoint: 1, stored, raw, crc: 0 };
        let header = header.encode(Mark::of(STORE));
        let directory = crafted(&header);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.checkpoints(), []);
    }
    // Sections that unpack to far more than they say, or say more than is allowed.
    let bomb = zstd::bulk::compress(&vec![0; 32 << 20], 1).unwrap();
    for raw in [100_000, 64 << 20, u32::MAX] {
        let directory = crafted(&record(Kind::Section, Encoding::Zstd, raw, &bomb));
        assert_eq!(Store::open(directory.path()).unwrap().checkpoints(), []);
        assert!(is_unfinished(directory.path()));
    }
}

#[test]
fn manifests_that_claim_too_much() {
    let directory = crafted(&[]);
    let path = directory.path().join(MANIFEST);
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut claims = bytes.clone();
        claims[at] = 0xff;
        claims[12..16].fill(0);
        let sum = crc(&claims);
        claims[12..16].copy_from_slice(&sum.to_le_bytes());
        fs::write(&path, claims).unwrap();
        if let Ok(store) = Store::open(directory.path()) {
            assert_eq!(store.checkpoints(), []);
        }
    }
    let mut future = bytes;
    future[8..12].copy_from_slice(&9_u32.to_le_bytes());
    fs::write(&path, future).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::Version { found: 9, .. })));
}
