//! Programs that know nothing of checkpoints, killed with `kill -9` again and again and brought back: what they print is
//! what they print natively.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_tests::random::Random;
use cairn_tests::{Printed, built, cairn_run, guest, kills, run};

/// How often a program is begun so that it's killed at least once.
const ATTEMPTS: u32 = 10;
/// What `cairn -v` says of each checkpoint.
const TAKEN: &str = "a checkpoint of the program";

/// What lets a program change the files in [`GRANTED`].
const OVERLAY: [&str; 3] = ["--dir", "granted:rw", "--overlay"];

/// A store, the file of standard output, and the directory that both are in.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir_in("/var/tmp").unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// `cairn run` with a checkpoint every `every`.
    fn run(&self, every: &str, options: &[&str]) -> Command {
        let (store, output) = (self.store(), self.output());
        let mut all = vec!["-v", "--store", store.to_str().unwrap(), "--every", every];
        all.extend(["--stdout", output.to_str().unwrap()]);
        all.extend(options);
        let mut command = cairn_run(&all);
        command.current_dir(self.directory.path());
        command
    }

    fn restore(&self, options: &[&str]) -> Command {
        let mut command = Command::new(built("cairn-vmm", "cairn"));
        command.arg("restore").arg("-v").args(options).arg(self.store());
        command.env_remove("RUST_LOG").current_dir(self.directory.path());
        command
    }
}

fn start(command: &mut Command) -> (Child, BufReader<ChildStderr>) {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let told = BufReader::new(child.stderr.take().unwrap());
    (child, told)
}

/// Reads what is told until a checkpoint was taken; its id, or None at the program's end.
fn wait_for_checkpoint(told: &mut BufReader<ChildStderr>, all: &mut String) -> Option<u64> {
    loop {
        let before = all.len();
        if told.read_line(all).unwrap() == 0 {
            return None;
        }
        if let Some((_, rest)) = all[before..].split_once(TAKEN) {
            let id = rest.split_whitespace().find_map(|word| word.strip_prefix("id="));
            return Some(id.unwrap().parse().unwrap());
        }
    }
}

/// What is done to a program.
struct Trial<'a> {
    /// Between two checkpoints.
    every: &'a str,
    /// How often it's killed, if it runs for so long.
    kills: u32,
    /// Each time this long after a checkpoint at most, milliseconds.
    within: u64,
    /// Further options of `cairn run`.
    options: &'a [&'a str],
}

impl<'a> Trial<'a> {
    const fn new(every: &'a str, kills: u32, within: u64) -> Self {
        Self { every, kills, within, options: &[] }
    }
}

/// Runs a program under `--every`, kills it at random moments, and brings it back each time. What it printed, how it
/// ended, and how often it was killed.
fn kill_and_restore(place: &Place, trial: &Trial<'_>, program: &[&str]) -> (Printed, u32) {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = Random(u64::from(seed) << 8 | 1);
    let mut all = format!("seed {seed}\n");
    let (mut child, mut told) = start(place.run(trial.every, trial.options).args(program));
    let mut killed = 0;
    while killed < trial.kills && wait_for_checkpoint(&mut told, &mut all).is_some() {
        // Any moment will do: between checkpoints, in the midst of one, before the memory is all there.
        std::thread::sleep(Duration::from_millis(random.below(trial.within)));
        child.kill().unwrap();
        if child.wait().unwrap().code().is_some() {
            break;
        }
        killed += 1;
        (child, told) = start(&mut place.restore(&[]));
    }
    while wait_for_checkpoint(&mut told, &mut all).is_some() {}
    let status = child.wait().unwrap().code();
    (Printed { status, out: fs::read(place.output()).unwrap(), err: all.into_bytes() }, killed)
}

/// Checks that a program prints natively and through kills the same.
fn goes_on(program: &[&str], trial: &Trial<'_>) {
    let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
    assert_eq!(native.status, Some(0), "{native:?}");
    // Where the machine is busy with others, a program may have ended before its first checkpoint is told.
    for _ in 0..ATTEMPTS {
        if 0 < goes_on_as(&native, program, trial) {
            return;
        }
    }
    panic!("{program:?} ended before it was killed, always");
}

/// One attempt; how often it was killed.
fn goes_on_as(native: &Printed, program: &[&str], trial: &Trial<'_>) -> u32 {
    goes_on_at(&Place::new(), native, program, trial)
}

