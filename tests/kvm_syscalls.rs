//! System calls whose answers were not Linux's, each beside what it does natively.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cairn_tests::place::Place;
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

/// As glibc's fchmodat does without a system call for links that aren't to be followed.
#[test]
fn mode_and_times_are_changed_by_a_descriptors_link() {
    let program = "
import ctypes, errno, os
def tried(act):
    try: return act()
    except OSError as error: return errno.errorcode[error.errno]
c = ctypes.CDLL(None, use_errno=True)
for path in ['file', '/tmp/cairn-link-%d' % os.getpid()]:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    for flags in [os.O_PATH, os.O_RDONLY]:
        fd = os.open(path, flags | os.O_NOFOLLOW)
        link = '/proc/self/fd/%d' % fd
        print(tried(lambda: os.chmod(link, 0o640)), tried(lambda: os.utime(link, (1, 2))))
        print(oct(os.stat(path).st_mode), os.stat(path).st_mtime, tried(lambda: os.fchmod(fd, 0o600)))
        os.close(fd)
    print(c.fchmodat(-100, path.encode(), 0o604, 0x100), oct(os.stat(path).st_mode))
    os.remove(path)
";
    for options in [&[][..], &["--overlay"]] {
        is_like_native(directory().path(), options, program);
    }
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

/// Opening a pipe waits for the other end, and a thread that looks for calls would wait with all that the program has.
/// That thread finds a call only while it has a core: the program waits until its calls are answered as fast as it does
/// that, for a while, and there is more than one pipe.
#[test]
fn a_program_that_waits_for_a_pipes_other_end_is_taken() {
    const PIPES: usize = 10;
    let place = Place::new();
    let pipes: Vec<PathBuf> = (0..PIPES).map(|pipe| place.path(&format!("pipe{pipe}"))).collect();
    assert!(Command::new("/usr/bin/mkfifo").args(&pipes).status().unwrap().success());
    let program = format!(
        "
import os, time
for pipe in range({PIPES}):
    for batch in range(200):
        begun = time.perf_counter_ns()
        for call in range(20): os.getppid()
        if time.perf_counter_ns() - begun < 20 * 10_000: break
    print(open(f'pipe{{pipe}}').read(), flush=True)
"
    );
    let mut running = place.start_program(&["--poll", "always"], &[PYTHON, "-S", "-c", &program]);
    let id = running.child.id();
    let opening = format!("{} ", libc::SYS_openat);
    let tasks = format!("/proc/{id}/task");
    for (came, pipe) in (1..).zip(pipes) {
        let is_opening = || {
            let call =
                |task: fs::DirEntry| fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            fs::read_dir(&tasks).unwrap().flatten().any(|task| call(task).starts_with(&opening))
        };
        place.wait_for("the open", is_opening);
        let mut taking = place.start(&mut place.command(&["checkpoint", &id.to_string()]));
        let begun = Instant::now();
        let mut taken = None;
        while taken.is_none() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
            taken = taking.child.try_wait().unwrap();
        }
        if taken.is_none() {
            taking.child.kill().unwrap();
            running.child.kill().unwrap();
        }
        assert!(taken.is_some_and(|status| status.success()), "{came}: {taken:?}");
        fs::write(pipe, "came").unwrap();
        place.wait_for("what came", || place.output() == "came\n".repeat(came));
    }
    assert_eq!(running.end(), Some(0));
}
