//! Programs with checkpoint sessions of their own, killed with `kill -9` again and again and brought back: their
//! regions, and every checkpoint that they retained, are what they were.

use std::fs;
use std::process::Command;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, ObjectIndex, Options, PAGE_SIZE, Snapshot, Store, Writer};
use cairn_tests::place::Place;
use cairn_tests::resume::{Trial, kill_and_restore, start, wait_for_checkpoint};
use cairn_tests::{Printed, built, guest, run};

/// How often a program is begun to be killed at least once.
const ATTEMPTS: u32 = 10;

/// Runs random walks of sessions through kills; natively the same walks print the same.
fn walks_on(poll: &str, seed: &str, every: &str) {
    let program = guest("guest-session");
    let program = [program.to_str().unwrap(), "walk", seed, "12", "400"];
    let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
    assert_eq!(native.status, Some(0), "{native:?}");
    let options = ["--poll", poll];
    let trial = Trial { every, kills: 10, within: 120, options: &options };
    for _ in 0..ATTEMPTS {
        let (printed, killed) = kill_and_restore(&Place::new(), &trial, &program);
        let told = String::from_utf8_lossy(&printed.err).into_owned();
        let same = printed.status == Some(0) && printed.out == native.out;
        assert!(same, "killed {killed} times: {}\n{told}", native.difference(&printed));
        assert!(told.contains("the engine is Cairn"), "{told}");
        if 0 < killed {
            return;
        }
    }
    panic!("{program:?} ended before it was killed, always");
}

#[test]
fn sessions_go_on_where_requests_are_exits() {
    walks_on("never", "11", "30ms");
}

#[test]
fn sessions_go_on_where_requests_are_polled_for() {
    walks_on("always", "12", "30ms");
}

#[test]
fn sessions_go_on_where_either_may_be() {
    walks_on("auto", "13", "10ms");
}

/// Each checkpoint of the whole, not only the newest after a kill, and without further ones.
#[test]
fn every_checkpoint_of_the_whole_can_be_gone_on_from() {
    let program = guest("guest-session");
    let program = [program.to_str().unwrap(), "walk", "21", "4", "300"];
    let place = Place::new();
    let (mut child, mut told) = start(place.run_telling("10ms", &[]).args(program));
    let mut said = String::new();
    while wait_for_checkpoint(&mut told, &mut said).is_some() {}
    assert!(child.wait().unwrap().success(), "{said}");
    let expected = fs::read_to_string(place.output_file()).unwrap();
    let ids: Vec<u64> =
        Store::open(&place.store()).unwrap().checkpoints().iter().map(|one| one.id.0).collect();
    assert!(!ids.is_empty());
    for id in ids.iter().rev().step_by(ids.len().div_ceil(12)) {
        let id = id.to_string();
        let output = run(&mut place.restore_telling(&["--no-checkpoints", "--at", &id]), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "from {id}: {err}");
        assert_eq!(fs::read_to_string(place.output_file()).unwrap(), expected, "from {id}: {err}");
    }
}

#[test]
fn a_session_has_no_way_to_the_store_of_the_whole() {
    let place = Place::new();
    let program = guest("guest-session");
    let (mut child, mut told) =
        start(place.run_telling("50ms", &[]).args([program.to_str().unwrap(), "durable"]));
    while wait_for_checkpoint(&mut told, &mut String::new()).is_some() {}
    assert!(child.wait().unwrap().success());
    let out = fs::read_to_string(place.output_file()).unwrap();
    assert!(out.contains("no store for checkpoints") && out.contains("--every"), "{out}");
}

/// What a checkpoint of the whole took: pages, and bytes that the store has got.
fn taken(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once("a checkpoint of the program")?;
    let figure = |name| rest.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok());
    Some((figure("pages=")?, figure("bytes=")?))
}

