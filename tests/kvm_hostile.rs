//! A guest that writes garbage into every register and ring: the VMM lives, and serves an honest session after.

use cairn_tests::{cairn_run, guest, run};

#[test]
fn garbage_harms_nobody() {
    for (seed, poll) in [(11, "never"), (12, "always"), (13, "auto"), (14, "auto")] {
        let mut command = cairn_run(&["--poll", poll]);
        let output = run(command.arg(guest("guest-hostile")).arg(seed.to_string()), b"").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success() && out == "survived\n",
            "seed {seed}: {}\n{out}\n{err}",
            output.status
        );
        assert!(!err.contains("panicked"), "{err}");
    }
}
