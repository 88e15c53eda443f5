//! Programs that know nothing of checkpoints, killed with `kill -9` again and again and brought back: what they print is
//! what they print natively.

use std::fs;

use cairn_tests::resume::{Place, Trial, goes_on, is_there, start, wait_for_checkpoint};
use cairn_tests::{guest, run};

/// The same of a mode of the guest that is made for it.
fn goes_on_in(mode: &str, rounds: &str, trial: &Trial<'_>) {
    goes_on(&[guest("guest-resume").to_str().unwrap(), mode, rounds], trial);
}

#[test]
fn registers_are_what_they_were() {
    goes_on_in("registers", "40", &Trial { every: "50ms", kills: 6, within: 300, options: &[] });
}

#[test]
fn memory_that_comes_and_goes_is_what_it_was() {
    goes_on_in("memory", "3000", &Trial { every: "50ms", kills: 6, within: 300, options: &[] });
}

#[test]
fn sleeps_and_clocks_go_on() {
    goes_on_in("time", "20", &Trial { every: "60ms", kills: 4, within: 300, options: &[] });
}

/// Checkpoints fall into the time in which the memory still comes.
#[test]
fn memory_that_is_not_all_there_yet_is_what_it_was() {
    goes_on_in("memory", "500", &Trial { every: "10ms", kills: 20, within: 20, options: &[] });
}

#[test]
fn files_that_are_mapped_after_a_comeback_are_the_files() {
    const FILE: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    if is_there(FILE) {
        let program = guest("guest-resume");
        goes_on(
            &[program.to_str().unwrap(), "mapped", "300", FILE],
            &Trial { every: "10ms", kills: 12, within: 60, options: &[] },
        );
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
    goes_on(
        &["/usr/bin/python3", "-S", "-c", program],
        &Trial { every: "100ms", kills: 6, within: 300, options: &[] },
    );
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
    goes_on(
        &["/usr/bin/sqlite3", ":memory:", statements],
        &Trial { every: "100ms", kills: 5, within: 300, options: &[] },
    );
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
    let granted = place.path().join("granted");
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
