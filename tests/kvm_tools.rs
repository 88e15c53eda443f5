//! The everyday tools of a Debian under `cairn run`, with files to read and a directory to change: they print,
//! end and leave behind what they do natively.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cairn_tests::{Printed, cairn_run, run, same_in_guest};
use tempfile::TempDir;

/// A directory with a text, numbers, a link, and a directory with two versions of the text.
fn files() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string("/usr/share/common-licenses/GPL-3").unwrap();
    let numbers: String = (1..=3000_u64).map(|n| format!("{}\n", n * 7919 % 3001)).collect();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir_all(path("sub/deep")).unwrap();
    fs::write(path("text"), &text).unwrap();
    fs::write(path("numbers"), numbers).unwrap();
    fs::write(path("sub/old"), &text).unwrap();
    fs::write(path("sub/new"), text.replace("GNU", "gnu")).unwrap();
    fs::write(path("sub/deep/empty"), "").unwrap();
    fs::write(path("rows.json"), r#"{"rows": [{"a": 1, "b": [true, null]}, {"a": 2.5, "b": "ä"}]}"#).unwrap();
    symlink("old", path("sub/link")).unwrap();
    directory
}

/// Runs programs that only read, and end with this status.
fn same(status: i32, programs: &[&[&str]]) {
    let directory = files();
    let input = fs::read(directory.path().join("text")).unwrap();
    for program in programs {
        let printed = same_in_guest(program[0], &program[1..], directory.path(), &input).unwrap();
        assert_eq!(printed.status, Some(status), "{program:?}: {printed:?}");
    }
}

/// What is below a directory: for each path its mode, and bytes or a link's target. Databases and
/// their journals, which have random numbers in them, are compared by name.
fn tree(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let status = path.symlink_metadata().unwrap();
            let bytes = if status.is_dir() {
                pending.push(path.clone());
                Vec::new()
            } else if status.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if path.to_string_lossy().contains(".db") {
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(directory).unwrap().to_string_lossy().into_owned();
            found.insert(name, (status.mode(), bytes));
        }
    }
    found
}

/// Runs programs that change the directory and end with this status, natively in one and in guests in others that are the same: one
/// changes it itself, one an overlay that is applied at the end, and one an overlay that is forgotten.
fn same_changes(status: i32, programs: &[&[&str]]) {
    let state = tempfile::tempdir().unwrap();
    for program in programs {
        let (native, guest, before) = (files(), files(), tree(files().path()));
        let run_in = |mut command: Command, directory: &Path| {
            command.args(*program).current_dir(directory).env_clear();
            command.envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]);
            command.env("XDG_STATE_HOME", state.path());
            Printed::from(run(&mut command, b"input\n").unwrap())
        };
        let mut plain = Command::new("/usr/bin/env");
        plain.arg("--");
        let natively = run_in(plain, native.path());
        assert_eq!(natively.status, Some(status), "{program:?}: {natively:?}");
        let grant = format!("{}:rw", guest.path().display());
        let guests = run_in(cairn_run(&["--dir", &grant]), guest.path());
        assert_eq!(guests, natively, "{program:?}");
        assert!(tree(guest.path()) == tree(native.path()), "{program:?} left other files");
        let (committed, discarded) = (files(), files());
        for (directory, end) in [(&committed, "--overlay=commit"), (&discarded, "--overlay=discard")] {
            let grant = format!("{}:rw", directory.path().display());
            let mut overlaid = run_in(cairn_run(&["--dir", &grant, end]), directory.path());
            if status != 0 && end == "--overlay=commit" {
                // Then cairn tells that nothing was applied.
                let told = String::from_utf8_lossy(&overlaid.err).into_owned();
                let own: String = told.lines().filter(|line| line.starts_with("cairn: ")).collect();
                assert!(own.ends_with("its changes are forgotten"), "{program:?}: {told}");
                overlaid.err.clone_from(&natively.err);
            }
            assert_eq!(overlaid, natively, "{program:?} {end}");
        }
        if status == 0 {
            assert!(
                tree(committed.path()) == tree(native.path()),
                "{program:?} left other files by an overlay"
            );
        }
        assert!(tree(discarded.path()) == before, "{program:?} changed what is beneath an overlay");
    }
}

