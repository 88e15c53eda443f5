//! `cairn run --overlay`: databases, mappings, ends and conflicts, as a person sees them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cairn_tests::{Printed, cairn_run, run};
use tempfile::TempDir;

const SQLITE: &str = "/usr/bin/sqlite3";
const PYTHON: &str = "/usr/bin/python3";

/// Runs a program over a directory with rw and an overlay of this end.
fn over(directory: &Path, state: &Path, end: &str, program: &[&str]) -> Printed {
    let grant = format!("{}:rw", directory.display());
    let mut command = cairn_run(&["--dir", &grant, end]);
    command.args(program).current_dir(directory).env("XDG_STATE_HOME", state);
    Printed::from(run(&mut command, b"").unwrap())
}

fn natively(directory: &Path, program: &[&str]) -> Printed {
    let mut command = Command::new(program[0]);
    Printed::from(run(command.args(&program[1..]).current_dir(directory), b"").unwrap())
}

fn directories() -> (TempDir, TempDir, TempDir) {
    let new = || tempfile::tempdir().unwrap();
    (new(), new(), new())
}

/// Names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A rollback journal with its locks, and a write-ahead log, whose index is a shared mapping.
#[test]
fn databases_are_as_without_an_overlay() {
    let (native, guest, state) = directories();
    let steps = [
        "create table t(x, y); with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) \
         insert into t select i, hex(zeroblob(40)) from n;",
        "begin; update t set y = x where x % 7 = 0; rollback; select count(*) from t where y = x;",
        "begin; update t set y = x where x % 7 = 0; commit; select count(*) from t where y = x;",
        "pragma journal_mode = wal; delete from t where x % 3 = 0; select count(*) from t;",
        "pragma mmap_size = 1000000; insert into t select * from t; select count(*), sum(x) from t;",
        "vacuum; pragma integrity_check;",
    ];
    for step in steps {
        let program = [SQLITE, "base", step];
        let directly = natively(native.path(), &program);
        let discarded = over(guest.path(), state.path(), "--overlay", &program);
        assert_eq!(discarded, directly, "{step}");
        // The same again: nothing of it has stayed.
        let committed = over(guest.path(), state.path(), "--overlay=commit", &program);
        assert_eq!(committed, directly, "{step}");
        assert_eq!(names(guest.path()), names(native.path()), "{step}");
    }
    let dump = [SQLITE, "base", ".dump"];
    assert_eq!(natively(guest.path(), &dump), natively(native.path(), &dump));
}

#[test]
fn mappings_show_what_was_written() {
    let (native, guest, state) = directories();
    let program = r#"
import mmap
with open("file", "r+b") as f:
    before = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    f.seek(5000); f.write(b"written"); f.flush()
    private = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)
    print(private[4998:5010], private[:3], before[4998:5010])
    private[0:3] = b"own"
    shared = mmap.mmap(f.fileno(), 0)
    shared[9000:9006] = b"mapped"
    f.seek(8998); print(f.read(10), private[0:3], shared[0:3])
    f.seek(0, 2); f.write(b"x" * 5000); f.flush()
    longer = mmap.mmap(f.fileno(), 0)
    print(len(longer), longer[-2:], longer[9000:9006])
    longer[-1:] = b"!"
"#;
    for directory in [&native, &guest] {
        fs::write(directory.path().join("file"), vec![b'-'; 20_000]).unwrap();
    }
    let program = [PYTHON, "-c", program];
    let directly = natively(native.path(), &program);
    assert_eq!(directly.status, Some(0), "{directly:?}");
    assert_eq!(over(guest.path(), state.path(), "--overlay=commit", &program), directly);
    let read = |directory: &TempDir| fs::read(directory.path().join("file")).unwrap();
    assert!(read(&guest) == read(&native));
}

#[test]
fn a_file_that_was_changed_meanwhile_is_named_and_both_versions_stay() {
    let (_, guest, state) = directories();
    let path = guest.path().join("file");
    fs::write(&path, "first").unwrap();
    // The program waits for a line, and before it comes the file is changed.
    let grant = format!("{}:rw", guest.path().display());
    let mut command = cairn_run(&["--dir", &grant, "--overlay=commit"]);
    let program = r#"
open("file", "a").write(" and the guest's")
print("written", flush=True)
input()
"#;
    command.args([PYTHON, "-c", program]).current_dir(guest.path()).env("XDG_STATE_HOME", state.path());
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "written\n");
    assert_eq!(fs::read(&path).unwrap(), b"first");
    fs::write(&path, "the host's").unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("file was changed by somebody else"), "{told}");
    assert_eq!(fs::read(&path).unwrap(), b"the host's");
    let kept = names(guest.path()).into_iter().find(|name| name.starts_with(".cairn-")).unwrap();
    assert!(told.contains(&kept), "{told}");
    assert_eq!(fs::read(guest.path().join(kept).join("file")).unwrap(), b"first and the guest's");
}

#[test]
fn a_program_that_fails_changes_nothing() {
    let (_, guest, state) = directories();
    let ended =
        over(guest.path(), state.path(), "--overlay=commit", &["/bin/sh", "-c", "echo x > file; exit 3"]);
    assert_eq!(ended.status, Some(3));
    assert!(String::from_utf8_lossy(&ended.err).contains("its changes are forgotten\n"), "{ended:?}");
    assert_eq!(names(guest.path()), Vec::<String>::new());
}

/// What an earlier run left isn't what this one has done.
#[test]
fn what_can_t_be_finished_is_an_earlier_runs() {
    let (_, guest, state) = directories();
    let about = fs::metadata(guest.path()).unwrap();
    let records = state.path().join("cairn");
    fs::create_dir(&records).unwrap();
    let record = records.join(format!("publish-{:x}-{:x}.json", about.dev(), about.ino()));
    fs::write(&record, "{}").unwrap();
    fs::set_permissions(&record, fs::Permissions::from_mode(0o600)).unwrap();
    let program = ["/bin/sh", "-c", "echo ran"];
    let ended = over(guest.path(), state.path(), "--overlay", &program);
    let told = String::from_utf8_lossy(&ended.err).into_owned();
    assert_eq!((ended.status, ended.out.len()), (Some(1), 0), "{told}");
    let expected =
        format!("the program was not started: what an earlier run left undone in {}", guest.path().display());
    assert!(told.contains(&expected) && told.contains("can't be used; remove it"), "{told}");
    fs::remove_file(&record).unwrap();
    assert_eq!(over(guest.path(), state.path(), "--overlay", &program).status, Some(0));
}

#[test]
fn without_a_writable_directory_there_is_nothing_to_lay_over() {
    let mut command = cairn_run(&["--overlay", "/bin/true"]);
    let ended = Printed::from(run(&mut command, b"").unwrap());
    assert_ne!(ended.status, Some(0));
    assert!(String::from_utf8_lossy(&ended.err).contains("--dir HOST:rw"), "{ended:?}");
}
