//! The engines' contract inside a guest: every case, and thousands of random steps beside a full-copy model, then
//! as many with arenas beside std's collections.

use cairn_tests::{cairn_run, guest, run};

fn holds(options: &[&str], seed: u64, steps: u32) {
    let mut command = cairn_run(options);
    command.arg(guest("guest-contract")).args([seed.to_string(), steps.to_string()]);
    let output = run(&mut command, b"").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{options:?} seed {seed}: {}\n{out}\n{err}", output.status);
    assert_eq!(out.matches(&format!("steps: {steps}")).count(), 2, "{out}");
    assert!(out.contains("arenas: "), "{out}");
}

#[test]
fn while_the_host_polls() {
    holds(&["--poll", "always"], 1, 3000);
}

#[test]
fn by_notifications() {
    holds(&["--poll", "never"], 2, 2000);
}

#[test]
fn by_both() {
    holds(&["--poll", "auto"], 3, 3000);
}

#[test]
fn with_another_history() {
    holds(&["--history", "32"], 4, 1500);
    holds(&["--history", "5"], 5, 1500);
}
