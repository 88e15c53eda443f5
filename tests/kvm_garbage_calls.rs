//! Guests that make thousands of system calls with garbage for arguments: the VMM lives, and so do they.

use cairn_tests::{cairn_run, guest, run};

const CALLS: &str = "6000";

#[test]
fn garbage_is_answered() {
    let mut sessions = 0;
    for (seed, poll) in [(1, "never"), (2, "always"), (3, "auto"), (4, "never"), (5, "always")] {
        let mut command = cairn_run(&["--poll", poll, "--memory", "256M"]);
        let output =
            run(command.arg(guest("guest-garbage-calls")).args([&seed.to_string(), CALLS]), b"").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!err.contains("panicked"), "seed {seed}: {err}");
        assert!(
            output.status.success() && out.ends_with("survived\n"),
            "seed {seed}: {}\n{out}\n{err}",
            output.status
        );
        let told = out.lines().find_map(|line| line.strip_suffix(" sessions")?.parse::<u32>().ok());
        assert!(told.is_some(), "seed {seed}: {out}");
        sessions += told.unwrap_or(0);
    }
    // Each may have been refused by what the garbage did before, but not all of them.
    assert!(0 < sessions, "no session with the device took a checkpoint");
}
