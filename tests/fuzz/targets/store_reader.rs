//! Reads stores whose bytes are anybody's: an error or pages, never a panic, never memory without bound.
//!
//! The input changes bytes of a small store that is whole. Checksums are then made right again, so that what is behind
//! them is reached too; an odd first byte leaves them as they are.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Store, Writer, verify};
use libfuzzer_sys::fuzz_target;

/// Pages of an object that are read: it may claim 2^40.
const MOST_PAGES: usize = 64;
/// Bytes of a change: the file, the place in three bytes, the byte there.
const CHANGE: usize = 5;
const SEGMENT_HEADER: usize = 64;
const RECORD_HEADER: usize = 40;
/// Where a record's header has its kind.
const KIND: usize = 8;
/// Where a commit record's payload has the checksum of the index.
const INDEX_CRC: usize = 40;
const KIND_INDEX: u8 = 3;
const KIND_COMMIT: u8 = 4;

/// The whole store: its directory, and its files.
struct Template {
    directory: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = parent.join(format!("cairn-fuzz-{}", std::process::id()));
        let mut writer = Writer::open(&directory, Options::default()).expect("a store can be made");
        for id in 1..=4 {
            let parent = writer.newest();
            let mut batch = Batch::new(CheckpointId(id), parent);
            let name = ObjectName::new("memory").expect("a name");
            let object = Object { name, tag: 1, address: 0, pages: 8 };
            let object = batch.object(object).expect("an object");
            let byte = u8::try_from(id).expect("few checkpoints");
            batch.page(object, id, &[byte; PAGE_SIZE]).expect("a page");
            if parent.is_some() {
                batch.chunks(object, 6, 0b11, &[byte; 128]).expect("chunks");
                batch.zero(object, 7..8).expect("a zero page");
            }
            batch.section("state", vec![byte; 100]).expect("a section");
            writer.commit(&batch, Level::Written).expect("a commit");
            if id == 2 {
                writer.compact(&mut |_| true).expect("a compaction");
            }
        }
        drop(writer);
        let entries = fs::read_dir(&directory).expect("the store").map(|entry| entry.expect("a file").path());
        let mut files: Vec<_> = entries
            .filter(|path| !path.ends_with("LOCK"))
            .map(|path| (path.clone(), fs::read(&path).expect("the file")))
            .collect();
        files.sort();
        Template { directory, files }
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, changes)) = input.split_first() else { return };
    let template = template();
    let mut files = template.files.clone();
    for change in changes.chunks_exact(CHANGE) {
        let which = usize::from(change[0]) % files.len();
        let bytes = &mut files[which].1;
        let place = usize::from(change[1]) << 16 | usize::from(change[2]) << 8 | usize::from(change[3]);
        let place = place % bytes.len();
        bytes[place] = change[4];
    }
    for (path, bytes) in &mut files {
        if mode % 2 == 0 {
            if path.ends_with("MANIFEST") { repair_manifest(bytes) } else { repair_segment(bytes) }
        }
        fs::write(path, bytes).expect("the file can be written");
    }
    read(&template.directory);
});

fn crc(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

fn repair_manifest(bytes: &mut [u8]) {
    bytes[12..16].fill(0);
    let sum = crc(bytes);
    bytes[12..16].copy_from_slice(&sum);
}

fn repair_segment(bytes: &mut [u8]) {
    let sum = crc(&bytes[..SEGMENT_HEADER - 4]);
    bytes[SEGMENT_HEADER - 4..SEGMENT_HEADER].copy_from_slice(&sum);
    let mut at = SEGMENT_HEADER;
    let mut index = [0; 4];
    while at + RECORD_HEADER <= bytes.len() {
        let (header, rest) = bytes[at..].split_at_mut(RECORD_HEADER);
        let stored = u32::from_le_bytes([header[24], header[25], header[26], header[27]]) as usize;
        let Some(payload) = rest.get_mut(..stored) else { return };
        if header[KIND] == KIND_COMMIT
            && let Some(place) = payload.get_mut(INDEX_CRC..INDEX_CRC + 4)
        {
            place.copy_from_slice(&index);
        }
        let sum = crc(payload);
        header[32..36].copy_from_slice(&sum);
        if header[KIND] == KIND_INDEX {
            index = sum;
        }
        let sum = crc(&header[..RECORD_HEADER - 4]);
        header[36..].copy_from_slice(&sum);
        at += RECORD_HEADER + stored;
    }
}

fn read(directory: &Path) {
    let mut page = [0; PAGE_SIZE];
    if let Ok(store) = Store::open(directory) {
        for info in store.checkpoints() {
            let Ok(snapshot) = store.snapshot(info.id) else { continue };
            for object in snapshot.objects() {
                let Some(index) = snapshot.find(object.name.as_str()) else { continue };
                for number in snapshot.present(index).flatten().chain([0, object.pages]).take(MOST_PAGES) {
                    let _ = snapshot.read_page(index, number, &mut page);
                }
            }
            for (name, _) in snapshot.sections() {
                let _ = snapshot.section(name);
            }
        }
    }
    let _ = verify(directory, &mut |_, _| {});
}
