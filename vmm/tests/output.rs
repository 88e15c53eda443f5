//! `cairn` where what it says can't be written.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

/// Stands for a disk that is full.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// A command that prints a line on standard output.
fn ps(directory: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.arg("ps").env("XDG_RUNTIME_DIR", directory);
    command
}

#[test]
fn standard_output_on_a_full_disk_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let output = ps(directory.path()).stdout(full()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("cairn: standard output can't be written: No space left"), "{told}");
}

#[test]
fn a_reader_that_has_had_enough_is_no_error_to_speak_of() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = ps(directory.path()).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(141), Vec::new()));
}

#[test]
fn an_error_that_can_not_be_told_is_the_same_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(["store", "ls", "/proc/no-such-store"]);
    let told = command.output().unwrap().status.code();
    assert_eq!(command.stderr(full()).status().unwrap().code(), told);
    assert_eq!(told, Some(1));
}
