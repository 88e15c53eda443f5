//! Whose stores are restored: one's own silently, all others only if their user agrees to what they ask for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Snapshot, Store, Writer};
use cairn_tests::place::Place;
use cairn_tests::resume::{start, wait_for_checkpoint};
use cairn_tests::{guest, run};

/// A store of a program that may change a directory and was killed; the directory's path.
fn killed(place: &Place) -> String {
    let granted = place.path("granted");
    fs::create_dir_all(&granted).unwrap();
    let granted = granted.to_str().unwrap().to_owned();
    let grant = format!("{granted}:/data:rw");
    let program = guest("guest-resume");
    let mut command = place.run_telling("50ms", &["--dir", &grant]);
    let (mut child, mut told) = start(command.args([program.to_str().unwrap(), "time", "30"]));
    let mut said = String::new();
    for _ in 0..3 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some(), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    granted
}

/// How a command ended, and what it told.
fn ended(command: &mut Command) -> (Option<i32>, String) {
    let output = run(command, b"").unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&told).into_owned())
}

fn newest(store: &Path) -> Snapshot {
    let store = Store::open(store).unwrap();
    let newest = store.checkpoints().last().unwrap().id;
    store.snapshot(newest).unwrap()
}

fn shown(place: &Place, state: &Path) -> String {
    let id = newest(&place.store()).id().0.to_string();
    ended(place.command(&["store", "show", "store", &id]).env("XDG_STATE_HOME", state)).1
}

#[test]
fn ones_own_store_is_restored_silently() {
    let place = Place::new();
    killed(&place);
    assert!(shown(&place, &place.state()).contains("signed by this user: yes"));
    assert_eq!(ended(place.restore(&[]).current_dir("/")), (Some(0), String::new()));
    // What follows is signed as well.
    assert!(shown(&place, &place.state()).contains("signed by this user: yes"));
}

#[test]
fn another_users_store_says_what_it_asks_for_and_gets_it_by_consent() {
    let place = Place::new();
    let granted = killed(&place);
    let other = place.path("other");
    let other_state = || {
        let mut command = place.restore(&[]);
        command.current_dir("/").env("XDG_STATE_HOME", &other);
        command
    };
    let output = place.output_file().to_str().unwrap().to_owned();
    let before = fs::read(&output).unwrap();
    let directory = place.directory().to_str().unwrap().to_owned();
    let refused = |options: &[&str], expected: &[&str], silent: &[&str]| {
        let (status, told) = ended(other_state().args(options));
        assert_eq!(status, Some(1), "{told}");
        assert!(expected.iter().all(|text| told.contains(text)), "{told}\nexpected {expected:?}");
        assert!(!silent.iter().any(|text| told.contains(text)), "{told}\nnot expected {silent:?}");
        assert_eq!(fs::read(&output).unwrap(), before, "output was cut back");
    };
    let change = format!("change {granted}, as /data");
    let see = format!("see {directory}, the directory");
    let cut = format!("cut back and write {output}");
    refused(&[], &["another key", &change, &see, &cut, "--trust"], &[]);
    let read_only = format!("{granted}:/data");
    refused(&["--dir", &read_only], &[&change, &see, &cut], &[]);
    let as_it_is = format!("{granted}:/data:rw");
    refused(&["--dir", &as_it_is, "--stdout", &output], &[&see], &[&change, &cut]);
    refused(&["--dir", &as_it_is, "--dir", &directory], &[&cut], &[&change, &see]);
    assert!(shown(&place, &other).contains("signed by this user: no: it is signed with another key"));
    let (status, told) =
        ended(other_state().args(["--dir", &as_it_is, "--dir", &directory, "--stdout", &output]));
    assert_eq!(status, Some(0), "{told}");
    // Whoever agreed has made what follows, all of it.
    assert!(shown(&place, &other).contains("signed by this user: yes"));
}

#[test]
fn trust_is_enough() {
    let place = Place::new();
    killed(&place);
    let (status, told) = ended(place.restore(&["--trust"]).env("XDG_STATE_HOME", place.path("other")));
    assert_eq!(status, Some(0), "{told}");
}

/// What somebody does who can write the store and knows its format: all checksums are right.
#[test]
fn a_store_that_was_changed_is_refused_and_says_what() {
    type Forge = fn(&str, &mut Vec<u8>);
    let any_byte: Forge = |_, bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let cases: [(&str, Forge, &str); 6] = [
        ("program", any_byte, "section 'program'"),
        ("cpu", any_byte, "section 'cpu'"),
        ("files", any_byte, "section 'files'"),
        ("process", any_byte, "section 'process'"),
        ("stdout", |_, bytes| *bytes.last_mut().unwrap() ^= 1, "section 'stdout'"),
        ("signature", any_byte, "changed after"),
    ];
    for (section, forge, expected) in cases {
        let place = Place::new();
        killed(&place);
        forge_store(&place, &mut |name, bytes| {
            if name == section {
                forge(name, bytes);
            }
        });
        let (status, told) = ended(&mut place.restore(&[]));
        assert_eq!(status, Some(1), "{section}: {told}");
        assert!(told.contains(expected), "{section}: {told}\nexpected {expected}");
    }
}

