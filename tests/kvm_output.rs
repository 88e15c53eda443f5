//! The file of standard output when a program can't be brought back, or comes back in another way than it went: it stays as
//! it is until the program really runs, and what it has is known for every checkpoint.

use std::fs;
use std::io::Write;
use std::process::Command;

use cairn_store::{PAGE_SIZE, Snapshot, Store};
use cairn_tests::control::Running;
use cairn_tests::place::Place;

/// Prints what it reads, and keeps it in a file. While it has read less than two lines it has another one open.
const KEEPS: &str = "exec 3< in.txt; read line; echo $line; echo $line > w/kept; read line; exec 3<&-; \
                     while true; do echo $line; read line || exit 0; done";

/// The store's newest checkpoint, and what it is a change to.
fn newest(place: &Place) -> (u64, Option<u64>) {
    let store = Store::open(&place.store()).unwrap();
    let newest = store.checkpoints().last().unwrap();
    (newest.id.0, newest.parent.map(|parent| parent.0))
}

/// Has a guest print a line, and waits until it has.
fn say(place: &Place, running: &mut Running, line: &str) {
    let all = format!("{}{line}\n", place.output());
    running.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    place.wait_for(&all, || place.output() == all);
}

/// Starts a guest that is called `job`, and waits until it has a checkpoint; its number.
fn started(place: &Place, command: &mut Command) -> (Running, u64) {
    let running = place.start(command);
    place.wait_for("the guest", || place.cairn(&["checkpoint", "job"]).status == Some(0));
    (running, newest(place).0)
}

/// A program with a checkpoint after each of two lines, and killed then; their numbers.
fn killed(place: &Place, program: &[&str]) -> [u64; 2] {
    fs::write(place.path("in.txt"), "").unwrap();
    fs::create_dir_all(place.path("w")).unwrap();
    let mut running = place.start_program(&["--name", "job", "--dir", "w:rw"], program);
    place.wait_for("the guest", || place.told(&["ps"]).contains("job"));
    let checkpoints = ["one", "two"].map(|line| {
        say(place, &mut running, line);
        place.checkpoint("job")
    });
    running.kill();
    checkpoints
}

#[test]
fn a_restore_that_fails_leaves_the_output_as_it_was() {
    let place = Place::new();
    let [one, two] = killed(&place, &["/bin/sh", "-c", KEEPS]);
    fs::remove_file(place.path("in.txt")).unwrap();
    let at_one = ["restore", "store", "--at", &one.to_string()];
    assert!(place.refused(&at_one).contains("in.txt"));
    assert_eq!(place.output(), "one\ntwo\n");
    let (mut running, three) = started(&place, &mut place.restore(&[]));
    assert_eq!(newest(&place), (three, Some(two)));
    say(&place, &mut running, "three");
    assert_eq!(running.end(), Some(0));
    assert_eq!(place.output(), "one\ntwo\nthree\n");
}

/// A run from its beginning empties the file, but not if the program isn't there.
#[test]
fn a_run_that_fails_leaves_the_output_as_it_was() {
    let place = Place::new();
    fs::write(place.output_file(), "of somebody").unwrap();
    assert_ne!(place.start_program(&[], &["/bin/no-such-program"]).end(), Some(0));
    assert_eq!(place.output(), "of somebody");
    assert_eq!(place.start_program(&[], &["/bin/echo", "mine"]).end(), Some(0));
    assert_eq!(place.output(), "mine\n");
    // What has no length isn't cut.
    let nowhere = ["run", "--store", "other", "--every", "never", "--stdout", "/dev/null", "/bin/echo"];
    assert_eq!(place.cairn(&nowhere).status, Some(0));
}

/// A checkpoint that is complete, as it was signed with another key than the one before, goes on in the same file.
#[test]
fn a_complete_checkpoint_cuts_nothing_off() {
    let place = Place::new();
    let [_, two] = killed(&place, &["/bin/cat"]);
    fs::remove_dir_all(place.state()).unwrap();
    let at_two = ["--trust", "--at", &two.to_string()];
    let (mut running, three) = started(&place, &mut place.restore(&["--trust"]));
    assert_eq!(newest(&place), (three, None));
    say(&place, &mut running, "three");
    running.kill();
    let (mut running, _) = started(&place, &mut place.restore(&at_two));
    assert_eq!(place.output(), "one\ntwo\n");
    say(&place, &mut running, "other");
    assert_eq!(running.end(), Some(0));
    assert_eq!(place.output(), "one\ntwo\nother\n");
}

