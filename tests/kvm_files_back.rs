//! Files that programs write go back with them, and are applied at the end: databases and whole trees, killed at any
//! moment.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cairn_store::Store;
use cairn_tests::place::Place;
use cairn_tests::random::Random;
use cairn_tests::resume::{ATTEMPTS, Trial, is_there, kill_and_restore, start, wait_for_checkpoint};
use cairn_tests::{Printed, cairn_run, guest, run};

const SQLITE: &str = "/usr/bin/sqlite3";
/// Tables of rows, each imported in a transaction.
const IMPORTS: u32 = 120;
/// Rows of each.
const ROWS: u32 = 80;

/// Writes CSV files and the commands that import them.
fn write_imports(directory: &Path, begin: &str) {
    let mut commands =
        format!("{begin}\nCREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c);\nCREATE INDEX tb ON t(b);\n");
    for import in 0..IMPORTS {
        let mut rows = String::new();
        for row in import * ROWS..(import + 1) * ROWS {
            let text = u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            rows.push_str(&format!("{row},text {text:x} \"\"{row}\"\",{}\n", text % 1000));
        }
        fs::write(directory.join(format!("{import}.csv")), rows).unwrap();
        commands.push_str(&format!(".import --csv {import}.csv t\n"));
        if import % 10 == 9 {
            commands.push_str(&format!(
                "DELETE FROM t WHERE a % 7 = {};\nUPDATE t SET c = c + a WHERE a % 11 = 3;\n\
                 SELECT {import}, count(*), sum(c), max(b) FROM t;\n",
                import % 7
            ));
        }
    }
    fs::write(directory.join("commands"), commands).unwrap();
}

fn database(directory: &Path) -> Vec<u8> {
    fs::read(directory.join("data/base")).unwrap()
}

fn sqlite(directory: &Path, statement: &str) -> Printed {
    let mut command = Command::new(SQLITE);
    Printed::from(run(command.arg(directory.join("data/base")).arg(statement), b"").unwrap())
}

