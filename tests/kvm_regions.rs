//! Regions under everything that a program may do with its memory.

use cairn_tests::{cairn_run, guest, run};

fn holds(options: &[&str], what: &[&str]) {
    let output = run(cairn_run(options).arg(guest("guest-regions")).args(what), b"").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out == "all held\n", "{options:?}: {}\n{out}\n{err}", output.status);
}

#[test]
fn large_dirty_sets_are_exact_with_any_number_of_threads() {
    for threads in ["1", "2", "5"] {
        for poll in ["never", "always"] {
            holds(&["--threads", threads, "--poll", poll], &["large"]);
        }
    }
}

#[test]
fn a_full_history_loses_the_oldest() {
    holds(&["--history-memory", "3584K"], &["little history"]);
}

#[test]
fn regions_hold_under_system_calls_and_mappings() {
    for poll in ["never", "always"] {
        holds(&["--poll", poll], &[]);
    }
}
