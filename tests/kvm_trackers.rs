//! Every way to find what a program wrote: the engines' contract, and regions under everything that a program may do
//! with its memory. Whatever the tracker, the bytes are the same.

use cairn_tests::{cairn_run, guest, run};

const TRACKERS: [&[&str]; 4] = [
    &["--tracker", "bitmap"],
    &["--tracker", "scan"],
    &["--tracker", "ring"],
    // The smallest ring that every KVM takes: full now and then, between checkpoints too.
    &["--tracker", "ring", "--ring-entries", "1024"],
];

/// What the program printed on standard output and error, which must have succeeded.
fn succeeds(options: &[&str], program: &str, arguments: &[String]) -> (String, String) {
    let output = run(cairn_run(options).arg(guest(program)).args(arguments), b"").unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{options:?} {arguments:?}: {}\n{out}\n{err}", output.status);
    (out, err)
}

fn contract_holds(poll: &str, seed: u64) {
    const STEPS: u32 = 600;
    for (seed, tracker) in (seed..).zip(TRACKERS) {
        let options = [&["--poll", poll], tracker].concat();
        let (out, _) = succeeds(&options, "guest-contract", &[seed.to_string(), STEPS.to_string()]);
        assert!(out.contains(&format!("steps: {STEPS}")), "{options:?}: {out}");
    }
}

#[test]
fn the_contract_holds_while_the_host_polls() {
    contract_holds("always", 11);
}

#[test]
fn the_contract_holds_by_notifications() {
    contract_holds("never", 21);
}

#[test]
fn regions_hold_under_system_calls_and_mappings() {
    for tracker in TRACKERS {
        for poll in ["never", "always"] {
            let options = [&["--poll", poll], tracker].concat();
            assert_eq!(succeeds(&options, "guest-regions", &[]).0, "all held\n", "{options:?}");
        }
    }
}

#[test]
fn a_ring_that_is_full_loses_nothing() {
    for poll in ["never", "always"] {
        let options = ["-vv", "--poll", poll, "--tracker", "ring", "--ring-entries", "1024"];
        let (out, err) = succeeds(&options, "guest-many-pages", &[]);
        assert_eq!(out, "all held\n");
        assert!(err.contains("the vCPU stopped because its log is full"), "{poll}: it never did\n{err}");
    }
}

#[test]
fn phases_of_many_and_of_few_pages() {
    for tracker in ["bitmap", "scan", "auto"] {
        let (out, err) = succeeds(&["-vv", "--tracker", tracker], "guest-many-pages", &[]);
        assert_eq!(out, "all held\n", "{tracker}");
        // Where all is written a log tells nothing, and where little is it spares thousands of compares.
        let switched = ["logged=false", "logged=true"].map(|change| err.contains(change));
        assert_eq!(switched, [tracker != "bitmap", tracker == "auto"], "{tracker}\n{err}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    for (options, expected) in [
        (["--tracker", "none"], "possible values: auto, bitmap, ring, scan"),
        (["--ring-entries", "1000"], "a power of two"),
        (["--ring-entries", "131072"], "a power of two"),
    ] {
        let output = run(cairn_run(&options).arg("/bin/true"), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && err.contains(expected), "{options:?}: {err}");
    }
}