#[test]
fn texts() {
    same(
        0,
        &[
            &["/usr/bin/cut", "-c", "3-20"],
            &["/usr/bin/tr", "a-z", "A-Z"],
            &["/usr/bin/uniq", "-c"],
            &["/usr/bin/wc", "text", "-"],
            &["/usr/bin/head", "-n", "3", "text", "numbers"],
            &["/usr/bin/tail", "-n", "3"],
            &["/usr/bin/tac", "text"],
            &["/usr/bin/od", "-A", "x", "-t", "x1z", "text"],
            &["/usr/bin/md5sum", "text", "numbers"],
            &["/usr/bin/cksum", "text"],
            &["/usr/bin/factor", "123456789012345"],
            &["/bin/sed", "-n", "s/GNU/<&>/p", "text"],
            &["/bin/grep", "-rn", "--include=o*", "License", "."],
            &["/usr/bin/mawk", "{ n += NF; w[$1]++ } END { print n, w[\"the\"] }", "text"],
            &["/bin/cat", "text", "-"],
        ],
    );
    same(
        1,
        &[
            &["/bin/cat", "text", "-", "absent"],
            &["/usr/bin/diff", "-u", "--label=a", "--label=b", "sub/old", "sub/new"],
            &["/usr/bin/cmp", "sub/old", "sub/new"],
        ],
    );
}

#[test]
fn listings() {
    same(
        0,
        &[
            &["/bin/ls", "-R", "."],
            &["/bin/ls", "-l", "--time-style=full-iso", "sub"],
            &["/usr/bin/find", ".", "-size", "+10k", "-printf", "%p %s %m %t %n %i\n"],
            &["/usr/bin/find", "/usr/share/common-licenses", "-type", "l", "-ls"],
            &["/usr/bin/du", "-a", "sub"],
            &["/usr/bin/stat", "-c", "%n %F %s %a %h %i %Y", "text", "sub", "sub/link", "/usr/bin"],
            &["/usr/bin/realpath", "sub/link", "."],
        ],
    );
}

#[test]
fn changes() {
    same_changes(
        0,
        &[
            &["cp", "-a", "sub", "copy"],
            &["cp", "text", "numbers", "sub/deep"],
            &["mv", "sub", "moved"],
            &["rm", "-r", "sub", "text"],
            &["mkdir", "-p", "-m", "700", "a/b/c"],
            &["ln", "text", "hard"],
            &["ln", "-s", "text", "soft"],
            &["touch", "-d", "2020-01-01", "text", "fresh"],
            &["truncate", "-s", "100000", "text"],
            &["chmod", "-R", "go-rwx", "sub"],
            &[
                "dd",
                "if=text",
                "of=numbers",
                "bs=512",
                "skip=3",
                "seek=2",
                "count=5",
                "conv=notrunc,fsync",
                "status=none",
            ],
            &["split", "-l", "100", "text", "part-"],
            &["tee", "one", "two"],
            &["sed", "-i.bak", "-e", "s/GNU/gnu/g", "text"],
            &["gzip", "-9n", "text"],
            &["tar", "--mtime=@0", "-cf", "archive.tar", "sub", "text"],
            &["mawk", "{ print > (\"lines\" NR % 3) }", "numbers"],
            &["sync"],
        ],
    );
    same_changes(1, &[&["rmdir", "sub"]]);
}

#[test]
fn shells_without_processes() {
    same(
        0,
        &[&[
            "/bin/dash",
            "-c",
            "i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done; echo $i; read line; echo $line",
        ]],
    );
    same(
        3,
        &[
            &["/bin/bash", "-c", "mapfile -t a < numbers; echo ${#a[@]} ${a[@]:2:3}; cd sub; pwd; exit 3"],
            &[
                "/bin/bash",
                "-c",
                "trap 'echo end' EXIT; for file in *; do [[ $file =~ ^t ]] && echo $file; done; exit 3",
            ],
        ],
    );
    same_changes(
        1,
        &[&["bash", "-c", "echo a > x; echo b >> x; read line < x; echo $line; set -C; echo c > x"]],
    );
}

