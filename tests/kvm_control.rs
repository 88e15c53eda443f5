//! `cairn ps`, `checkpoint` and `rollback` beside running programs: where the program goes back to is seen in what it
//! prints, which is in the end what it prints natively.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_store::Store;
use cairn_tests::control::Running;
use cairn_tests::place::Place;
use cairn_tests::random::Random;
use cairn_tests::resume::is_there;
use cairn_tests::{Printed, cairn_run, guest, run};

/// Lines that the counting program prints: it needs a second for them.
const ROUNDS: &str = "300";

fn run_counting(place: &Place, options: &[&str]) -> Running {
    let program = guest("guest-counting");
    let running = place.start_program(options, &[program.to_str().unwrap(), ROUNDS]);
    place.wait_for("the first line", || place.output().contains('\n'));
    running
}

/// The store's checkpoints.
fn ids(place: &Place) -> Vec<u64> {
    let store = Store::open(&place.store()).unwrap();
    store.checkpoints().iter().map(|checkpoint| checkpoint.id.0).collect()
}

fn parent(place: &Place, id: u64) -> Option<u64> {
    let store = Store::open(&place.store()).unwrap();
    let found = store.checkpoints().iter().find(|checkpoint| checkpoint.id.0 == id).unwrap();
    found.parent.map(|parent| parent.0)
}

fn native() -> String {
    let printed = Printed::from(run(Command::new(guest("guest-counting")).arg(ROUNDS), b"").unwrap());
    assert_eq!(printed.status, Some(0));
    String::from_utf8(printed.out).unwrap()
}

/// Sends bytes to a socket; what is answered.
fn ask(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    // What is too long isn't read to its end.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_program_is_rolled_back_at_random_and_prints_what_it_prints_natively() {
    let place = Place::new();
    let running = run_counting(&place, &["--keep", "12"]);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    eprintln!("seed {seed}");
    let mut random = Random(u64::from(seed) << 8 | 1);
    let native = native();
    place.checkpoint("guest-counting");
    let socket = fs::metadata(place.socket(&running)).unwrap();
    place.rollback("guest-counting", 1);
    let (threads, files) = (running.count("task"), running.count("fd"));
    for _ in 0..20 {
        for _ in 0..random.below(3) {
            place.checkpoint("guest-counting");
        }
        let ids = ids(&place);
        place.rollback("guest-counting", random.of(&ids));
        assert!(native.starts_with(&place.output()), "{} isn't how {native} begins", place.output());
    }
    // The same process with the same socket, which has kept its store all the time, and leaks nothing.
    assert_eq!(socket.permissions(), fs::metadata(place.socket(&running)).unwrap().permissions());
    assert!(place.refused(&["restore", "store"]).contains("in use by"));
    place.wait_for("the program's end", || place.output().lines().count() == native.lines().count() - 1);
    place.wait_for("the old threads' end", || running.count("task") <= threads);
    assert!(running.count("fd") <= files + 2, "{} descriptors, and {files} before", running.count("fd"));
    assert_eq!(running.end(), Some(0));
    assert_eq!(place.output(), native);
}

/// Sessions of the program's own go back with it: its walks check every byte and every checkpoint of theirs.
#[test]
fn a_program_with_sessions_of_its_own_is_rolled_back_at_random() {
    let program = guest("guest-session");
    let program = [program.to_str().unwrap(), "walk", "41", "12", "400"];
    let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
    let native = String::from_utf8(native.out).unwrap();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    eprintln!("seed {seed}");
    let mut random = Random(u64::from(seed) << 8 | 1);
    let mut rolled_back = 0;
    // It may come to its end while it's asked for something.
    for _ in 0..10 {
        let place = Place::new();
        let running = place.start_program(&["--name", "walk"], &program);
        place.wait_for("the first line", || place.output().contains('\n'));
        for _ in 0..12 {
            if place.cairn(&["checkpoint", "walk"]).status != Some(0) {
                break;
            }
            let to = random.of(&ids(&place)).to_string();
            if place.cairn(&["rollback", "walk", &to]).status != Some(0) {
                break;
            }
            rolled_back += 1;
            assert!(native.starts_with(&place.output()), "{} isn't how {native} begins", place.output());
        }
        assert_eq!(running.end(), Some(0));
        assert_eq!(place.output(), native);
        if 12 <= rolled_back {
            return;
        }
    }
    panic!("it ended before it was rolled back, nearly always: {rolled_back} times");
}

