//! System calls whose answers were not Linux's, each beside what it does natively.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cairn_tests::{Printed, built, cairn_run, run};

const PYTHON: &str = "/usr/bin/python3";
/// How long anything is waited for that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks that a Python program in this directory, which it may write, prints what it does natively.
fn is_like_native(directory: &Path, options: &[&str], program: &str) {
    let grant = format!("{}:rw", directory.display());
    let program = [PYTHON, "-S", "-c", program];
    let native = run(Command::new(program[0]).args(&program[1..]).current_dir(directory), b"").unwrap();
    assert!(native.status.success() && !native.stdout.is_empty(), "{native:?}");
    let mut command = cairn_run(&[&["--dir", &grant], options].concat());
    let guest = run(command.args(program).current_dir(directory), b"").unwrap();
    let (native, guest) = (Printed::from(native), Printed::from(guest));
    assert!(native == guest, "{}", native.difference(&guest));
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[test]
fn shared_memory_stays_when_its_pages_are_dropped() {
    let program = "
import mmap
for flags in [mmap.MAP_SHARED, mmap.MAP_PRIVATE]:
    memory = mmap.mmap(-1, 10000, flags=flags | mmap.MAP_ANONYMOUS)
    memory[0:5] = b'hello'
    memory.madvise(mmap.MADV_DONTNEED)
    print(memory[0:5])
";
    is_like_native(directory().path(), &[], program);
}

#[test]
fn directories_are_written_back_everywhere() {
    let program = "
import errno, os
for path in ['/tmp', '/dev/shm', '.', '/usr']:
    for flags in [os.O_RDONLY, os.O_PATH]:
        for act in [os.fsync, os.fdatasync]:
            fd = os.open(path, flags | os.O_DIRECTORY)
            try: print(act(fd))
            except OSError as error: print(errno.errorcode[error.errno])
            os.close(fd)
";
    for options in [&[][..], &["--overlay"]] {
        is_like_native(directory().path(), options, program);
    }
}

#[test]
fn what_has_no_disk_is_not_written_back() {
    let program = "
import errno, os
def tried(act, fd):
    try: return act(fd)
    except OSError as error: return errno.errorcode[error.errno]
for path in ['/proc', '/proc/self', '/proc/self/fd', '/proc/self/maps', '/proc/version', '/sys', '/sys/devices/system/cpu',
             '/sys/devices/system/cpu/online', '/dev', '/dev/null', '/dev/zero', '/dev/urandom']:
    for flags in [os.O_RDONLY, os.O_PATH]:
        fd = os.open(path, flags)
        print(path, flags, tried(os.fsync, fd), tried(os.fdatasync, fd))
        os.close(fd)
for fd in os.pipe(): print(tried(os.fsync, fd))
";
    is_like_native(directory().path(), &[], program);
}

#[test]
fn a_pipe_that_has_room_for_one_end_leaves_none() {
    let program = "
import errno, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
try: os.pipe()
except OSError as error: print(errno.errorcode[error.errno])
print(os.open('/dev/null', os.O_RDONLY))
";
    is_like_native(directory().path(), &[], program);
}

/// A program of eight bytes that ends with 7, linked where its addresses with the place that it gets are beyond the last.
#[test]
fn a_program_that_is_linked_far_up_runs() {
    const LINKED: u64 = 0x9_0000_0000;
    const HEADERS: u64 = 64 + 56;
    let code = [0x6a, 0x3c, 0x58, 0x6a, 0x07, 0x5f, 0x0f, 0x05];
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    // Position-independent, x86-64, version 1; entry, program headers, section headers, flags; sizes and counts.
    half(&mut elf, 3);
    half(&mut elf, 62);
    word(&mut elf, 1);
    [LINKED + HEADERS, 64, 0].into_iter().for_each(|value| long(&mut elf, value));
    word(&mut elf, 0);
    [64, 56, 1, 0, 0, 0].into_iter().for_each(|value| half(&mut elf, value));
    // To be loaded, to be read and executed; in the file, in memory, and there again; sizes, and a page's.
    word(&mut elf, 1);
    word(&mut elf, 5);
    [0, LINKED, LINKED, size, size, 4096].into_iter().for_each(|value| long(&mut elf, value));
    elf.extend(code);

    let directory = directory();
    let path = directory.path().join("far");
    fs::write(&path, elf).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let path = path.to_str().unwrap();
    let execute = format!("import os; os.execv('{path}', ['far'])");
    for program in [&[path][..], &[PYTHON, "-S", "-c", &execute]] {
        let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
        assert_eq!(native.status, Some(7), "{native:?}");
        let mut command = cairn_run(&["--dir", directory.path().to_str().unwrap()]);
        let guest = Printed::from(run(command.args(program), b"").unwrap());
        assert!(native == guest, "{}", native.difference(&guest));
    }
}

/// A limit that a shell sets is the monitor's too, whose copies of files are longer than what the program writes.
#[test]
fn a_limit_of_files_lengths_ends_nothing() {
    let directory = directory();
    fs::write(directory.path().join("long"), vec![b'x'; 1 << 20]).unwrap();
    let limited = |limit: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit {limit} -f 8; exec \"$@\""), "sh"]);
        command.arg(built("cairn-vmm", "cairn")).args(["run", "--dir", ".:rw", "--overlay"]);
        command.args(["--", "/usr/bin/head", "-c", "3", "long"]).current_dir(directory.path());
        Printed::from(run(&mut command, b"").unwrap())
    };
    for limit in ["-S", ""] {
        let printed = limited(limit);
        assert_eq!(printed.status, Some(1), "{limit}: {printed:?}");
        assert!(String::from_utf8_lossy(&printed.err).contains("File too large"), "{limit}: {printed:?}");
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} doesn't come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Opening a pipe waits for the other end, and a thread that looks for calls would wait with all that the program has.
#[test]
fn a_program_that_waits_for_a_pipes_other_end_is_taken() {
    let directory = directory();
    let cairn = || {
        let mut command = Command::new(built("cairn-vmm", "cairn"));
        command
            .current_dir(directory.path())
            .env_remove("RUST_LOG")
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        command
            .env("XDG_RUNTIME_DIR", directory.path())
            .env("XDG_STATE_HOME", directory.path().join("state"));
        command
    };
    let mkfifo = Command::new("/usr/bin/mkfifo").arg(directory.path().join("pipe")).status().unwrap();
    assert!(mkfifo.success());
    // The calls before make the other thread the one that serves them.
    let program = "
import os
for call in range(20000): os.getppid()
print(open('pipe').read(), end='', flush=True)
";
    let mut command = cairn();
    command.args(["run", "--poll", "always", "--store", "store", "--every", "never", "--stdout", "out"]);
    let mut running = command.args(["--", PYTHON, "-S", "-c", program]).spawn().unwrap();
    let opening = format!("{} ", libc::SYS_openat);
    wait_for("the open", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap();
        let call = |task: fs::DirEntry| fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        tasks.flatten().any(|task| call(task).starts_with(&opening))
    });
    let mut taking = cairn().args(["checkpoint", &running.id().to_string()]).spawn().unwrap();
    let begun = Instant::now();
    let mut taken = None;
    while taken.is_none() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
        taken = taking.try_wait().unwrap();
    }
    if taken.is_none() {
        taking.kill().unwrap();
        running.kill().unwrap();
    }
    taking.wait().unwrap();
    assert!(taken.is_some_and(|status| status.success()), "{taken:?}");
    fs::write(directory.path().join("pipe"), "came").unwrap();
    assert!(running.wait().unwrap().success());
    assert_eq!(fs::read_to_string(directory.path().join("out")).unwrap(), "came");
}
