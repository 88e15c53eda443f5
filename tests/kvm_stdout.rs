//! `--stdout FILE`: a file on the host, a pipe to the program, so that what it has written is what is before its end.

use std::fs;
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command};

use cairn_tests::control::Running;
use cairn_tests::place::Place;
use cairn_tests::resume::{Trial, goes_on, is_there, kill_and_restore, start, wait_for_checkpoint};
use cairn_tests::{Printed, run};

const PYTHON: &str = "/usr/bin/python3";

/// Prints how each way to go back in its output ends; natively, by a pipe, none does anything.
const SEEKS: &str = "
import errno, os, stat, sys
def tried(act):
    try: return act()
    except OSError as error: return errno.errorcode[error.errno]
os.write(1, b'a' * 1000 + b'\\n')
again = [os.open(path, os.O_WRONLY | os.O_TRUNC) for path in ['/dev/stdout', '/proc/self/fd/1']]
for fd in [1, os.dup(1)] + again:
    print(*[tried(act) for act in [
        lambda: os.lseek(fd, 100, os.SEEK_SET), lambda: os.lseek(fd, 0, os.SEEK_CUR),
        lambda: os.pwrite(fd, b'x', 0), lambda: os.pwritev(fd, [b'x'], 0), lambda: os.pread(fd, 1, 0),
        lambda: os.ftruncate(fd, 100), lambda: os.posix_fallocate(fd, 0, 10),
        lambda: stat.filemode(os.fstat(fd).st_mode), lambda: os.fstat(fd).st_size,
    ]], flush=True)
print(tried(lambda: os.truncate('/dev/stdout', 0)), sys.stdout.seekable())
for turn in range(300):
    print(turn)
    sys.stdout.flush()
    sys.stdout.buffer.write(b'bytes\\n')
    sys.stdout.flush()
    tried(lambda: os.lseek(1, 100, os.SEEK_SET))
    sum(range(20000))
";

#[test]
fn a_program_that_seeks_loses_nothing() {
    goes_on(&[PYTHON, "-S", "-c", SEEKS], &Trial::new("20ms", 3, 60));
}

/// Prints other lines each time, and doesn't end.
const RANDOM: &str = "
import os, time
while True:
    os.write(1, os.urandom(50).hex().encode() + b'\\n')
    time.sleep(0.01)
";
/// Bytes of such a line.
const LINE: u64 = 101;