#[test]
fn every_checkpoint_has_the_output_that_it_had() {
    output_goes_back_with(&["/bin/cat"]);
}

/// Writing elsewhere than at its end needs another description of the file than the program's.
#[test]
fn output_that_the_program_appends_goes_back_too() {
    const PYTHON: &str = "/usr/bin/python3";
    let program = "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, os.O_APPEND)\n\
                   while line := os.read(0, 4096): os.write(1, line)";
    if is_there(PYTHON) {
        output_goes_back_with(&[PYTHON, "-S", "-c", program]);
    }
}

/// Rolls a program that prints what it reads back and forth.
fn output_goes_back_with(program: &[&str]) {
    let place = Place::new();
    let mut running = place.start_program(&["--name", "echo"], program);
    place.wait_for("the guest", || place.cairn(&["checkpoint", "echo"]).status == Some(0));
    let mut say = |text: &str, all: &str| {
        running.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        place.wait_for(all, || place.output() == all);
    };
    let nothing = *ids(&place).last().unwrap();
    say("one\n", "one\n");
    let one = place.checkpoint("echo");
    say("two\n", "one\ntwo\n");
    let two = place.checkpoint("echo");
    place.rollback("echo", one);
    assert_eq!(place.output(), "one\n");
    assert_eq!(parent(&place, two + 1), Some(one));
    say("three, which is longer\n", "one\nthree, which is longer\n");
    let three = place.checkpoint("echo");
    assert_eq!(parent(&place, three), Some(two + 1));
    place.rollback("echo", nothing);
    say("four\n", "four\n");
    // Forwards again, on both branches, and in the midst of one.
    for (to, output) in [
        (two, "one\ntwo\n"),
        (three, "one\nthree, which is longer\n"),
        (two, "one\ntwo\n"),
        (one, "one\n"),
        (nothing, ""),
        (three, "one\nthree, which is longer\n"),
    ] {
        place.rollback("echo", to);
        assert_eq!(place.output(), output, "rolled back to {to}");
    }
    // The newest is what it was rolled back to, also when the file wasn't made that any more.
    running.kill();
    fs::write(place.output_file(), "").unwrap();
    // It's called what it was, or what one likes.
    for (options, name) in [(&[][..], "echo"), (&["--name", "again"], "again"), (&[], "again")] {
        let running = place.start(&mut place.restore(options));
        place.wait_for("the guest", || place.cairn(&["checkpoint", name]).status == Some(0));
        assert_eq!(place.output(), "one\nthree, which is longer\n");
        running.kill();
    }
}

#[test]
fn a_program_that_was_killed_after_a_rollback_goes_on_from_there() {
    let place = Place::new();
    let running = run_counting(&place, &["--name", "job"]);
    let early = place.checkpoint("job");
    let printed = place.output().len();
    place.wait_for("more output", || printed + 1000 < place.output().len());
    let late = place.checkpoint("job");
    place.rollback("job", early);
    let pid = running.child.id();
    running.kill();
    assert_eq!(ids(&place), [early, late, late + 1]);
    assert_eq!(parent(&place, late + 1), Some(early));
    // Who was killed isn't listed, and its socket goes.
    assert!(place.path("cairn").join(format!("{pid}.sock")).exists());
    assert!(place.told(&["ps"]).starts_with("no guest"));
    assert!(!place.path("cairn").join(format!("{pid}.sock")).exists());
    assert!(place.refused(&["rollback", &pid.to_string(), "1"]).contains("cairn ps"));
    let restored = place.start(&mut place.command(&["restore", "store"]));
    assert_eq!(restored.end(), Some(0));
    assert_eq!(place.output(), native());
}

