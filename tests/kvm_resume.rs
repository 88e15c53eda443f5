//! Programs that know nothing of checkpoints, killed with `kill -9` again and again and brought back: what they print is
//! what they print natively.

use std::fs;
use std::io::{BufReader, ErrorKind};
use std::path::Path;
use std::process::{Child, ChildStderr, Command};

use cairn_tests::place::Place;
use cairn_tests::resume::{ATTEMPTS, Trial, goes_on, goes_on_at, is_there, start, wait_for_checkpoint};
use cairn_tests::{Printed, guest, kills, run};

/// Where programs change files.
const GRANTED: &str = "granted";
/// What lets a program change the files in [`GRANTED`].
const OVERLAY: [&str; 3] = ["--dir", "granted:rw", "--overlay"];

/// The same of a mode of the guest that is made for it.
fn goes_on_in(mode: &str, rounds: &str, trial: &Trial<'_>) {
    goes_on(&[guest("guest-resume").to_str().unwrap(), mode, rounds], trial);
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
        made(place.directory());
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
        let output = run(&mut place.restore_telling(options), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended = output.status.code().is_some_and(|code| code != 0 && code != 101);
        let told = expected.iter().all(|text| err.contains(text));
        assert!(ended && told, "{options:?}: {}\n{err}\nexpected {expected:?}", output.status);
    };
    refused(&[], &["store"]);
    let granted = place.path("granted");
    fs::create_dir(&granted).unwrap();
    let options = ["--dir", granted.to_str().unwrap()];
    let (mut child, mut told) = start(place.run_telling("50ms", &options).args([program, "time", "1000"]));
    assert!(wait_for_checkpoint(&mut told, &mut String::new()).is_some());
    // The store has one writer, and the file of standard output too.
    for options in [&[][..], &["--no-checkpoints"]] {
        let before = fs::metadata(place.output_file()).unwrap().len();
        refused(options, &["in use by"]);
        assert!(before <= fs::metadata(place.output_file()).unwrap().len(), "output was cut back");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    refused(&["--at", "999999"], &["999999"]);
    fs::remove_dir(&granted).unwrap();
    refused(&[], &["granted"]);
    fs::create_dir(&granted).unwrap();
    // Less output than the program had written.
    let (mut child, mut told) = start(&mut place.restore_telling(&[]));
    let mut said = String::new();
    while fs::metadata(place.output_file()).unwrap().len() < 20 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some());
    }
    // One that is taken from now on: what is told may be of long ago, and one may be being written.
    let newest = cairn_store::Store::open(&place.store()).unwrap().checkpoints().last().unwrap().id.0;
    while wait_for_checkpoint(&mut told, &mut said).unwrap() < newest + 2 {}
    child.kill().unwrap();
    child.wait().unwrap();
    let output = fs::read(place.output_file()).unwrap();
    for other in [&b""[..], &[b'x'; 1 << 16], &[b"x", &output[1..]].concat()] {
        fs::write(place.output_file(), other).unwrap();
        refused(&[], &["isn't the program's output any more"]);
    }
    // So that nothing but the damage is in the way.
    fs::write(place.output_file(), output).unwrap();
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

/// The ids of the checkpoints in a store; none if there is none.
fn checkpoints(store: &Path) -> Vec<u64> {
    let store = cairn_store::Store::open(store);
    store.map_or_else(|_| Vec::new(), |store| store.checkpoints().iter().map(|known| known.id.0).collect())
}

/// A program that runs with a checkpoint every 20 ms, and its rounds natively.
fn begun(place: &Place) -> (Child, BufReader<ChildStderr>, Printed) {
    let program = guest("guest-resume");
    let arguments = [program.to_str().unwrap(), "time", "60"];
    let native = Printed::from(run(Command::new(arguments[0]).args(&arguments[1..]), b"").unwrap());
    let (child, told) = start(place.run_telling("20ms", &[]).args(arguments));
    (child, told, native)
}

/// Kills a program, and checks that it comes back and prints all that it does natively.
fn ends_natively(place: &Place, mut child: Child, native: &Printed) {
    child.kill().unwrap();
    child.wait().unwrap();
    let output = run(&mut place.restore_telling(&[]), b"").unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && fs::read(place.output_file()).unwrap() == native.out, "{told}");
}

/// `rm -rf` of a store that is being written: what it held is lost, and the program is safe again soon.
#[test]
fn a_store_that_somebody_deletes_is_made_anew() {
    let place = Place::new();
    let (child, mut told, native) = begun(&place);
    let mut said = String::new();
    let newest = wait_for_checkpoint(&mut told, &mut said).unwrap();
    // The writer may make a file meanwhile.
    while fs::remove_dir_all(place.store()).is_err_and(|error| error.kind() != ErrorKind::NotFound) {}
    while checkpoints(&place.store()).len() < 3 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some(), "no new store: {said}");
    }
    assert!(newest < checkpoints(&place.store())[0], "{said}");
    ends_natively(&place, child, &native);
}

/// The one that is gone on from is the oldest of those that are kept, so that it's dropped when another one follows.
#[test]
fn what_goes_on_from_the_last_one_that_is_kept_is_checkpointed() {
    let place = Place::new();
    let (mut child, mut told, native) = begun(&place);
    let mut said = String::new();
    while checkpoints(&place.store()).len() < 5 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some(), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = checkpoints(&place.store());
    // With fewer it would be gone at once, and with it all that it is of use for.
    let at = before[0].to_string();
    let with_keep = |keep: usize| place.restore_telling(&["--at", &at, "--keep", &keep.to_string()]);
    let refused = Printed::from(run(&mut with_keep(before.len() - 1), b"").unwrap());
    let told = String::from_utf8_lossy(&refused.err);
    let advice = format!("keep {} or more", before.len());
    assert!(refused.status == Some(1) && told.contains(&advice), "{told}");
    assert_eq!(checkpoints(&place.store()), before);
    let (child, mut told) = start(&mut with_keep(before.len()));
    for _ in 0..2 {
        let taken = wait_for_checkpoint(&mut told, &mut said);
        assert!(taken.is_some_and(|id| before[before.len() - 1] < id), "{taken:?}: {said}");
    }
    ends_natively(&place, child, &native);
}