/// What was cut off when a program came back from an older checkpoint is lost, and nothing else is taken for it.
#[test]
fn output_that_is_lost_is_not_made_up() {
    let place = Place::new();
    let [one, two] = killed(&place, &["/bin/cat"]);
    let at_one = one.to_string();
    // Nothing is written to the store before the program is rolled back.
    let mut running = place.start(&mut place.restore(&["--at", &at_one]));
    place.wait_for("the guest", || place.told(&["ps"]).contains("job"));
    say(&place, &mut running, "another, which is longer");
    let lost = |command: &[&str], why: &str| {
        let told = place.refused(command);
        assert!(told.contains(why), "{told}");
    };
    lost(&["rollback", "job", &two.to_string()], "was cut off");
    say(&place, &mut running, "more");
    place.rollback("job", one);
    assert_eq!(place.output(), "one\n");
    lost(&["rollback", "job", &two.to_string()], "was cut off");
    running.kill();
    lost(&["restore", "store", "--at", &two.to_string()], "was cut off");
    // Where it was rolled back to, it goes on.
    let (running, _) = started(&place, &mut place.restore(&[]));
    assert_eq!(running.end(), Some(0));
    assert_eq!(place.output(), "one\n");
}

/// Its changes don't depend on what it printed.
#[test]
fn changes_are_applied_where_the_output_is_lost() {
    let place = Place::new();
    let [one, two] = killed(&place, &["/bin/sh", "-c", KEEPS]);
    let (running, _) = started(&place, &mut place.restore(&["--at", &one.to_string()]));
    running.kill();
    let at_two = ["restore", "store", "--at", &two.to_string()];
    assert!(place.refused(&at_two).contains("was cut off"));
    let applied = place.told(&[&at_two[..], &["--commit-files"]].concat());
    assert!(applied.contains("w/kept"), "{applied}");
    assert_eq!(fs::read_to_string(place.path("w/kept")).unwrap(), "one\n");
    assert_eq!(place.output(), "one\n");
}

/// Whether pages of a checkpoint's memory can't be read, though all that comes before them can.
fn is_unreadable(place: &Place, id: u64) -> bool {
    let read = || -> Result<bool, cairn_store::StoreError> {
        let store = Store::open(&place.store())?;
        let found = store.checkpoints().iter().find(|checkpoint| checkpoint.id.0 == id);
        let snapshot: Snapshot = store.snapshot(found.unwrap().id)?;
        let names: Vec<String> = snapshot.sections().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            snapshot.section(&name)?;
        }
        let mut is_damaged = false;
        for (index, object) in snapshot.indexed() {
            let mut bytes = [0; PAGE_SIZE];
            let read = snapshot
                .present(index)
                .flatten()
                .try_for_each(|page| snapshot.read_page(index, page, &mut bytes));
            match read {
                Err(_) if object.name.as_str() == "memory" => is_damaged = true,
                other => other?,
            }
        }
        Ok(is_damaged)
    };
    read().unwrap_or(false)
}

/// Memory that can't be read is found before the program is given up.
#[test]
fn a_rollback_to_damaged_memory_is_refused() {
    let place = Place::new();
    let [one, _] = killed(&place, &["/bin/cat"]);
    let _ = place.told(&["store", "compact", "store"]);
    let (mut running, three) = started(&place, &mut place.restore(&[]));
    say(&place, &mut running, "three");
    let mut segments: Vec<_> =
        fs::read_dir(place.store()).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("segment"));
    let is_damaged = segments.iter().any(|path| {
        let intact = fs::read(path).unwrap();
        (0..intact.len()).step_by(intact.len().div_ceil(200).max(1)).any(|at| {
            let mut bytes = intact.clone();
            bytes[at] ^= 0x55;
            fs::write(path, bytes).unwrap();
            let found = is_unreadable(&place, one);
            if !found {
                fs::write(path, &intact).unwrap();
            }
            found
        })
    });
    assert!(is_damaged, "no byte of the memory was found in {segments:?}");
    let told = place.refused(&["rollback", "job", &one.to_string()]);
    assert!(told.contains("store verify"), "{told}");
    assert!(place.told(&["ps"]).contains("job"));
    say(&place, &mut running, "four");
    assert_eq!(newest(&place).0, three);
    assert_eq!(running.end(), Some(0));
    assert_eq!(place.output(), "one\ntwo\nthree\nfour\n");
}