#[test]
fn what_cant_be_done_leaves_the_program_as_it_is() {
    let place = Place::new();
    // A store that had another program before.
    let other = place.start_program(&["--name", "other"], &["/bin/cat"]);
    place.wait_for("the guest", || place.cairn(&["checkpoint", "other"]).status == Some(0));
    assert_eq!(other.end(), Some(0));
    let running = run_counting(&place, &["--name", "job", "--keep", "3"]);
    assert!(place.refused(&["rollback", "job", "99"]).contains("no checkpoint 99"));
    let first = ids(&place)[0];
    assert!(place.refused(&["rollback", "job", &first.to_string()]).contains("another one's"));
    let own = place.checkpoint("job");
    for _ in 0..3 {
        place.checkpoint("job");
    }
    assert!(
        place.refused(&["rollback", "job", &own.to_string()]).contains("no checkpoint"),
        "it was evicted"
    );
    // A damaged one: its file is found to be so before the program is given up.
    let ids = ids(&place);
    for entry in fs::read_dir(place.store()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment")) {
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().skip(300).step_by(97).for_each(|byte| *byte ^= 0x55);
            fs::write(&path, bytes).unwrap();
        }
    }
    let told = place.refused(&["rollback", "job", &ids[1].to_string()]);
    assert!(told.contains("segment") || told.contains("no checkpoint"), "{told}");
    for bad in [&["rollback", "job"][..], &["rollback", "job", "-1"], &["rollback", "job", "x"]] {
        assert_eq!(place.cairn(bad).status, Some(2), "{bad:?}");
    }
    let told = place.cairn(&["rollback", "job", "x"]).err;
    assert!(String::from_utf8_lossy(&told).contains("a checkpoint's number"), "{told:?}");
    assert!(place.told(&["stats", "job"]).contains("\nname job\n"));
    assert_eq!(running.end(), Some(0));
    assert_eq!(place.output(), native());
}

#[test]
fn guests_are_found_by_name_and_by_process() {
    let place = Place::new();
    let one = place.start_program(&["--name", "twin"], &["/bin/cat"]);
    place.wait_for("the guest", || place.cairn(&["checkpoint", "twin"]).status == Some(0));
    // Without a store, and under the same name.
    let other = place.start(cairn_run(&["--name", "twin"]).arg("/bin/cat"));
    place.wait_for("the other guest", || place.told(&["ps"]).lines().count() == 3);
    let pids = [one.child.id().to_string(), other.child.id().to_string()];
    for command in [&["checkpoint", "twin"][..], &["rollback", "twin", "1"], &["stats", "twin"]] {
        let told = place.refused(command);
        assert!(pids.iter().all(|pid| told.contains(pid)), "{told}");
    }
    place.checkpoint(&pids[0]);
    for command in [&["checkpoint", &pids[1]][..], &["rollback", &pids[1], "1"]] {
        assert!(place.refused(command).contains("--store DIR --every"));
    }
    let json = place.told(&["ps", "--json"]);
    for part in [
        "\"name\": \"twin\"",
        &format!("\"pid\": {}", pids[0]),
        "\"kind\": \"app\"",
        "\"program\": \"/bin/cat\"",
        "\"newest\": 2",
        "\"newest\": null",
        &format!("\"store\": \"{}\"", place.store().display()),
    ] {
        assert!(json.contains(part), "{part} isn't in {json}");
    }
    assert!(place.told(&["stats", &pids[0], "--raw"]).contains("\nname twin\n"));
    for command in ["checkpoint", "stats"] {
        assert!(place.refused(&[command, "nobody"]).contains("cairn ps"));
    }
    for bad in ["", "12", "a b", "-x", &"n".repeat(65)] {
        let status = place.cairn(&["run", &format!("--name={bad}"), "/bin/true"]).status;
        assert_eq!(status, Some(2), "--name {bad:?}");
    }
    assert_eq!([one.end(), other.end()], [Some(0), Some(0)]);
}

