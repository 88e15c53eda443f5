//! wordfreq against coreutils, with and without damage, on every engine.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{complaint, engines, run};

const WORDFREQ: &str = env!("CARGO_BIN_EXE_wordfreq");
/// The pipeline that --help names.
const REFERENCE: &str = "cat \"$@\" | tr -cs '[:alnum:]' '\\n' | grep . | sort | uniq -c";

/// Real text, of every Debian machine.
fn licences() -> Vec<PathBuf> {
    let mut texts: Vec<_> =
        std::fs::read_dir("/usr/share/common-licenses").unwrap().map(|entry| entry.unwrap().path()).collect();
    texts.sort();
    assert!(!texts.is_empty());
    texts
}

fn reference(files: &[PathBuf]) -> Vec<u8> {
    let mut shell = Command::new("sh");
    shell.env("LC_ALL", "C").args(["-c", REFERENCE, "sh"]).args(files).stderr(Stdio::inherit());
    let output = shell.output().unwrap();
    assert!(!output.stdout.is_empty());
    output.stdout
}

fn args<'a>(files: &'a [PathBuf], options: &[&'a str]) -> Vec<&'a str> {
    files.iter().map(|path| path.to_str().unwrap()).chain(options.iter().copied()).collect()
}

/// A file of the given lines.
fn text(directory: &Path, lines: impl Iterator<Item = String>) -> Vec<PathBuf> {
    let path = directory.join("text");
    std::fs::write(&path, lines.map(|line| line + "\n").collect::<String>()).unwrap();
    vec![path]
}

#[test]
fn help_names_the_reference() {
    let help = String::from_utf8(Command::new(WORDFREQ).arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains(&REFERENCE.replace("\"$@\"", "FILE...")), "{help}");
}

#[test]
fn counts_are_those_of_coreutils_on_every_engine() {
    let files = licences();
    let expected = reference(&files);
    for engine in engines() {
        let output = run(WORDFREQ, engine, &args(&files, &[]), b"");
        assert!(output.status.success(), "{engine}: {}", complaint(&output));
        assert!(output.stdout == expected, "{engine}: the counts differ");
        assert!(complaint(&output).contains(&format!("kept by: {engine}")), "{}", complaint(&output));
    }
}

#[test]
fn damage_is_noticed_told_and_undone_on_every_engine() {
    let files = licences();
    let expected = reference(&files);
    for engine in engines() {
        let output = run(WORDFREQ, engine, &args(&files, &["--corrupt-at", "2345", "--every", "500"]), b"");
        assert!(output.status.success(), "{engine}: {}", complaint(&output));
        let told = complaint(&output);
        assert!(
            told.contains("damaged") && told.contains("rolling back, going on from line "),
            "{engine}: {told}"
        );
        assert!(output.stdout == expected, "{engine}: the counts differ");
    }
}

#[test]
fn damage_anywhere_leaves_the_same_counts() {
    let directory = tempfile::tempdir().unwrap();
    // So many different words that the map grows several times.
    let files = text(directory.path(), (0..9000).map(|line| format!("a{} b{} c", line, line % 700)));
    let expected = reference(&files);
    for line in ["1", "2", "999", "1000", "1001", "1536", "8999", "9000"] {
        let output = run(WORDFREQ, engines()[0], &args(&files, &["--corrupt-at", line]), b"");
        assert!(output.status.success(), "line {line}: {}", complaint(&output));
        assert_eq!(
            complaint(&output).matches("rolling back").count(),
            1,
            "line {line}: {}",
            complaint(&output)
        );
        assert!(output.stdout == expected, "line {line}: the counts differ");
    }
}

#[test]
fn a_line_that_the_text_does_not_have_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let files = text(directory.path(), (0..3).map(|line| format!("{line}")));
    let output = run(WORDFREQ, engines()[0], &args(&files, &["--corrupt-at", "4"]), b"");
    assert!(output.status.success());
    assert!(complaint(&output).contains("ends before line 4"), "{}", complaint(&output));
}

#[test]
fn what_cannot_be_counted_is_one_clear_error() {
    let output = run(WORDFREQ, engines()[0], &["/no/such/file"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("/no/such/file"), "{}", complaint(&output));
    for bad in [&[][..], &["x", "--every", "0"], &["x", "--corrupt-at", "0"]] {
        assert_eq!(run(WORDFREQ, engines()[0], bad, b"").status.code(), Some(2), "{bad:?}");
    }
}