/// Waits until `count` further checkpoints were taken, and kills the program; the first one's number.
fn killed_after(count: u32, (mut child, mut told): (Child, BufReader<ChildStderr>)) -> u64 {
    let mut said = String::new();
    let mut take = || wait_for_checkpoint(&mut told, &mut said).unwrap();
    let first = take();
    for _ in 1..count {
        take();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    first
}

/// One of an older checkpoint, whose output is in the place of the newest one's, and that isn't known to the store.
#[test]
fn output_of_another_run_is_not_taken_for_a_checkpoints() {
    if !is_there(PYTHON) {
        return;
    }
    let place = Place::new();
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    let first = killed_after(6, start(place.run_telling("20ms", &[]).args([PYTHON, "-S", "-c", RANDOM])));
    let (output, before) = (place.output_file(), bytes(&place.output_file()));
    let other_run = place.start(&mut place.restore(&["--no-checkpoints", "--at", &first.to_string()]));
    place.wait_for("the cut", || bytes(&output) < before);
    place.wait_for("more output than before", || before < bytes(&output));
    other_run.kill();
    let after = bytes(&output);
    assert!(place.refused(&["restore", "store"]).contains("isn't the program's output any more"));
    assert_eq!(bytes(&output), after);
    fs::remove_file(&output).unwrap();
    assert!(place.refused(&["restore", "store"]).contains("isn't there any more"));
    // In a new file it goes on, and is brought back in that, but not to what was before it.
    let other = place.path("other");
    let new = killed_after(3, start(&mut place.restore_telling(&["--stdout", other.to_str().unwrap()])));
    killed_after(1, start(&mut place.restore_telling(&[])));
    assert!(0 < bytes(&other) && bytes(&other).is_multiple_of(LINE));
    let at = |id: u64| place.refused(&["restore", "store", "--at", &id.to_string()]);
    assert!(at(new - 1).contains("was cut off"));
}

/// As a log is rotated: checkpoints are taken all the same, and say later what they can't bring back.
#[test]
fn output_that_somebody_cuts_off_costs_no_checkpoint() {
    let place = Place::new();
    let mut running = place.start_program(&["--name", "job"], &["/usr/bin/cat"]);
    let say = |running: &mut Running, line: &[u8]| running.input.as_mut().unwrap().write_all(line).unwrap();
    say(&mut running, b"before\n");
    place.wait_for("the line", || place.output() == "before\n");
    fs::write(place.output_file(), "").unwrap();
    let cut = place.checkpoint("job");
    running.kill();
    assert!(place.refused(&["restore", "store"]).contains("isn't the program's output any more"));
    let mut restore = place.restore(&["--stdout", place.path("other").to_str().unwrap()]);
    let mut running = place.start(&mut restore);
    say(&mut running, b"after\n");
    let other = || fs::read_to_string(place.path("other")).unwrap_or_default();
    place.wait_for("the other line", || other() == "after\n");
    assert!(cut < place.checkpoint("job"));
    assert_eq!(running.end(), Some(0));
}

/// What each way to wait finds at a pipe that can be written, now and after checkpoints.
const WAITS: &str = "
import errno, select
def tried(act):
    try: return act()
    except OSError as error: return errno.errorcode[error.errno]
kept = select.epoll()
kept.register(1, select.EPOLLIN | select.EPOLLOUT)
for turn in range(200):
    poll, epoll = select.poll(), select.epoll()
    poll.register(1, select.POLLIN | select.POLLOUT | select.POLLPRI)
    said = [poll.poll(-1), select.select([1], [1], [1], 0), select.select([], [1], []), kept.poll()]
    said += [tried(lambda: epoll.register(1)), tried(lambda: epoll.register(1)), epoll.poll()]
    for events in [0, select.EPOLLIN, select.EPOLLOUT | select.EPOLLET, select.EPOLLOUT | select.EPOLLONESHOT]:
        said += [epoll.modify(1, events), epoll.poll(0), epoll.poll(0)]
    said += [tried(lambda: epoll.unregister(1)), tried(lambda: epoll.unregister(1))]
    print(turn, *said, flush=True)
    sum(range(20000))
";

#[test]
fn a_program_waits_for_it_as_for_a_pipe() {
    goes_on(&[PYTHON, "-S", "-c", WAITS], &Trial::new("20ms", 2, 40));
}

/// What programs do with a standard output that is a pipe they do with this one.
#[test]
fn programs_write_it_as_a_pipe() {
    let place = Place::new();
    let file = place.path("file");
    fs::write(&file, vec![b'z'; 100_000]).unwrap();
    let file = file.to_str().unwrap();
    let (input, sql) =
        (format!("if={file}"), "create table t(x); insert into t values (1), (2); select * from t;");
    for program in [
        &[PYTHON, "-S", "-c", SEEKS][..],
        &["/usr/bin/cp", file, "/dev/stdout"],
        &["/usr/bin/cat", file],
        &["/usr/bin/dd", "bs=4096", "status=none", &input, "of=/dev/stdout"],
        &["/usr/bin/tar", "--create", "--file=-", "--absolute-names", file],
        &["/usr/bin/sqlite3", ":memory:", sql],
    ] {
        if !is_there(program[0]) {
            continue;
        }
        let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
        assert_eq!(native.status, Some(0), "{native:?}");
        let _ = fs::remove_dir_all(place.store());
        let (printed, _) = kill_and_restore(&place, &Trial::new("10m", 0, 1), program);
        let same = printed.status == Some(0) && printed.out == native.out;
        let told = String::from_utf8_lossy(&printed.err);
        assert!(same, "{program:?}: {}\n{told}", native.difference(&printed));
    }
}
