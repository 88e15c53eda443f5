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

/// Changes bytes of a file.
fn write(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn store(directory: &Path) {
    commit(directory, Level::Synced);
}

/// Three checkpoints of an object, in each of which page 10 has the checkpoint's id in all bytes.
fn commit(directory: &Path, level: Level) {
    let mut writer = Writer::open(directory, Options::default()).unwrap();
    for id in 1..=3_u8 {
        let mut batch = Batch::new(CheckpointId(u64::from(id)), writer.newest());
        let name = ObjectName::new("heap").unwrap();
        let object = batch.object(Object { name, tag: 1, address: 0x1000, pages: PAGES }).unwrap();
        batch.page(object, 10, &[id; PAGE_SIZE]).unwrap();
        batch.section("registers", vec![id; 40]).unwrap();
        writer.commit(&batch, level).unwrap();
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
    write(&directory.path().join("segment-0000000001"), 200, b"x");
    let found = cairn(&["verify", place]);
    assert_eq!(found.status.code(), Some(DAMAGED));
    assert!(text(&found.stdout).contains("segment-0000000001: byte 144: "), "{}", text(&found.stdout));
    let shown = cairn(&["export", place, "1", "heap", directory.path().join("out").to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(DAMAGED));
    assert!(text(&shown.stderr).contains("segment-0000000001"));
}

#[test]
fn verify_tells_what_hides_all_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    commit(directory.path(), Level::Written);
    let place = directory.path().to_str().unwrap();
    write(&directory.path().join("segment-0000000001"), 80, b"whatever");
    let found = cairn(&["verify", place]);
    let told = text(&found.stdout);
    assert_eq!(found.status.code(), Some(DAMAGED), "{told}");
    assert!(told.contains("segment-0000000001: byte 64: "), "{told}");
    assert!(told.contains("checkpoints from here on that can't be reached: 3\n"), "{told}");
    let listed = cairn(&["ls", place]);
    assert!(text(&listed.stderr).contains("can't be reached: 3"), "{}", text(&listed.stderr));
}

#[test]
fn damage_to_the_manifest_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path());
    let place = directory.path().to_str().unwrap();
    write(&directory.path().join("MANIFEST"), 60, b"whatever");
    let found = cairn(&["verify", place]);
    assert_eq!(found.status.code(), Some(DAMAGED));
    let told = text(&found.stdout);
    assert!(told.contains("MANIFEST: byte 0: ") && !told.contains("cairn store verify"), "{told}");
    let listed = cairn(&["ls", place]);
    assert_eq!(listed.status.code(), Some(DAMAGED));
    let told = text(&listed.stderr);
    assert_eq!(told.matches("byte 0").count(), 1, "{told}");
}

#[test]
fn arguments_that_are_no_numbers() {
    for (arguments, told) in [
        (&["compact", "store", "--keep", "0"][..], "write a number from 1"),
        (&["show", "store", "newest"], "write a checkpoint's number"),
        (&["diff", "store", "1", "two"], "write a checkpoint's number"),
        (&["export", "store", "one", "heap", "file"], "write a checkpoint's number"),
    ] {
        let refused = cairn(arguments);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(told), "{}", text(&refused.stderr));
    }
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let refused = cairn(&["ls", directory.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("it has no MANIFEST"), "{}", text(&refused.stderr));
    let missing = cairn(&["ls", directory.path().join("nothere").to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(1));
    let told = text(&missing.stderr);
    assert!(told.ends_with("nothere: not a store: there is no such directory\n"), "{told}");
}
