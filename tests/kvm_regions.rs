//! Regions under everything that a program may do with its memory; the examples; and the confinement of threads.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use cairn_tests::{built, cairn_run, guest, run};

#[test]
fn regions_hold_under_system_calls_and_mappings() {
    for poll in ["never", "always"] {
        let output = run(cairn_run(&["--poll", poll]).arg(guest("guest-regions")), b"").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out == "all held\n", "{poll}: {}\n{out}\n{err}", output.status);
    }
}

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
        command.arg(built("cairn-examples", "heat")).args(["--size", "64", "--steps", "60", "--every", "10"]).args(args);
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

/// /proc tells of each thread whether it may gain privileges and whether a seccomp filter is on.
#[test]
fn threads_that_serve_a_guest_are_confined() {
    let mut command = cairn_run(&[]);
    command.args(["/usr/bin/python3", "-S", "-c", "print('up', flush=True); input()"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let mut confined = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        // KVM adds a thread of its own, which inherits.
        if ["poller", "vcpu"].contains(&field("Name:").as_str()) {
            confined.push((field("Name:"), field("Seccomp:"), field("NoNewPrivs:")));
        }
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    confined.sort();
    let expected = ["poller", "vcpu"].map(|name| (name.to_owned(), "2".to_owned(), "1".to_owned()));
    assert_eq!(confined, expected);
}
