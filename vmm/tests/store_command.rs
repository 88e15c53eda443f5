//! `cairn store` on a store, as its user would.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Writer};

/// What `cairn` exits with on a damaged store.
const DAMAGED: i32 = 121;
/// Pages of the object.
const PAGES: u64 = 256;

fn cairn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cairn")).arg("store").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Three checkpoints of an object, in each of which page 10 has the checkpoint's id in all bytes.
fn store(directory: &Path) {
    let mut writer = Writer::open(directory, Options::default()).unwrap();
    for id in 1..=3_u8 {
        let mut batch = Batch::new(CheckpointId(u64::from(id)), writer.newest());
        let name = ObjectName::new("heap").unwrap();
        let object = batch.object(Object { name, tag: 1, address: 0x1000, pages: PAGES }).unwrap();
        batch.page(object, 10, &[id; PAGE_SIZE]).unwrap();
        batch.section("registers", vec![id; 40]).unwrap();
        writer.commit(&batch, Level::Synced).unwrap();
    }
}

#[test]
fn a_store_is_listed_shown_compared_exported_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("store");
    store(&place);
    let place = place.to_str().unwrap();

    let listed = text(&cairn(&["ls", place]).stdout);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let json: serde_json::Value = serde_json::from_slice(&cairn(&["ls", place, "--json"]).stdout).unwrap();
    assert_eq!((&json[2]["id"], &json[2]["parent"]), (&3.into(), &2.into()));

    let shown = text(&cairn(&["show", place, "2"]).stdout);
    assert!(shown.contains("heap") && shown.contains("4.0 KiB") && shown.contains("registers"), "{shown}");
    let differs: serde_json::Value =
        serde_json::from_slice(&cairn(&["diff", place, "1", "3", "--json"]).stdout).unwrap();
    assert_eq!(differs[0]["pages"], serde_json::json!([[10, 11]]));

    let file = directory.path().join("heap");
    assert!(cairn(&["export", place, "2", "heap", file.to_str().unwrap()]).status.success());
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes.len(), usize::try_from(PAGES).unwrap() * PAGE_SIZE);
    assert!(bytes[10 * PAGE_SIZE..11 * PAGE_SIZE].iter().all(|byte| *byte == 2));
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), PAGE_SIZE);
    // Holes take no blocks.
    assert!(file.metadata().unwrap().blocks() < 64);
    assert!(!cairn(&["export", place, "2", "heap", file.to_str().unwrap()]).status.success());

    assert!(cairn(&["verify", place]).status.success());
    assert!(cairn(&["compact", place, "--keep", "1"]).status.success());
    let listed = text(&cairn(&["ls", place]).stdout);
    assert_eq!(listed.lines().count(), 2, "{listed}");

    let missing = cairn(&["show", place, "1"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("cairn: no checkpoint 1"));
}

#[test]
fn damage_is_named_and_has_an_exit_code_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path());
    let place = directory.path().to_str().unwrap();
    let segment = std::fs::OpenOptions::new().write(true).open(directory.path().join("segment-0000000001"));
    segment.unwrap().write_all_at(b"x", 200).unwrap();
    let found = cairn(&["verify", place]);
    assert_eq!(found.status.code(), Some(DAMAGED));
    assert!(text(&found.stdout).contains("segment-0000000001: byte 136: "), "{}", text(&found.stdout));
    let shown = cairn(&["export", place, "1", "heap", directory.path().join("out").to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(DAMAGED));
    assert!(text(&shown.stderr).contains("segment-0000000001"));
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let refused = cairn(&["ls", directory.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("it has no MANIFEST"), "{}", text(&refused.stderr));
}
