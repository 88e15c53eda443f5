//! Regions under everything that a program may do with its memory.

use cairn_tests::{cairn_run, guest, run};

#[test]
fn regions_hold_under_system_calls_and_mappings() {
    for poll in ["never", "always"] {
        let output = run(cairn_run(&["--poll", poll]).arg(guest("guest-regions")), b"").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out == "all held\n", "{poll}: {}\n{out}\n{err}", output.status);
    }
}
