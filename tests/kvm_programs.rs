//! Unmodified Debian programs under `cairn run`, on real input: what they print is what they print natively.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use cairn_test_host::{kernel, skipped};
use cairn_tests::{cairn_run, guest, run, same_in_guest};

/// A text that every Debian has.
fn text() -> Vec<u8> {
    ["GPL-3", "LGPL-3", "Apache-2.0", "MPL-2.0"]
        .iter()
        .flat_map(|name| fs::read(Path::new("/usr/share/common-licenses").join(name)).unwrap())
        .collect()
}

fn with_text(program: &str, args: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("text"), text()).unwrap();
    let printed = same_in_guest(program, args, directory.path(), &text()).unwrap();
    assert_eq!(printed.status, Some(0), "{printed:?}");
    assert!(!printed.out.is_empty());
}

#[test]
fn sha256sum() {
    with_text("/usr/bin/sha256sum", &["text", "-"]);
}

#[test]
fn sort() {
    with_text("/usr/bin/sort", &["text"]);
    with_text("/usr/bin/sort", &["--parallel=1", "-r", "-u", "-k2,3"]);
}

#[test]
fn sort_with_temporary_files() {
    with_text("/usr/bin/sort", &["--parallel=1", "-S", "64k", "text"]);
}

#[test]
fn gzip() {
    with_text("/bin/gzip", &["-9", "-c", "-n", "text"]);
    with_text("/bin/gzip", &["-c", "-n"]);
}

#[test]
fn gunzip() {
    let directory = tempfile::tempdir().unwrap();
    let text = text();
    let packed = same_in_guest("/bin/gzip", &["-c", "-n"], directory.path(), &text).unwrap().out;
    let unpacked = same_in_guest("/bin/gzip", &["-d", "-c"], directory.path(), &packed).unwrap().out;
    assert!(unpacked == text);
}

#[test]
fn lua() {
    let program = "local words = {} \
        for line in io.lines('text') do for word in line:gmatch('%a+') do words[word] = (words[word] or 0) + 1 end end \
        local names = {} for word in pairs(words) do names[#names + 1] = word end table.sort(names) \
        for _, word in ipairs(names) do print(word, words[word]) end \
        print(string.format('%.12f', math.sin(1)), os.getenv('HOME'), pcall(error, 'x'))";
    with_text("/usr/bin/lua5.4", &["-e", program]);
}

#[test]
fn sqlite() {
    let mut script =
        String::from("create table numbers (n integer primary key, square integer, name text);\nbegin;\n");
    for n in 0..5000 {
        writeln!(script, "insert into numbers values ({n}, {}, 'number {n}');", n * n).unwrap();
    }
    script.push_str("commit;\ncreate index names on numbers (name);\n");
    script.push_str("select count(*), sum(square), max(name) from numbers where n % 7 = 3;\n");
    script.push_str("select name from numbers where name like '%99' order by square desc limit 5;\n");
    script.push_str(
        "delete from numbers where n < 2500; vacuum; pragma integrity_check; select count(*) from numbers;\n",
    );
    let directory = tempfile::tempdir().unwrap();
    // In private memory, and in a file of /tmp, which is private too.
    let file = format!("/tmp/cairn-test-{}.db", std::process::id());
    for database in [":memory:", &file] {
        let _ = fs::remove_file(&file);
        let printed =
            same_in_guest("/usr/bin/sqlite3", &[database], directory.path(), script.as_bytes()).unwrap();
        assert!(String::from_utf8_lossy(&printed.out).contains("ok\n2500\n"), "{printed:?}");
    }
    let _ = fs::remove_file(&file);
}

#[test]
fn python() {
    let program = include_str!("inputs/tour.py");
    with_text("/usr/bin/python3", &["-c", program]);
    with_text("/usr/bin/python3", &["-S", "-c", "print(sum(range(1000000)))"]);
}

#[test]
fn python_fails_as_it_does_natively() {
    let directory = tempfile::tempdir().unwrap();
    let printed =
        same_in_guest("/usr/bin/python3", &["-c", "import nothing_of_this_name"], directory.path(), b"")
            .unwrap();
    assert_eq!(printed.status, Some(1));
}

#[test]
fn what_rusts_std_uses() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input");
    fs::create_dir(&input).unwrap();
    fs::write(input.join("a"), "first line\nsecond\n").unwrap();
    fs::write(input.join("empty"), "").unwrap();
    fs::create_dir(input.join("directory")).unwrap();
    std::os::unix::fs::symlink("a", input.join("link")).unwrap();
    let program = guest("guest-std-tour");
    let printed =
        same_in_guest(program.to_str().unwrap(), &["input"], directory.path(), b"x\nyy\n\nlast").unwrap();
    assert_eq!(printed.status, Some(0), "{printed:?}");
}

#[test]
fn what_one_mapping_is_to_mremap() {
    if kernel() < (6, 5) {
        skipped("Linux before 6.5 tells more pieces of memory apart");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = guest("guest-remap");
    let printed = same_in_guest(program.to_str().unwrap(), &[], directory.path(), b"").unwrap();
    assert_eq!(printed.status, Some(0), "{printed:?}");
}

/// A static program has no dynamic linker that would take over what the machine leaves in the registers.
#[test]
fn a_static_program() {
    let directory = tempfile::tempdir().unwrap();
    let printed = same_in_guest("/sbin/ldconfig", &["--version"], directory.path(), b"").unwrap();
    assert_eq!(printed.status, Some(0), "{printed:?}");
}

/// The list of system calls is what these programs make: a call that isn't there would be told.
#[test]
fn no_program_misses_a_system_call() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("text"), text()).unwrap();
    let tour = guest("guest-std-tour");
    let programs: [&[&str]; 7] = [
        &["/usr/bin/sha256sum", "text"],
        &["/usr/bin/sort", "--parallel=1", "-S", "64k", "text"],
        &["/bin/gzip", "-c", "text"],
        &["/usr/bin/sqlite3", "/tmp/t.db", "create table t (x); insert into t values (1); select * from t"],
        &["/usr/bin/lua5.4", "-e", "for line in io.lines('text') do end print(os.time() > 0)"],
        &["/usr/bin/python3", "-c", include_str!("inputs/tour.py")],
        &[tour.to_str().unwrap(), "."],
    ];
    for program in programs {
        let mut command = cairn_run(&["-v"]);
        let output = run(command.current_dir(directory.path()).args(program), b"some\ninput\n").unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !err.contains("isn't there"),
            "{}: {}\n{err}",
            program[0],
            output.status
        );
    }
}