/// What needs a second process or thread fails, and says which call is missing.
#[test]
fn second_processes_are_refused_by_name() {
    let directory = files();
    let programs: [(&[&str], &str); 3] = [
        (&["/bin/dash", "-c", "ls | wc"], "clone"),
        (&["/bin/bash", "-c", "echo $(echo)"], "clone"),
        (&["/usr/bin/python3", "-c", "import threading; threading.Thread(target=print).start()"], "clone3"),
    ];
    for (program, call) in programs {
        let output = run(cairn_run(&[]).args(program).current_dir(directory.path()), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains(call), "{program:?}: {}\n{err}", output.status);
    }
}

#[test]
fn perl() {
    let count = "$w{lc $1}++ while /(\\w+)/g; END { print \"$_ $w{$_}\\n\" for sort { $w{$b} <=> $w{$a} || $a cmp $b } keys %w }";
    same(
        0,
        &[
            &["/usr/bin/perl", "-ne", count, "text"],
            &[
                "/usr/bin/perl",
                "-MPOSIX",
                "-e",
                "print strftime('%c %Z', localtime 1700000000); printf ' %.3f', sqrt 2; alarm 0; select undef, undef, undef, 0.01; print getpriority 0, 0",
            ],
        ],
    );
    same(
        5,
        &[&[
            "/usr/bin/perl",
            "-e",
            "open F, '<', 'text' or die; seek F, 9, 0; read F, $b, 30; opendir D, '.'; print $b, -s F, join ',', sort readdir D; exit 5",
        ]],
    );
    same_changes(
        0,
        &[
            &["perl", "-i", "-pe", "s/GNU/YYY/", "text"],
            &[
                "perl",
                "-e",
                "open F, '>', 'o'; print F 'x' x 9999; close F; rename 'o', 'p'; utime 1, 2, 'p'; chmod 0600, 'p'; print join ' ', (stat 'p')[7, 8, 9]",
            ],
        ],
    );
}

/// Journals in every mode are files that are made, locked, synced, truncated and removed beside the database.
#[test]
fn databases_in_a_directory() {
    let script = "create table t (n integer primary key, name text); begin; \
        with recursive c (n) as (select 1 union all select n + 1 from c where n < 2000) \
        insert into t select n, 'name ' || n from c; commit; begin; delete from t where n % 3 = 0; commit; \
        begin; delete from t; rollback; select count(*), sum(n) from t; pragma integrity_check;";
    for mode in ["delete", "truncate", "persist", "wal", "memory"] {
        let script = format!("pragma journal_mode={mode}; {script}");
        same_changes(0, &[&["sqlite3", "test.db", &script, ".dump"]]);
    }
}

#[test]
fn python() {
    same(
        0,
        &[
            &["/usr/bin/python3", "-m", "json.tool", "rows.json"],
            &["/usr/bin/python3", "-c", include_str!("inputs/calls.py")],
            &["/usr/bin/python3", "-c", "print('hello', input('name? '))"],
        ],
    );
    same_changes(0, &[&["python3", "-c", include_str!("inputs/changes.py")]]);
}

/// An interactive session: line editing, history, the terminal's size, and the terminal restored.
#[test]
fn a_terminal() {
    let directory = files();
    let script = include_str!("inputs/terminal.py");
    let on_terminal = |program: &Command| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).arg(program.get_program()).args(program.get_args());
        command.args(["/usr/bin/python3", "-q", "-E"]).current_dir(directory.path());
        command.envs([("HOME", "/nonexistent"), ("TERM", "xterm"), ("LC_ALL", "C.UTF-8")]);
        Printed::from(run(&mut command, b"").unwrap())
    };
    let mut plain = Command::new("/usr/bin/env");
    plain.arg("--");
    let natively = on_terminal(&plain);
    assert_eq!(natively.status, Some(0), "{natively:?}");
    assert_eq!(on_terminal(&cairn_run(&[])), natively);
}

/// A working directory that the program has privately would only look empty: the user is told.
#[test]
fn a_private_working_directory_is_told() {
    let told = |options: &[&str], directory: &str| {
        let output = run(cairn_run(options).arg("/bin/pwd").current_dir(directory), b"").unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout == format!("{directory}\n").as_bytes(), "{err}");
        err.contains(&format!("--dir {directory}"))
    };
    assert!(told(&[], "/tmp") && told(&[], "/var/tmp"));
    assert!(!told(&["--dir", "/tmp"], "/tmp") && !told(&[], "/usr"));
    let other = files();
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!told(&[], other.path().to_str().unwrap()));
}
