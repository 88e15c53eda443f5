//! The examples in a guest: what they damage, they mend.

use std::fs;
use std::path::Path;
use std::process::Command;

use cairn_tests::{built, cairn_run, run};

#[test]
fn words_are_counted_through_a_corruption() {
    let directory = tempfile::tempdir().unwrap();
    let text: String = ["GPL-3", "Apache-2.0"]
        .iter()
        .map(|name| fs::read_to_string(Path::new("/usr/share/common-licenses").join(name)).unwrap())
        .collect();
    fs::write(directory.path().join("text"), text).unwrap();
    let count = |args: &[&str]| {
        let mut command = cairn_run(&[]);
        command.current_dir(directory.path()).arg(built("cairn-examples", "wordfreq")).args(args).arg("text");
        run(&mut command, b"").unwrap()
    };
    let (plain, corrupted) = (count(&[]), count(&["--corrupt-at", "300", "--every", "20"]));
    let err = String::from_utf8_lossy(&corrupted.stderr);
    assert!(plain.status.success() && corrupted.status.success(), "{err}");
    assert!(1000 < plain.stdout.len() && plain.stdout == corrupted.stdout);
    assert!(err.contains("cairn") && err.contains("roll"), "{err}");
}

#[test]
fn heat_survives_a_nan() {
    let heat = |args: &[&str]| {
        let mut command = cairn_run(&[]);
        command
            .arg(built("cairn-examples", "heat"))
            .args(["--size", "64", "--steps", "60", "--every", "10"])
            .args(args);
        run(&mut command, b"").unwrap()
    };
    let (plain, faulty) = (heat(&[]), heat(&["--nan-at", "35"]));
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    assert_eq!(String::from_utf8_lossy(&plain.stdout), String::from_utf8_lossy(&faulty.stdout));
}

#[test]
fn the_store_goes_back_to_where_it_began() {
    let mut command = cairn_run(&[]);
    command.arg(built("cairn-examples", "kv"));
    let output = run(&mut command, b"SET a 1\nBEGIN\nSET a 2\nGET a\nROLLBACK\nGET a\nQUIT\n").unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (two, one) = (out.find('2').unwrap(), out.rfind('1').unwrap());
    assert!(two < one, "{out}");
}

#[test]
fn an_input_meets_the_same_state_in_a_guest_as_in_a_child_process() {
    let program = built("cairn-examples", "reset_fuzz");
    let small = ["--region-mib", "1", "--seed", "4"];
    let natively = run(Command::new(&program).args(small).arg("--fork"), b"").unwrap();
    let guest = run(cairn_run(&[]).arg(&program).args(small).args(["--check", "each"]), b"").unwrap();
    let err = String::from_utf8_lossy(&guest.stderr);
    assert!(natively.status.success() && guest.status.success(), "{err}");
    assert!(err.contains("kept by: cairn") && err.contains("resets in"), "{err}");
    assert!(natively.stdout.starts_with(b"input 940 crashes the parser"));
    assert_eq!(String::from_utf8_lossy(&natively.stdout), String::from_utf8_lossy(&guest.stdout));
    // A guest without processes says what to do.
    let forking = run(cairn_run(&[]).arg(&program).args(small).arg("--fork"), b"").unwrap();
    let err = String::from_utf8_lossy(&forking.stderr);
    assert!(forking.status.code() == Some(1) && err.contains("run it natively"), "{err}");
}