fn goes_on_at(place: &Place, native: &Printed, program: &[&str], trial: &Trial<'_>) -> u32 {
    let (printed, killed) = kill_and_restore(place, trial, program);
    let told = String::from_utf8_lossy(&printed.err).into_owned();
    let same = printed.status == Some(0) && printed.out == native.out;
    assert!(same, "{program:?}, killed {killed} times: {}\n{told}", native.difference(&printed));
    killed
}

/// The same of a mode of the guest that is made for it.
fn goes_on_in(mode: &str, rounds: &str, trial: &Trial<'_>) {
    goes_on(&[guest("guest-resume").to_str().unwrap(), mode, rounds], trial);
}

fn is_there(program: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        eprintln!("skipped: there is no {program}");
    }
    there
}

#[test]
fn registers_are_what_they_were() {
    goes_on_in("registers", "40", &Trial::new("50ms", kills(6), 300));
}

#[test]
fn memory_that_comes_and_goes_is_what_it_was() {
    // On a fast machine all kills come in the first half.
    let trial = Trial::new("50ms", kills(6), 300);
    goes_on_in("memory", &(40 * trial.kills).to_string(), &trial);
}

#[test]
fn sleeps_and_clocks_go_on() {
    goes_on_in("time", "20", &Trial::new("60ms", kills(4), 300));
}

/// Checkpoints fall into the time in which the memory still comes.
#[test]
fn memory_that_is_not_all_there_yet_is_what_it_was() {
    let trial = Trial::new("10ms", kills(20), 20);
    goes_on_in("memory", &(8 * trial.kills).to_string(), &trial);
}

#[test]
fn files_that_are_mapped_after_a_comeback_are_the_files() {
    const FILE: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    if is_there(FILE) {
        let trial = Trial::new("10ms", kills(12), 60);
        let (program, rounds) = (guest("guest-resume"), (25 * trial.kills).to_string());
        goes_on(&[program.to_str().unwrap(), "mapped", &rounds, FILE], &trial);
    }
}

/// Where programs change files.
const GRANTED: &str = "granted";

/// As [`goes_on`] for a program that changes the files in its directory [`GRANTED`], which `prepare` fills: that is one
/// of its own natively, and an overlay in the guest.
fn goes_on_with_files(prepare: impl Fn(&Path), program: &[&str], trial: &Trial<'_>) {
    let made = |parent: &Path| {
        fs::create_dir(parent.join(GRANTED)).unwrap();
        prepare(&parent.join(GRANTED));
    };
    let natively = tempfile::tempdir_in("/var/tmp").unwrap();
    made(natively.path());
    let mut command = Command::new(program[0]);
    let native = Printed::from(run(command.args(&program[1..]).current_dir(&natively), b"").unwrap());
    assert_eq!(native.status, Some(0), "{native:?}");
    for _ in 0..ATTEMPTS {
        let place = Place::new();
        made(place.directory.path());
        if 0 < goes_on_at(&place, &native, program, trial) {
            return;
        }
    }
    panic!("{program:?} ended before it was killed, always");
}

/// A file that was there, one that wasn't, and one in memory that has no name any more.
#[test]
fn mappings_of_files_show_what_is_written_to_them() {
    let program = guest("guest-resume");
    let prepare = |directory: &Path| fs::write(directory.join("there"), vec![0; 20 * 4096]).unwrap();
    let trial = Trial { options: &OVERLAY, ..Trial::new("15ms", kills(10), 80) };
    let private = format!("/tmp/cairn-coherent-{}", std::process::id());
    goes_on_with_files(
        prepare,
        &[program.to_str().unwrap(), "coherent", "300", "granted/there", "granted/new", &private],
        &trial,
    );
}

/// Reads by a mapping of the database, and a write-ahead log, whose index is a mapping that is written to.
#[test]
fn sqlite_goes_on_with_a_mapped_database() {
    if !is_there("/usr/bin/sqlite3") {
        return;
    }
    for mode in ["delete", "wal"] {
        let work: String = (0..120)
            .map(|round| {
                format!(
                    "UPDATE t SET b = hex(a * {round}) WHERE a % 97 = {round} % 97;\
                     INSERT INTO t SELECT a + 100000 * {round} + 20000, b FROM t WHERE a % 1009 = {round};\
                     SELECT count(*), sum(length(b)), max(b) FROM t;"
                )
            })
            .collect();
        let statements = format!(
            "PRAGMA mmap_size = 268435456; PRAGMA journal_mode = {mode};\
             CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
             INSERT INTO t SELECT i, hex(i * 7919) FROM n;{work}PRAGMA integrity_check;"
        );
        let trial = Trial { options: &OVERLAY, ..Trial::new("60ms", kills(6), 250) };
        goes_on_with_files(|_| (), &["/usr/bin/sqlite3", "granted/base", &statements], &trial);
    }
}

