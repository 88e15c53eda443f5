//! The `cairn` command: its errors and exit statuses, and what doctor tells.

use std::fs;
use std::process::{Command, Output};

use cairn_tests::{built, cairn_run, guest, run};

fn fails(command: &mut Command, status: i32, says: &[&str]) {
    let output = run(command, b"").unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {err}");
    for text in says {
        assert!(err.contains(text), "{command:?}: no {text:?} in {err}");
    }
    assert!(!err.contains("panicked") && !err.contains("Stack backtrace"), "{err}");
}

#[test]
fn programs_that_cannot_be_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    fails(cairn_run(&[]).arg("/nonexistent"), 127, &["/nonexistent"]);
    fails(cairn_run(&[]).arg("no-such-program-anywhere"), 127, &["PATH"]);
    fails(cairn_run(&[]).arg(file("text", b"just text, no program at all")), 126, &["not an ELF"]);
    fails(cairn_run(&[]).arg(file("short", b"\x7fELF")), 126, &["not an ELF"]);
    fails(cairn_run(&[]).arg(directory.path()), 126, &[]);

    let elf = fs::read(guest("guest-ends")).unwrap();
    let with = |name: &str, at: usize, bytes: &[u8]| {
        let mut changed = elf.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        file(name, &changed)
    };
    fails(cairn_run(&[]).arg(with("arm", 18, &[183, 0])), 126, &["another machine", "183"]);
    fails(cairn_run(&[]).arg(with("narrow", 4, &[1])), 126, &["32-bit"]);
    fails(cairn_run(&[]).arg(with("object", 16, &[1, 0])), 126, &["no executable"]);
    fails(cairn_run(&[]).arg(file("cut", &elf[..200])), 126, &["program headers"]);
    let interpreter = b"/lib64/ld-linux-x86-64.so.2";
    let at = elf.windows(interpreter.len()).position(|window| window == interpreter).unwrap();
    fails(cairn_run(&[]).arg(with("lost", at + 7, b"xx")), 126, &["dynamic linker", "/lib64/xx"]);
}

/// Options behind the program are its own, also those that `cairn run` has, too.
#[test]
fn what_follows_the_program_is_the_programs() {
    let printed = run(cairn_run_bare().args(["/bin/echo", "--durable", "-h", "--", "x"]), b"").unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "--durable -h -- x\n");
    fails(cairn_run_bare().args(["--no-such-option", "/bin/echo"]), 2, &["--no-such-option"]);
}

/// `cairn run` without the `--` that would end its options.
fn cairn_run_bare() -> Command {
    let mut command = Command::new(built("cairn-vmm", "cairn"));
    command.arg("run");
    command
}

#[test]
fn elf_headers_with_every_byte_changed() {
    let directory = tempfile::tempdir().unwrap();
    let elf = fs::read(guest("guest-ends")).unwrap();
    let path = directory.path().join("changed");
    for at in (0..64 + 56 * 4).step_by(3) {
        let mut changed = elf.clone();
        changed[at] ^= 0xff;
        fs::write(&path, &changed).unwrap();
        let output: Output = run(cairn_run(&[]).arg(&path).arg("status"), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_some() && !err.contains("panicked"),
            "byte {at}: {} {err}",
            output.status
        );
    }
}

#[test]
fn bad_options() {
    let program = guest("guest-ends");
    fails(cairn_run(&["--memory", "1M"]).arg(&program), 124, &["16 MiB"]);
    fails(cairn_run(&["--memory", "lots"]).arg(&program), 2, &["512M"]);
    fails(cairn_run(&["--history", "0"]).arg(&program), 2, &["from 1"]);
    fails(cairn_run(&["--threads", "0"]).arg(&program), 2, &["from 1 to 32"]);
    fails(cairn_run(&["--threads", "33"]).arg(&program), 2, &["from 1 to 32"]);
    fails(cairn_run(&["--history-memory", "some"]).arg(&program), 2, &["512M"]);
    fails(cairn_run(&["--poll", "sometimes"]).arg(&program), 2, &["auto"]);
    fails(cairn_run(&["--env", "novalue"]).arg(&program), 1, &["NAME=VALUE"]);
    fails(cairn_run(&["--dir", "/nonexistent-directory"]).arg(&program), 1, &["/nonexistent-directory"]);
    fails(cairn_run(&["--dir", "/usr:relative"]).arg(&program), 1, &["relative"]);
}

#[test]
fn a_memory_that_the_program_outgrows() {
    fails(
        cairn_run(&["--memory", "16M"]).args(["/usr/bin/python3", "-c", "x = bytearray(64 << 20)"]),
        1,
        &["MemoryError"],
    );
}

#[test]
fn variables_reach_the_program() {
    let mut command = cairn_run(&["--env", "HOME=/elsewhere", "--env", "EMPTY="]);
    command.args([
        "/usr/bin/python3",
        "-S",
        "-c",
        "import os; print(os.environ['HOME'], repr(os.environ['EMPTY']), 'SECRET' in os.environ)",
    ]);
    let output = run(command.env("SECRET", "x"), b"").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/elsewhere '' False\n");
}

#[test]
fn doctor_measures() {
    let output = run(Command::new(built("cairn-vmm", "cairn")).arg("doctor"), b"").unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}");
    for word in ["kind", "exit", "write fault", "compare", "usable"] {
        assert!(out.contains(word), "no {word:?} in {out}");
    }
}