/// A program that fails leaves what it had changed in its last checkpoint, and who ran it is told how to get it.
#[test]
fn changes_of_a_program_that_fails_are_told_of() {
    let place = Place::new();
    fs::create_dir(place.path("data")).unwrap();
    let start = |command: &mut Command| place.start(command.stderr(File::create(place.path("err")).unwrap()));
    let told = || fs::read_to_string(place.path("err")).unwrap();
    let options =
        ["--store", "store", "--every", "never", "--stdout", "out", "--name", "job", "--dir", "data:rw"];
    let unapplied = "cairn: the program ended with status 3: its changes are";
    let running = start(cairn_run(&options).args(["/bin/sh", "-c", "echo x > data/early; exit 3"]));
    assert_eq!((running.end(), told()), (Some(3), format!("{unapplied} forgotten\n")));

    let program = "echo x > data/file; echo ready; read line; exit 3";
    let running = start(cairn_run(&options).args(["/bin/sh", "-c", program]));
    place.wait_for("the change", || place.output() == "ready\n");
    place.checkpoint("job");
    let how = format!(
        "{unapplied} not applied; cairn restore store --commit-files applies those up to its last checkpoint\n"
    );
    assert_eq!((running.end(), told()), (Some(3), how.clone()));
    let restored = start(&mut place.command(&["restore", "store"]));
    assert_eq!((restored.end(), told()), (Some(3), how));
    assert_eq!(fs::read_dir(place.path("data")).unwrap().count(), 0);
    let applied = place.told(&["restore", "store", "--commit-files"]);
    assert!(applied.contains("files written: 1, changes in all: "), "{applied}");
    assert_eq!(fs::read(place.path("data/file")).unwrap(), b"x\n");
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    let place = Place::new();
    let running = run_counting(&place, &["--name", "job"]);
    let socket = place.socket(&running);
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // Some that say nothing, and stay.
    let idle: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let long = vec![b'r'; 1 << 20];
    for garbage in
        [&b"\n"[..], b"\0\xff\n", b"rollback\n", b"rollback 1 2\n", b"rollback 99999999999999999999\n", &long]
    {
        assert!(ask(&socket, garbage).starts_with("error "), "{garbage:?}");
    }
    assert!(ask(&socket, b"").starts_with("name job\n"));
    assert!(ask(&socket, b"status\n").contains("\nwhole_checkpoints 0\n"));
    let mut random = Random(5);
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.bits().to_le_bytes()[0]).collect();
        ask(&socket, &bytes);
    }
    assert_eq!(place.checkpoint("job"), 1);
    place.rollback("job", 1);
    assert_eq!(running.end(), Some(0));
    drop(idle);
    assert_eq!(place.output(), native());
}

/// A guest that is stopped holds up nobody who means another.
#[test]
fn who_is_named_by_its_process_is_asked_alone() {
    let place = Place::new();
    let stopped = place.start(cairn_run(&["--name", "stopped"]).arg("/bin/cat"));
    let running = place.start_program(&["--name", "running"], &["/bin/cat"]);
    place.wait_for("both guests", || place.told(&["ps"]).lines().count() == 3);
    let stop = Command::new("kill").args(["-STOP", &stopped.child.id().to_string()]).status();
    assert!(stop.unwrap().success());
    let printed = place.cairn(&["checkpoint", &running.child.id().to_string()]);
    assert_eq!((printed.status, printed.err), (Some(0), Vec::new()));
    stopped.kill();
    assert_eq!(running.end(), Some(0));
}

/// Who gives checkpoints away to those who ask learns that nobody can.
#[test]
fn a_guest_that_nobody_can_reach_says_so() {
    let place = Place::new();
    let mut command = place.run("never", &[]);
    let nowhere = place.path("none/such");
    command.arg("/bin/true").env("XDG_RUNTIME_DIR", &nowhere);
    let printed = Printed::from(run(&mut command, b"").unwrap());
    let told = String::from_utf8(printed.err).unwrap();
    assert_eq!(printed.status, Some(0), "{told}");
    assert!(told.contains("nobody can ask") && told.contains(nowhere.to_str().unwrap()), "{told}");
}