#[test]
fn python_computes_on() {
    if !is_there("/usr/bin/python3") {
        return;
    }
    let program = "import hashlib\nh = b'seed'; kept = []\nfor i in range(1500000):\n h = hashlib.sha256(h).digest()\n \
                   if i % 1000 == 0: kept.append(h.hex())\n if i % 50000 == 0: print(i, h.hex(), flush=True)\n\
                   print(len(kept), hash(tuple(len(k) for k in kept)), h.hex())\n";
    goes_on(&["/usr/bin/python3", "-S", "-c", program], &Trial::new("100ms", kills(6), 300));
}

#[test]
fn programs_that_replace_each_other_go_on() {
    const PERL: &str = "/usr/bin/perl";
    let program = "$| = 1; my ($n, $code) = @ARGV; print \"$n\\n\"; select(undef, undef, undef, 0.01); \
                   exec '/usr/bin/perl', '-e', $code, $n - 1, $code if $n";
    if is_there(PERL) {
        goes_on(&[PERL, "-e", program, "60", program], &Trial::new("20ms", 8, 100));
    }
}

#[test]
fn sqlite_goes_on_in_memory() {
    if !is_there("/usr/bin/sqlite3") {
        return;
    }
    let statements = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) \
        INSERT INTO t SELECT i, hex(i * 7919) FROM n;\
        CREATE INDEX tb ON t(b);\
        SELECT count(*), sum(length(b)), max(b) FROM t;\
        SELECT sum(x.a * y.a) FROM t x JOIN t y ON y.b = x.b WHERE x.a % 3 = 0;\
        SELECT b FROM t WHERE a % 20011 = 0 ORDER BY b;";
    goes_on(&["/usr/bin/sqlite3", ":memory:", statements], &Trial::new("100ms", kills(5), 300));
}

#[test]
fn what_cant_go_on_says_why() {
    let place = Place::new();
    let program = guest("guest-resume");
    let program = program.to_str().unwrap();
    let refused = |options: &[&str], expected: &[&str]| {
        let output = run(&mut place.restore(options), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended = output.status.code().is_some_and(|code| code != 0 && code != 101);
        let told = expected.iter().all(|text| err.contains(text));
        assert!(ended && told, "{options:?}: {}\n{err}\nexpected {expected:?}", output.status);
    };
    refused(&[], &["store"]);
    let granted = place.directory.path().join("granted");
    fs::create_dir(&granted).unwrap();
    let options = ["--dir", granted.to_str().unwrap()];
    let (mut child, mut told) = start(place.run("50ms", &options).args([program, "time", "1000"]));
    assert!(wait_for_checkpoint(&mut told, &mut String::new()).is_some());
    // The store has one writer, and the file of standard output too.
    for options in [&[][..], &["--no-checkpoints"]] {
        let before = fs::metadata(place.output()).unwrap().len();
        refused(options, &["in use by"]);
        assert!(before <= fs::metadata(place.output()).unwrap().len(), "output was cut back");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    refused(&["--at", "999999"], &["999999"]);
    fs::remove_dir(&granted).unwrap();
    refused(&[], &["granted"]);
    fs::create_dir(&granted).unwrap();
    // Less output than the program had written.
    let (mut child, mut told) = start(&mut place.restore(&[]));
    let mut said = String::new();
    while fs::metadata(place.output()).unwrap().len() < 20 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some());
    }
    // One that is taken from now on: what is told may be of long ago, and one may be being written.
    let newest = cairn_store::Store::open(&place.store()).unwrap().checkpoints().last().unwrap().id.0;
    while wait_for_checkpoint(&mut told, &mut said).unwrap() < newest + 2 {}
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(place.output(), "").unwrap();
    refused(&[], &["isn't the program's output any more"]);
    // So that nothing but the damage is in the way.
    fs::write(place.output(), [b'x'; 1 << 16]).unwrap();
    // Any damage is found, if not at once then when the memory is read: nothing wrong ever runs on.
    for entry in fs::read_dir(place.store()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment")) {
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().skip(300).step_by(997).for_each(|byte| *byte ^= 0x55);
            fs::write(&path, bytes).unwrap();
        }
    }
    refused(&[], &["store verify"]);
}
