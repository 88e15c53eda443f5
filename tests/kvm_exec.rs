//! Programs that another takes the place of: execve is what it is natively.

use std::fs;
use std::process::Command;

use cairn_test_host::is_there;
use cairn_tests::{Printed, cairn_run, guest, run, same_in_guest};

/// A directory with the guest program, by the name that it knows itself by.
fn place() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    // By another process: a child that another test forks just then would have the file open for writing, and it couldn't be
    // executed as long.
    let mut copy = Command::new("/bin/cp");
    assert!(copy.arg(guest("guest-exec")).arg(directory.path().join("program")).status().unwrap().success());
    directory
}

/// Runs it natively and in a guest that may write to the directory.
fn same_in_writable(args: &[&str]) -> Printed {
    let (native, guest) = (place(), place());
    let natively = Command::new(native.path().join("program"))
        .args(args)
        .current_dir(native.path())
        .env_clear()
        .output()
        .unwrap();
    let mut command = cairn_run(&["--dir", ".:rw"]);
    command.arg("./program").args(args).current_dir(guest.path()).env_clear();
    let (native, guest) = (Printed::from(natively), Printed::from(run(&mut command, b"").unwrap()));
    assert!(native == guest, "{args:?}: {}", native.difference(&guest));
    native
}

#[test]
fn what_a_program_leaves_to_the_next() {
    let printed = same_in_writable(&["state", "3"]);
    assert_eq!(String::from_utf8_lossy(&printed.out).matches("left").count(), 4, "{printed:?}");
}

#[test]
fn what_cannot_be_executed() {
    let printed = same_in_writable(&["errors"]);
    assert!(String::from_utf8_lossy(&printed.out).contains("a script's"), "{printed:?}");
}

#[test]
fn a_hundred_programs_one_after_the_other() {
    let directory = place();
    let printed = same_in_guest("./program", &["chain", "100"], directory.path(), b"").unwrap();
    assert_eq!(printed.out, b"0 left\n", "{printed:?}");
}

#[test]
fn a_program_that_is_in_memory_only() {
    let directory = place();
    let printed = same_in_guest("./program", &["from-memory"], directory.path(), b"").unwrap();
    assert_eq!(printed.out, b"[\"copy\", \"x\"] Ok(\"memory\")\n", "{printed:?}");
}

#[test]
fn a_session_ends_with_its_program() {
    let directory = place();
    let mut command = cairn_run(&[]);
    command.args(["./program", "session", "20"]).current_dir(directory.path());
    let printed = Printed::from(run(&mut command, b"").unwrap());
    assert_eq!((printed.status, &printed.out[..]), (Some(0), &b"cairn\n"[..]), "{printed:?}");
}

#[test]
fn programs_that_start_others() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("text"), "b\na\n").unwrap();
    for (status, program, args) in [
        (0, "/usr/bin/env", &["-i", "A=1", "/usr/bin/env"][..]),
        (0, "/usr/bin/nice", &["-n", "3", "/usr/bin/sort", "text"]),
        (0, "/bin/sh", &["-c", "exec /usr/bin/sort < text"]),
        (0, "/bin/bash", &["-c", "exec 5< text; exec /bin/cat <&5"]),
        (0, "/usr/bin/perl", &["-e", "exec 'echo', 'from perl'"]),
        (127, "/usr/bin/env", &["no-such-program"]),
    ] {
        if is_there(program) {
            let printed = same_in_guest(program, args, directory.path(), b"").unwrap();
            assert_eq!(printed.status, Some(status), "{program} {args:?}: {printed:?}");
        }
    }
}
