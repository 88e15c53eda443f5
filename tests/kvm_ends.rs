//! How programs end in a guest, and what the user is told.

use cairn_tests::{Printed, cairn_run, guest, run};

fn ends(options: &[&str], way: &str) -> Printed {
    let mut command = cairn_run(options);
    run(command.arg(guest("guest-ends")).arg(way), b"").unwrap().into()
}

/// The exit status and a part of what stderr says.
fn expect(way: &str, status: i32, says: &[&str]) {
    let printed = ends(&[], way);
    assert_eq!(printed.status, Some(status), "{way}: {printed:?}");
    let err = String::from_utf8_lossy(&printed.err);
    for text in says {
        assert!(err.contains(text), "{way}: no {text:?} in {err}");
    }
    assert!(!err.contains("thread 'vcpu' panicked"), "{err}");
}

#[test]
fn statuses_are_the_programs() {
    expect("status", 42, &[]);
    expect("panic", 101, &["on purpose"]);
}

#[test]
fn signals_are_told_and_are_128_and_their_number() {
    expect("abort", 128 + libc::SIGABRT, &["SIGABRT"]);
    expect("sigterm", 128 + libc::SIGTERM, &["SIGTERM"]);
}

#[test]
fn faults_say_where_and_what_is_mapped_there() {
    let segv = 128 + libc::SIGSEGV;
    expect("null", segv, &["wrote", "address 0x0", "nothing is mapped there", "guest-ends", "SIGSEGV"]);
    expect("code", segv, &["wrote", "r-x", "guest-ends"]);
    expect("execute", segv, &["jumped", "rw- the heap"]);
    expect("overflow", segv, &["wrote to memory that it can't write"]);
    expect("divide", 128 + libc::SIGFPE, &["divided by zero", "SIGFPE"]);
    expect("invalid", 128 + libc::SIGILL, &["invalid instruction", "SIGILL"]);
    expect("breakpoint", 128 + libc::SIGTRAP, &["breakpoint", "SIGTRAP"]);
    expect("port", segv, &["broke a protection of the CPU"]);
    expect("compatibility", segv, &["broke a protection of the CPU"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let mut command = cairn_run(&[]);
    command
        .arg(guest("guest-ends"))
        .arg("pipe")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1), "std ignores SIGPIPE, so the write fails instead");
}

#[test]
fn memory_has_an_end() {
    let printed = ends(&["--memory", "512M"], "memory");
    assert_eq!(printed.status, Some(0), "{printed:?}");
    let out = String::from_utf8(printed.out).unwrap();
    let mib: u64 = out.split_ascii_whitespace().nth(2).unwrap().parse().unwrap();
    assert!((400..512).contains(&mib), "{out}");
}

#[test]
fn processes_and_threads_are_refused() {
    assert_eq!(ends(&[], "fork").out, b"fork true\n");
    assert_eq!(ends(&[], "thread").out, b"thread true\n");
}
