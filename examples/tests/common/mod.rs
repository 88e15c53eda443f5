//! Running an example on every engine that works natively here.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use cairn_guest::{EngineKind, Error, Session};
use cairn_test_host::skipped;

/// The user-level engines of this machine. One that the kernel is too old for is told as left out.
pub(crate) fn engines() -> Vec<EngineKind> {
    let works = |kind: &EngineKind| match Session::open_with(*kind) {
        Ok(_) => true,
        Err(error @ Error::Unavailable { .. }) => {
            skipped(&format!("{kind} doesn't work here: {error}"));
            false
        }
        Err(error) => panic!("{kind}: {error}"),
    };
    EngineKind::USER_LEVEL.into_iter().filter(works).collect()
}

/// Runs `program` on `engine` with `input` on its standard input.
pub(crate) fn run(program: &str, engine: EngineKind, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .env("CAIRN_ENGINE", engine.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A program that ends early leaves its input unread, which is its right.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// What a program wrote to standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
