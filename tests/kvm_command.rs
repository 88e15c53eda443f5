//! The `cairn` command: its errors and exit statuses, and what doctor tells.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
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
    fails(cairn_run(&[]).arg(file("half", &elf[..4096])), 126, &["half can't be loaded", "it is cut off"]);
    let interpreter = b"/lib64/ld-linux-x86-64.so.2";
    let at = elf.windows(interpreter.len()).position(|window| window == interpreter).unwrap();
    fails(cairn_run(&[]).arg(with("lost", at + 7, b"xx")), 126, &["dynamic linker", "/lib64/xx"]);
}

/// What isn't a file is no program, and a pipe isn't waited for, neither as program nor as its dynamic linker.
#[test]
fn programs_that_are_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let elf = fs::read(guest("guest-ends")).unwrap();
    let interpreter = b"/lib64/ld-linux-x86-64.so.2";
    let at = elf.windows(interpreter.len()).position(|window| window == interpreter).unwrap();
    // As long as the name that it takes the place of.
    let fifo = format!("/tmp/cairn-fifo-{:011}", std::process::id());
    assert!(run(Command::new("mkfifo").args(["-m", "700", &fifo]), b"").unwrap().status.success());
    // Whoever reads it finds something there.
    let mut filled = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    filled.write_all(&[b'x'; 4096]).unwrap();
    let mut changed = elf;
    changed[at..at + interpreter.len()].copy_from_slice(fifo.as_bytes());
    let program = directory.path().join("program");
    fs::write(&program, changed).unwrap();
    fails(cairn_run(&[]).arg(&program), 126, &[&fifo, "not a file"]);
    fails(cairn_run(&[]).arg(&fifo), 126, &["not a file"]);
    fs::remove_file(&fifo).unwrap();
    fails(cairn_run(&[]).arg("/dev/null"), 126, &["not a file"]);
}

/// The interpreter opens its script in the guest, so that has to be there.
#[test]
fn scripts_say_what_they_lack() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = |directory: &Path, first: &str| {
        let path = directory.join("script");
        fs::write(&path, format!("{first}\necho run\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let hidden = script(elsewhere.path(), "#!/bin/sh");
    let link = here.path().join("link");
    symlink(&hidden, &link).unwrap();
    let granted = elsewhere.path().to_str().unwrap();
    let grant = format!("add --dir {granted},");
    for path in [hidden.as_path(), Path::new("./link")] {
        fails(cairn_run(&[]).arg(path).current_dir(&here), 126, &["is a script", &grant]);
        let printed = run(cairn_run(&["--dir", granted]).arg(path).current_dir(&here), b"").unwrap();
        assert_eq!(String::from_utf8_lossy(&printed.stdout), "run\n", "{printed:?}");
    }
    let lost = script(here.path(), "#!/nonexistent -x");
    fails(cairn_run(&[]).arg(lost).current_dir(&here), 126, &["script names /nonexistent in its first line"]);
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
    fails(cairn_run(&["--memory", "1P"]).arg(&program), 2, &["K, M, G or T"]);
    fails(cairn_run(&["--store", "x", "--keep", "0"]).arg(&program), 2, &["from 1"]);
    fails(cairn_run(&["--env", "novalue"]).arg(&program), 1, &["NAME=VALUE"]);
    fails(cairn_run(&["--dir", "/nonexistent-directory"]).arg(&program), 1, &["/nonexistent-directory"]);
    fails(cairn_run(&["--dir", "/usr:relative"]).arg(&program), 1, &["relative"]);
}

/// 123 is for what goes wrong while a program runs.
#[test]
fn what_keeps_a_program_from_starting_has_a_status_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let program = guest("guest-ends");
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let store = at("store");
    let stdout = at("none/out");
    let start = |options: &[&str]| {
        let mut command = cairn_run(options);
        command.args([program.to_str().unwrap(), "status"]).env("XDG_STATE_HOME", at("state"));
        command
    };
    let with_stdout = ["--store", &store, "--every", "never", "--stdout", &stdout];
    fails(&mut start(&with_stdout), 1, &["was not started", &stdout]);
    fails(&mut start(&["--dir", "/proc:/data"]), 1, &["can't grant /proc"]);
    fails(&mut start(&["--dir", "/usr:/etc/passwd/data"]), 1, &["ENOTDIR: Not a directory"]);
    let told = run(&mut start(&["--dir", "/usr:/etc/passwd/data"]), b"").unwrap().stderr;
    assert_eq!(String::from_utf8_lossy(&told).matches("Not a directory").count(), 1, "{told:?}");

    let state = directory.path().join("store/MANIFEST");
    let mut bytes = fs::read(&state).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&state, bytes).unwrap();
    fails(&mut start(&["--store", &store]), 121, &["MANIFEST"]);
    let mut restore = Command::new(built("cairn-vmm", "cairn"));
    fails(restore.args(["restore", &store]).env("XDG_STATE_HOME", at("state")), 121, &["MANIFEST"]);
    let bad = ["restore", &store, "--at", "newest"];
    fails(Command::new(built("cairn-vmm", "cairn")).args(bad), 2, &["a checkpoint's number"]);
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
