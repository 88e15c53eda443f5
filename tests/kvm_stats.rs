//! `cairn stats` beside running guests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cairn_tests::{cairn_run, guest, run};

/// A guest that has taken three checkpoints and gone back once.
struct Waiting {
    child: Child,
    input: ChildStdin,
    _output: BufReader<ChildStdout>,
}

fn wait_in_guest(directory: &Path) -> Waiting {
    let mut command = cairn_run(&[]);
    command.arg(guest("guest-waiting")).env("XDG_RUNTIME_DIR", directory);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Waiting { child, input, _output: output }
}

impl Waiting {
    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}

/// What `cairn stats` prints with these arguments, and whether it is content.
fn stats(directory: &Path, arguments: &[&str]) -> (String, bool) {
    let cairn = cairn_run(&[]).get_program().to_owned();
    let mut command = Command::new(cairn);
    let output = run(command.arg("stats").args(arguments).env("XDG_RUNTIME_DIR", directory), b"").unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

#[test]
fn each_running_guest_tells_its_figures() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(stats(directory.path(), &[]), (String::new(), false));
    let (one, other) = (wait_in_guest(directory.path()), wait_in_guest(directory.path()));
    let (text, _) = stats(directory.path(), &["--raw"]);
    for guest in [&one, &other] {
        assert!(text.contains(&format!("pid {}\n", guest.child.id())), "{text}");
    }
    let pid = one.child.id().to_string();
    let (text, content) = stats(directory.path(), &[&pid, "--raw"]);
    assert!(content && !text.contains(&format!("pid {}\n", other.child.id())), "{text}");
    let lines = ["kind app", "session 0", "  regions 1", "  checkpoints 3", "  retained 3", "  rollbacks 1"];
    for line in lines {
        assert!(text.lines().any(|told| told == line), "{line:?} isn't in {text}");
    }
    assert!(text.contains("guest-waiting") && text.contains("\n  mirror_bytes "), "{text}");
    let (text, content) = stats(directory.path(), &[&pid]);
    assert!(content && text.contains("KiB") && !text.contains("_bytes"), "{text}");
    one.end();
    assert_eq!(stats(directory.path(), &[&pid]), (String::new(), false));
    other.end();
    let left = std::fs::read_dir(directory.path().join("cairn")).unwrap().count();
    assert_eq!(left, 0, "a socket is left");
}