/// Imports natively and through kills, and compares all that is left.
fn import_goes_on(begin: &str, kills: u32) {
    if !is_there(SQLITE) {
        return;
    }
    let native = Place::new();
    let program = [SQLITE, "data/base", ".read commands"];
    let prepare = |place: &Place| {
        write_imports(place.directory(), begin);
        fs::create_dir(place.path("data")).unwrap();
    };
    prepare(&native);
    let mut command = Command::new(program[0]);
    let printed =
        Printed::from(run(command.args(&program[1..]).current_dir(native.directory()), b"").unwrap());
    assert_eq!(printed.status, Some(0), "{printed:?}");
    let mut all_kills = 0;
    for _ in 0..ATTEMPTS {
        let place = Place::new();
        prepare(&place);
        let grant = format!("{}:rw", place.path("data").display());
        let trial = Trial { every: "20ms", kills, within: 80, options: &["--dir", &grant] };
        let (through, killed) = kill_and_restore(&place, &trial, &program);
        let told = String::from_utf8_lossy(&through.err).into_owned();
        assert_eq!(through.status, Some(0), "killed {killed} times: {told}");
        assert!(
            through.out == printed.out,
            "killed {killed} times: {}\n{told}",
            printed.difference(&through)
        );
        for statement in ["PRAGMA integrity_check", ".dump"] {
            assert_eq!(
                sqlite(place.directory(), statement),
                sqlite(native.directory(), statement),
                "{killed} kills"
            );
        }
        assert!(database(place.directory()) == database(native.directory()), "killed {killed} times");
        let left: Vec<_> = fs::read_dir(place.path("data")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        // On a fast machine, and on one that is busy with others, a program has ended before it was killed often.
        all_kills += killed;
        if kills / 2 < all_kills {
            return;
        }
    }
    panic!("killed {all_kills} times in {ATTEMPTS} imports");
}

#[test]
fn a_database_with_a_rollback_journal_is_what_it_is_natively() {
    import_goes_on("PRAGMA journal_mode = delete;", 10);
}

/// The index of a write-ahead log is in memory where nobody else may have the database open.
#[test]
fn a_database_with_a_log_of_its_own_is_what_it_is_natively() {
    import_goes_on("PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal;", 10);
}

/// Its index is else a file that is mapped shared.
#[test]
fn a_database_with_a_shared_log_is_what_it_is_natively() {
    import_goes_on("PRAGMA journal_mode = wal;", 10);
}

/// Every path with what is there.
type Tree = BTreeMap<String, (u32, Vec<u8>)>;

fn tree(directory: &Path) -> Tree {
    let mut all = Tree::new();
    let mut next = vec![directory.to_owned()];
    while let Some(path) = next.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let bytes = if about.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
        let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
        all.insert(name, (about.permissions().mode(), bytes));
        if about.is_dir() {
            next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

fn fill(directory: &Path, files: u32) {
    for part in 0..10 {
        fs::create_dir_all(directory.join(format!("d{part}"))).unwrap();
    }
    for number in 0..files {
        fs::write(directory.join(format!("d{}/f{number}", number % 10)), format!("first {number}")).unwrap();
    }
}

/// Names that a publishing that was cut off leaves.
fn staging(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".cairn-")).collect()
}

/// Real processes, killed while they publish dozens of changes; the next run on the directory finishes what was
/// begun. All of it is there then, or nothing.
#[test]
fn a_kill_while_changes_are_applied_leaves_all_or_nothing() {
    const FILES: u32 = 150;
    const ROUNDS: u32 = 30;
    const MOST_ROUNDS: u32 = 60;
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let mut random = Random(seed << 8 | 1);
    let place = Place::new();
    let directory = place.path("tree");
    let program = guest("guest-resume");
    let program = program.to_str().unwrap().to_owned();
    let grant = format!("{}:rw", directory.display());
    let over = |end: &str, program: &[&str]| {
        let mut command = cairn_run(&["--dir", &grant, end]);
        place.within(command.args(program));
        command
    };
    let files = FILES.to_string();
    let change = [&program, "tree", &files, directory.to_str().unwrap()];
    let begin = || {
        let mut command = over("--overlay=commit", &change);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "Ok(())\n");
        child
    };
    let is_begun = || {
        fs::read_dir(place.state().join("cairn")).is_ok_and(|mut records| {
            records.any(|record| {
                record.is_ok_and(|record| record.path().extension().is_some_and(|end| end == "json"))
            })
        })
    };
    // Until the record is there, or the process has ended.
    let wait_for_record = |child: &mut std::process::Child| {
        while !is_begun() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    fill(&directory, FILES);
    let before = tree(&directory);
    let (mut child, begun) = (begin(), Instant::now());
    assert!(child.wait().unwrap().success());
    let took = u64::try_from(begun.elapsed().as_micros()).unwrap();
    let after = tree(&directory);
    // What the program does natively is the model.
    fs::remove_dir_all(&directory).unwrap();
    fill(&directory, FILES);
    assert!(run(Command::new(change[0]).args(&change[1..]), b"").unwrap().status.success());
    assert!(tree(&directory) == after, "seed {seed}");

    let (mut nothing, mut midst, mut rounds) = (0, 0, 0);
    // In which the steps are taken, as far as the kills have shown.
    let mut applies = took;
    while rounds < ROUNDS || midst < ROUNDS / 4 && rounds < MOST_ROUNDS {
        rounds += 1;
        fs::remove_dir_all(&directory).unwrap();
        fill(&directory, FILES);
        let mut child = begin();
        // Any moment, and most times one in the shorter time in which the steps are taken.
        let is_any = rounds % 4 == 0;
        if !is_any {
            wait_for_record(&mut child);
        }
        std::thread::sleep(Duration::from_micros(random.below(if is_any { took } else { applies })));
        child.kill().unwrap();
        let is_too_late = child.wait().unwrap().success();
        if !is_any {
            applies = 1 + if is_too_late { applies / 2 } else { applies * 5 / 4 };
        }
        let is_begun = is_begun();
        if is_begun {
            midst += 1;
            // Whoever finishes it may be killed as well.
            let mut command = over("--overlay", &["/bin/true"]);
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(random.below(took)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let finished = run(&mut over("--overlay", &["/bin/true"]), b"").unwrap();
        assert!(finished.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&finished.stderr));
        let (left, now) = (staging(&directory), tree(&directory));
        assert!(left.is_empty(), "round {rounds}, seed {seed}: {left:?}");
        if now == before {
            assert!(!is_begun, "round {rounds}, seed {seed}: it was begun and nothing is there");
            nothing += 1;
        } else {
            assert!(now == after, "round {rounds}, seed {seed}: it's neither as before nor as after");
        }
    }
    eprintln!("{rounds} rounds: {midst} killed in the midst, {nothing} before");
    assert!(midst != 0, "seed {seed}: never killed in the midst");
}

/// What a program had written so far is kept without its going on.
#[test]
fn files_of_a_checkpoint_are_applied_without_the_program() {
    let place = Place::new();
    let data = place.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("old"), "old").unwrap();
    let grant = format!("{}:rw", data.display());
    let program =
        "echo 7 > data/number; echo new > data/old; echo begun > data/begun; echo ready; while :; do :; done";
    let (mut child, mut told) =
        start(place.run_telling("50ms", &["--dir", &grant]).args(["/bin/sh", "-c", program]));
    let mut said = String::new();
    // Between two checkpoints a file may be cut and not written yet: one is waited for that began after all that.
    while !fs::read(place.output_file()).is_ok_and(|printed| printed == b"ready\n") {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some(), "{said}");
    }
    let newest = Store::open(&place.store()).unwrap().checkpoints().last().unwrap().id.0;
    while wait_for_checkpoint(&mut told, &mut said).unwrap_or_else(|| panic!("{said}")) < newest + 2 {}
    // While the program runs, it's the one who changes files.
    let commit = |options: &[&str]| {
        let mut all = vec!["--commit-files"];
        all.extend(options);
        let output = run(&mut place.restore(&all), b"").unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&told).into_owned())
    };
    let (status, told) = commit(&[]);
    assert!(status == Some(1) && told.contains("in use by"), "{told}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_to_string(data.join("old")).unwrap(), "old");
    let (status, told) = commit(&[]);
    assert_eq!(status, Some(0), "{told}");
    for file in ["number", "old", "begun"] {
        assert!(told.contains(&format!("wrote {}", data.join(file).display())), "{told}");
    }
    assert_eq!(fs::read_to_string(data.join("old")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(data.join("number")).unwrap(), "7\n");
    assert!(staging(&data).is_empty());
    // It fits the directory no more.
    let (status, told) = commit(&[]);
    assert!(status == Some(1) && told.contains("was changed"), "{told}");
}
