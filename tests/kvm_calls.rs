//! System calls and clocks of an app guest that are served without an exit.

use std::process::Stdio;

use cairn_test_host::{counter_is_a_clock, skipped};
use cairn_tests::{cairn_run, guest, run};

#[test]
fn calls_change_no_register_and_the_page_is_only_claims() {
    for (seed, poll) in [(1, "never"), (2, "always"), (3, "auto"), (4, "always")] {
        let mut command = cairn_run(&["--poll", poll]);
        let output = run(command.arg(guest("guest-posted")).arg(seed.to_string()), b"").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out == "survived\n", "{poll}: {}\n{out}\n{err}", output.status);
    }
}

/// A call that ends the program is served by the poller, and the end told by the vCPU's thread.
#[test]
fn a_writer_without_a_reader_is_killed() {
    for poll in ["never", "always", "auto"] {
        let mut command = cairn_run(&["--poll", poll]);
        let mut child = command.arg("/usr/bin/yes").stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGPIPE), "{poll}");
    }
}

#[test]
fn clocks_are_the_hosts_and_never_go_back() {
    for poll in ["never", "always", "auto"] {
        let output = run(cairn_run(&["--poll", poll]).arg(guest("guest-clock")), b"").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out == "all held\n", "{poll}: {}\n{out}\n{err}", output.status);
    }
}

/// The trace names each system call that the monitor serves.
#[test]
fn the_clock_is_read_without_system_calls() {
    if !counter_is_a_clock() {
        skipped("the time stamp counter is no clock here");
        return;
    }
    let program = "import time\nfor i in range(200000): time.monotonic()\n";
    let mut command = cairn_run(&["--poll", "never"]);
    let output =
        run(command.env("RUST_LOG", "trace").args(["/usr/bin/python3", "-S", "-c", program]), b"").unwrap();
    let trace = String::from_utf8_lossy(&output.stderr);
    let calls = |name: &str| trace.lines().filter(|line| line.contains(name)).count();
    assert!(output.status.success() && 1 <= calls("mmap"), "{trace}");
    assert!((1..2000).contains(&calls("clock_gettime")), "{}", calls("clock_gettime"));
}
