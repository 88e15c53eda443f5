//! Programs with checkpoint sessions of their own, killed with `kill -9` again and again and brought back: their
//! regions, and every checkpoint that they retained, are what they were.

use std::fs;
use std::process::Command;

use cairn_store::Store;
use cairn_tests::resume::{Place, Trial, kill_and_restore, start, wait_for_checkpoint};
use cairn_tests::{Printed, guest, run};

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
    let (mut child, mut told) = start(place.run("10ms", &[]).args(program));
    let mut said = String::new();
    while wait_for_checkpoint(&mut told, &mut said).is_some() {}
    assert!(child.wait().unwrap().success(), "{said}");
    let expected = fs::read_to_string(place.output()).unwrap();
    let ids: Vec<u64> =
        Store::open(&place.store()).unwrap().checkpoints().iter().map(|one| one.id.0).collect();
    assert!(!ids.is_empty());
    for id in ids.iter().rev().step_by(ids.len().div_ceil(12)) {
        let id = id.to_string();
        let output = run(&mut place.restore(&["--no-checkpoints", "--at", &id]), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "from {id}: {err}");
        assert_eq!(fs::read_to_string(place.output()).unwrap(), expected, "from {id}: {err}");
    }
}

#[test]
fn a_session_has_no_way_to_the_store_of_the_whole() {
    let place = Place::new();
    let program = guest("guest-session");
    let (mut child, mut told) = start(place.run("50ms", &[]).args([program.to_str().unwrap(), "durable"]));
    while wait_for_checkpoint(&mut told, &mut String::new()).is_some() {}
    assert!(child.wait().unwrap().success());
    let out = fs::read_to_string(place.output()).unwrap();
    assert!(out.contains("no store for checkpoints") && out.contains("--every"), "{out}");
}