/// Memory comes when it's touched: a page that somebody has changed never does.
#[test]
fn memory_that_was_changed_never_runs() {
    let place = Place::new();
    killed(&place);
    forge_store(&place, &mut |name, bytes| {
        if name == "memory" {
            bytes[100] ^= 1;
        }
    });
    let (status, told) = ended(&mut place.restore(&["--no-checkpoints"]));
    // Before the program's first instruction, or while it runs.
    assert!([Some(1), Some(123)].contains(&status), "{status:?} {told}");
    assert!(told.contains("of 'memory' was changed"), "{told}");
}

/// Writes the newest checkpoint anew, complete, with its sections and the pages of its objects as `change` makes them.
fn forge_store(place: &Place, change: &mut dyn FnMut(&str, &mut Vec<u8>)) {
    let from = newest(&place.store());
    let mut batch = Batch::new(from.id(), None);
    for object in from.objects() {
        let name = object.name.as_str();
        let index = from.find(name).unwrap();
        let into = batch.object(object.clone()).unwrap();
        for page in from.present(index).flatten() {
            let mut bytes = [0; PAGE_SIZE];
            from.read_page(index, page, &mut bytes).unwrap();
            let mut changed = bytes.to_vec();
            change(name, &mut changed);
            batch.page(into, page, changed.first_chunk().unwrap()).unwrap();
        }
    }
    for (name, _) in from.sections() {
        let mut bytes = from.section(name).unwrap().unwrap();
        change(name, &mut bytes);
        batch.section(name, bytes).unwrap();
    }
    fs::remove_dir_all(place.store()).unwrap();
    let mut writer = Writer::open(&place.store(), Options::default()).unwrap();
    writer.commit(&batch, Level::Written).unwrap();
}

#[test]
fn a_key_that_others_can_read_is_none() {
    let place = Place::new();
    killed(&place);
    let key = place.state().join("cairn/key");
    let expose = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    expose(0o644);
    let (status, told) = ended(&mut place.restore(&[]));
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("not this user's alone") && told.contains("--trust"), "{told}");
    fs::write(&key, "short").unwrap();
    let (status, told) = ended(&mut place.restore(&[]));
    assert!(status == Some(1) && told.contains("is no key"), "{told}");
    fs::remove_file(&key).unwrap();
    let (status, told) = ended(&mut place.restore(&[]));
    assert!(status == Some(1) && told.contains("another key"), "{told}");
}

/// Checkpoints are worth more than signatures: without a place for a key there are unsigned ones, and that is told.
#[test]
fn without_a_place_for_a_key_checkpoints_are_unsigned() {
    let place = Place::new();
    // A file, below which there is no directory.
    let nowhere = place.path("file");
    fs::write(&nowhere, "").unwrap();
    let program = guest("guest-resume");
    let mut command = place.run_telling("50ms", &[]);
    command.args([program.to_str().unwrap(), "time", "5"]).env("XDG_STATE_HOME", &nowhere);
    let (status, told) = ended(&mut command);
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(told.matches("checkpoints are not signed").count(), 1, "{told}");
    let (status, told) = ended(place.restore(&[]).env("XDG_STATE_HOME", &nowhere));
    assert!(status == Some(1) && told.contains("nothing tells who made it"), "{told}");
    let (status, told) = ended(&mut place.restore(&[]));
    assert!(status == Some(1) && told.contains("it isn't signed"), "{told}");
    assert_eq!(ended(&mut place.restore(&["--trust"])).0, Some(0));
}

/// What a program has marked is no program: nobody signs it, and it isn't restored.
#[test]
fn a_store_of_regions_says_how_they_come_back() {
    let place = Place::new();
    let mut writer = Writer::open(&place.store(), Options::default()).unwrap();
    let mut batch = Batch::new(CheckpointId(1), None);
    let name = ObjectName::new("words").unwrap();
    let region = batch.object(Object { name, tag: 0, address: 0, pages: 4 }).unwrap();
    batch.page(region, 1, &[1; PAGE_SIZE]).unwrap();
    writer.commit(&batch, Level::Written).unwrap();
    drop(writer);
    let (status, told) = ended(&mut place.restore(&[]));
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("run again with the same --store"), "{told}");
    // By a user with a key.
    let other = Place::new();
    killed(&other);
    let told = shown(&place, &other.state());
    assert!(
        told.contains("signed by this user: no: it isn't signed: regions of a session never are"),
        "{told}"
    );
}
