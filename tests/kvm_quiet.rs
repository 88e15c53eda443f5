//! What needn't be done isn't: exits, system calls and protection, counted.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cairn_tests::{cairn_run, guest, run};

/// Checkpoints of a round.
const CHECKPOINTS: u64 = 2000;
/// Requests for figures in a round.
const QUERIES: u64 = 2;
/// What else may count as an exit in a round: a line is read and one is written, calls of the rounds before and after
/// are counted when the program is still on its way, and signals and interrupts of the host may end a run. Far
/// fewer than checkpoints, of which none makes a system call.
const OTHERS: u64 = CHECKPOINTS / 20;
/// Rounds after which a thread that polls must have had a core for a moment.
const ROUNDS: usize = 50;

struct Quiet {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What `cairn stats` has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    exits: u64,
    calls_without_exit: u64,
    notifications: u64,
    requests_without_exit: u64,
}

impl Quiet {
    fn start(directory: &Path, options: &[&str]) -> Self {
        let mut command = cairn_run(options);
        command.arg(guest("guest-quiet")).env("XDG_RUNTIME_DIR", directory);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    /// Has it take checkpoints; answers the pages that changed and those that were protected.
    fn epochs(&mut self, kind: &str, epochs: u64) -> [u64; 2] {
        writeln!(self.input, "{kind} {epochs}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        [1, 3].map(|at| words[at].parse().unwrap())
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}

fn counts(directory: &Path) -> Counts {
    let cairn = cairn_run(&[]).get_program().to_owned();
    let mut command = Command::new(cairn);
    let output = run(command.args(["stats", "--raw"]).env("XDG_RUNTIME_DIR", directory), b"").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    };
    Counts {
        exits: value("exits"),
        calls_without_exit: value("calls_without_exit"),
        notifications: value("notifications"),
        requests_without_exit: value("requests_without_exit"),
    }
}

/// What a round adds.
fn round(quiet: &mut Quiet, directory: &Path) -> Counts {
    let before = counts(directory);
    quiet.epochs("idle", CHECKPOINTS);
    let after = counts(directory);
    Counts {
        exits: after.exits - before.exits,
        calls_without_exit: after.calls_without_exit - before.calls_without_exit,
        notifications: after.notifications - before.notifications,
        requests_without_exit: after.requests_without_exit - before.requests_without_exit,
    }
}

impl Counts {
    /// System calls, and whatever else isn't a request to the device.
    fn others(self) -> u64 {
        self.exits + self.calls_without_exit - self.notifications
    }
}

/// A machine that is busy with others may leave the polling thread without a core, and then requests are exits. So
/// it's counted how each was served: one that was polled for makes no exit, and none makes a system call.
#[test]
fn a_checkpoint_without_a_change_leaves_the_guest_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut quiet = Quiet::start(directory.path(), &["--poll", "always"]);
    quiet.epochs("idle", 100);
    let polled = (0..ROUNDS).find(|_| {
        let many = round(&mut quiet, directory.path());
        assert!(many.others() <= OTHERS, "{many:?}");
        // Of late answers both are counted.
        assert!(CHECKPOINTS <= many.requests_without_exit + many.notifications, "{many:?}");
        0 < many.requests_without_exit
    });
    quiet.end();
    assert!(polled.is_some(), "all checkpoints were exits, always");
}

#[test]
fn where_nobody_polls_a_checkpoint_is_one_exit() {
    let directory = tempfile::tempdir().unwrap();
    let mut quiet = Quiet::start(directory.path(), &["--poll", "never"]);
    quiet.epochs("idle", 1);
    let many = round(&mut quiet, directory.path());
    quiet.end();
    assert_eq!(many.notifications, CHECKPOINTS + QUERIES);
    assert!(many.others() <= OTHERS, "{many:?}");
    assert_eq!((many.calls_without_exit, many.requests_without_exit), (0, 0));
}

#[test]
fn pages_that_stay_hot_are_protected_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut quiet = Quiet::start(directory.path(), &["--tracker", "bitmap"]);
    quiet.epochs("hot", 20);
    assert_eq!(quiet.epochs("hot", 50), [50 * 100, 0]);
    // And when they are left alone, they are.
    let [changed, protected] = quiet.epochs("idle", 50);
    assert_eq!((changed, protected), (0, 100));
    quiet.end();
}
