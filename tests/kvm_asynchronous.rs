//! Asynchronous checkpoints under everything that a program may do while one is in the making.

use cairn_test_host::{holds_writers, skipped};
use cairn_tests::{Printed, cairn_run, guest, run};

fn runs(options: &[&str], argument: &str) -> Printed {
    run(cairn_run(options).arg(guest("guest-frozen")).arg(argument), b"").unwrap().into()
}

fn holds(options: &[&str], argument: &str) {
    let printed = runs(options, argument);
    assert!(printed.status == Some(0) && printed.out == b"all held\n", "{options:?}: {printed:?}");
}

/// The dirty bitmap can be copied from beside the program, as far as the host can.
fn holds_with_the_bitmap(poll: &str) {
    let beside = holds_writers();
    if !beside {
        skipped("no userfaultfd for writes of the kernel: all is copied at once");
    }
    let argument = if beside { "beside" } else { "at once" };
    holds(&["--tracker", "bitmap", "--poll", poll], argument);
}

#[test]
fn whatever_happens_meanwhile_with_calls_by_exits() {
    holds_with_the_bitmap("never");
}

#[test]
fn whatever_happens_meanwhile_with_posted_calls() {
    holds_with_the_bitmap("always");
}

#[test]
fn what_is_copied_at_once_holds_as_well() {
    for tracker in ["auto", "ring", "scan"] {
        holds(&["--tracker", tracker], "at once");
    }
}

#[test]
fn programs_end_while_their_checkpoint_is_copied() {
    let ends = [("exit", 42), ("abort", 128 + libc::SIGABRT), ("fault", 128 + libc::SIGSEGV)];
    for (way, status) in ends {
        for poll in ["never", "always"] {
            let printed = runs(&["--tracker", "bitmap", "--poll", poll], way);
            assert_eq!(printed.status, Some(status), "{way}, polling {poll}: {printed:?}");
            let err = String::from_utf8_lossy(&printed.err);
            assert!(!err.contains("panicked") && !err.contains("ERROR"), "{way}: {err}");
        }
    }
}