#[test]
fn a_session_that_does_nothing_costs_next_to_nothing() {
    let (program, place) = (guest("guest-session"), Place::new());
    let program = [program.to_str().unwrap(), "idle", "48", "300"];
    let mut said = String::new();
    let (mut child, mut told) = start(place.run_telling("50ms", &[]).args(program));
    // By then it sleeps, on any machine: the first has taken longer than all that comes before.
    for _ in 0..8 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some(), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut said_then = String::new();
    let (mut child, mut told) = start(&mut place.restore_telling(&[]));
    while wait_for_checkpoint(&mut told, &mut said_then).is_some() {}
    assert!(child.wait().unwrap().success(), "{said_then}");
    assert_eq!(fs::read_to_string(place.output_file()).unwrap(), "all is there\n");
    // The first of each life has all, or what the comeback touched; those of the end what the rollbacks wrote.
    let lives = [&said, &said_then].map(|life| life.lines().filter_map(taken).skip(1).collect::<Vec<_>>());
    for figures in lives {
        // On a busy machine few of them are of the time in which it sleeps.
        let cheapest = figures.iter().any(|(pages, bytes)| *pages < 100 && *bytes < 100_000);
        assert!(cheapest, "{figures:?}");
    }
}

/// Names all that a checkpoint has in a batch, but for the session.
fn name_all(batch: &mut Batch, snapshot: &Snapshot) -> Vec<ObjectIndex> {
    for (name, _) in snapshot.sections().filter(|(name, _)| *name != "session") {
        batch.section(name, snapshot.section(name).unwrap().unwrap()).unwrap();
    }
    snapshot.objects().iter().map(|object| batch.object(object.clone()).unwrap()).collect()
}

/// Changes of the session's values in a store are refused or end the program; the monitor stands.
#[test]
fn a_session_that_somebody_changed_harms_nobody_else() {
    let (program, place) = (guest("guest-session"), Place::new());
    let program = [program.to_str().unwrap(), "walk", "31", "1", "300"];
    // Without a file of standard output, of which only one store knows what became.
    let output = run(place.run("10ms", &["--poll", "never"]).args(program), b"").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let store = Store::open(&place.store()).unwrap();
    let newest = store.checkpoints().last().unwrap().id;
    let snapshot = store.snapshot(newest).unwrap();
    let session = snapshot.section("session").unwrap().unwrap();

    let changed = place.path("changed");
    let mut writer = Writer::open(&changed, Options::default()).unwrap();
    let mut base = Batch::new(newest, None);
    for (object, index) in name_all(&mut base, &snapshot).into_iter().enumerate() {
        assert_eq!(snapshot.find(snapshot.objects()[object].name.as_str()), Some(index));
        let mut bytes = [0; PAGE_SIZE];
        for page in snapshot.present(index).flatten() {
            snapshot.read_page(index, page, &mut bytes).unwrap();
            base.page(index, page, &bytes).unwrap();
        }
    }
    base.section("session", session.clone()).unwrap();
    writer.commit(&base, Level::Written).unwrap();
    let places: Vec<usize> = (0..session.len()).step_by(session.len().div_ceil(40)).collect();
    for (id, at) in (newest.0 + 1..).zip(&places) {
        let mut batch = Batch::new(CheckpointId(id), Some(newest));
        name_all(&mut batch, &snapshot);
        let mut bytes = session.clone();
        bytes[*at] ^= 0x81;
        batch.section("session", bytes).unwrap();
        writer.commit(&batch, Level::Written).unwrap();
    }
    drop(writer);
    let restore = |id: u64| {
        let mut command = Command::new("timeout");
        command.args([
            "20",
            built("cairn-vmm", "cairn").to_str().unwrap(),
            "restore",
            "--no-checkpoints",
            "--trust",
        ]);
        command.args(["--at", &id.to_string(), changed.to_str().unwrap()]);
        Printed::from(run(place.within(&mut command), b"").unwrap())
    };
    let whole = restore(newest.0);
    assert_eq!(whole.status, Some(0), "{}", String::from_utf8_lossy(&whole.err));
    // The program's name has the word in it, so a fault of the program says it too.
    let refusals =
        ["the program's own checkpoint session can't be brought back", "section 'session' can't be used"];
    let mut refused = 0;
    for (id, at) in (newest.0 + 1..).zip(&places) {
        let printed = restore(id);
        let err = String::from_utf8_lossy(&printed.err).into_owned();
        // A program whose ring is elsewhere may wait in vain, until it's ended (124).
        let stands = printed.status.is_some_and(|status| ![101, 134].contains(&status));
        assert!(stands && !err.contains("panicked"), "byte {at}: {:?} {err}", printed.status);
        refused += u32::from(refusals.iter().any(|refusal| err.contains(refusal)));
    }
    assert!(0 < refused, "nothing was refused");
}
