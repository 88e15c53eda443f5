//! What a run of cargo's tests says, read from its output: which tests failed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Before the names of the tests that failed, and once before what they printed.
const FAILURES: &str = "failures:";
/// Before each of these names.
const INDENT: &str = "    ";
/// Begins the last line of a target that failed.
const FAILED: &str = "test result: FAILED.";
/// Begins cargo's line after a target that failed, also after one that ended before its last line.
const TARGET_FAILED: &str = "error: test failed, to rerun pass";

/// Reads output as it comes, and keeps the names of the tests that failed, by target.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// The beginning of a line whose end is still to come.
    line: Vec<u8>,
    /// The target that runs.
    target: String,
    /// In a list of names.
    is_list: bool,
    /// The names by target; none of a target that ended before it told them.
    failed: BTreeMap<String, Vec<String>>,
}

impl Failures {
    /// Of one target, whose name cargo doesn't say.
    pub(crate) fn of(target: &str) -> Self {
        Self { target: target.to_owned(), ..Self::default() }
    }

    /// Reads further output.
    pub(crate) fn read(&mut self, output: &[u8]) {
        for part in output.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.read_line(String::from_utf8_lossy(&line).trim_end());
            }
        }
    }

    fn read_line(&mut self, line: &str) {
        if let Some(target) = running(line) {
            self.target = target;
        }
        match line.strip_prefix(INDENT) {
            Some(name) if self.is_list => self.of_target().push(name.to_owned()),
            _ => self.is_list = line == FAILURES,
        }
        if line.starts_with(FAILED) || line.starts_with(TARGET_FAILED) {
            self.of_target();
        }
    }

    fn of_target(&mut self) -> &mut Vec<String> {
        self.failed.entry(self.target.clone()).or_default()
    }

    /// The names of all that failed: "kvm_run: a, b; tidy".
    pub(crate) fn names(&self) -> String {
        let of = |(target, tests): (&String, &Vec<String>)| match tests.as_slice() {
            [] => target.clone(),
            tests => format!("{target}: {}", tests.join(", ")),
        };
        self.failed.iter().map(of).collect::<Vec<_>>().join("; ")
    }
}

/// The target of a line with which cargo says that it runs one.
fn running(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{package}'s documentation"));
    }
    let (_, file) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let file = Path::new(file).file_name()?.to_str()?;
    // Cargo adds a hash to a target's name.
    Some(file.rsplit_once('-').map_or(file, |(target, _)| target).to_owned())
}

/// Runs a command that runs tests, with its output in one stream to `out`; what failed, if anything did.
///
/// # Errors
/// It can't be run, or its output not be passed on.
pub(crate) fn of_tests(command: &mut Command, out: &mut dyn Write) -> Result<Option<String>> {
    let (output, input) = io::pipe().context("a pipe for the tests' output")?;
    command.stderr(input.try_clone().context("a pipe for the tests' output")?).stdout(input);
    let mut failures = Failures::default();
    let status = process::pass_on(command, output, &mut |chunk| {
        failures.read(chunk);
        out.write_all(chunk).and_then(|()| out.flush()).context("passing the tests' output on")
    })?;
    let names = failures.names();
    Ok((!status.success()).then_some(if names.is_empty() { process::SEE_ABOVE.to_owned() } else { names }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cargo and libtest write it.
    const RECORDED: &str = "\
   Compiling cairn-tests v0.1.0 (/cairn/tests)
     Running unittests src/lib.rs (target/debug/deps/cairn_vmm-0123456789abcdef)

running 2 tests
test memory::tests::a ... ok
test memory::tests::b ... FAILED

failures:

---- memory::tests::b stdout ----

thread 'memory::tests::b' panicked at vmm/src/memory/mod.rs:1:1:
    assertion failed


failures:
    memory::tests::b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p cairn-vmm --lib`
     Running kvm_control.rs (target/debug/deps/kvm_control-0123456789abcdef)

running 2 tests
test a_b_c ... FAILED
test d ... FAILED

failures:

---- a_b_c stdout ----
---- d stdout ----

failures:
    a_b_c
    d

test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p cairn-tests --test kvm_control`
     Running kvm_ends.rs (target/debug/deps/kvm_ends-0123456789abcdef)

running 1 test
error: test failed, to rerun pass `-p cairn-tests --test kvm_ends`

Caused by:
  process didn't exit successfully: `kvm_ends` (signal: 6, SIGABRT: process abort signal)
     Running tidy.rs (target/debug/deps/tidy-0123456789abcdef)

running 1 test
test one ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests cairn_guest

running 1 test
test guest-lib/src/lib.rs - arena (line 3) ... FAILED

failures:

failures:
    guest-lib/src/lib.rs - arena (line 3)

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: doctest failed, to rerun pass `-p cairn-guest --doc`
error: 4 targets failed:
    `-p cairn-vmm --lib`
    `-p cairn-tests --test kvm_control`
";

    #[test]
    fn what_failed_is_read_from_the_output_in_pieces_of_any_size() {
        for size in [1, 7, RECORDED.len()] {
            let mut failures = Failures::default();
            RECORDED.as_bytes().chunks(size).for_each(|chunk| failures.read(chunk));
            assert_eq!(
                failures.names(),
                "cairn_guest's documentation: guest-lib/src/lib.rs - arena (line 3); cairn_vmm: memory::tests::b; \
                 kvm_control: a_b_c, d; kvm_ends"
            );
        }
        let mut passed = Failures::of("tidy");
        passed.read(b"failures:\n\ntest result: ok. 1 passed; 0 failed\n");
        assert_eq!(passed.names(), "");
    }

    #[test]
    fn both_outputs_are_passed_on_and_the_status_counts() {
        let mut passed_on = Vec::new();
        let mut of_tests = |command: &mut Command| of_tests(command, &mut passed_on);
        let mut told = Command::new("sh");
        told.args(["-c", "echo '     Running x.rs (t/x-1)' >&2; echo 'failures:'; echo '    y'; exit 1"]);
        assert_eq!(of_tests(&mut told).unwrap().as_deref(), Some("x: y"));
        let mut silent = Command::new("sh");
        assert_eq!(of_tests(silent.args(["-c", "exit 1"])).unwrap().as_deref(), Some(process::SEE_ABOVE));
        let mut passes = Command::new("sh");
        assert_eq!(of_tests(passes.args(["-c", "echo 'failures:'; echo '    y'"])).unwrap(), None);
        assert!(of_tests(&mut Command::new("/no/such/program")).is_err());
        let lines = "     Running x.rs (t/x-1)\nfailures:\n    y\nfailures:\n    y\n";
        assert_eq!(String::from_utf8(passed_on).unwrap(), lines);
    }
}
