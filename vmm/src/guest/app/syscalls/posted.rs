//! Which system calls a thread other than the vCPU's may serve, while the vCPU goes on looking for the answer.

use std::os::fd::BorrowedFd;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::time::TimeSpec;
use syscalls::Sysno;

use crate::guest::app::files::Follow;
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::files::read_spans;
use crate::guest::app::syscalls::{Arguments, int, time, view_at};

/// Bytes that a pipe takes at once when it can be written to (Linux: PIPE_BUF).
const PIPE_ATOMIC: u64 = 4096;

/// Whether the call may be served without an exit: it comes back soon, needs no register of the vCPU but
/// rax, and is the same on any thread of the VMM. What isn't listed is an exit: calls that wait or write
/// back to a disk, end the program, set segments, or tell of the thread that makes them.
pub fn may_be_posted(process: &Process, number: u64, args: &Arguments) -> bool {
    let Some(call) = usize::try_from(number).ok().and_then(Sysno::new) else {
        return true;
    };
    match call {
        Sysno::read | Sysno::pread64 => is_ready(process, args[0], PollFlags::POLLIN, 0),
        Sysno::readv | Sysno::preadv | Sysno::preadv2 => is_ready(process, args[0], PollFlags::POLLIN, 0),
        Sysno::write | Sysno::pwrite64 => is_ready(process, args[0], PollFlags::POLLOUT, args[2]),
        Sysno::writev | Sysno::pwritev | Sysno::pwritev2 => {
            let bytes = read_spans(process, args[1], args[2])
                .map_or(0, |spans| spans.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len)));
            is_ready(process, args[0], PollFlags::POLLOUT, bytes)
        }
        Sysno::clock_gettime | Sysno::clock_getres => !time::is_of_a_thread(args[0]),
        Sysno::fcntl => !matches!(int(args[1]), libc::F_SETLKW | libc::F_OFD_SETLKW),
        Sysno::futex => int(args[1]) & libc::FUTEX_CMD_MASK == libc::FUTEX_WAKE,
        Sysno::ioctl => matches!(args[1] & 0xffff_ffff, libc::TCGETS | libc::TIOCGWINSZ | libc::FIONREAD),
        Sysno::open => opens_soon(process, libc::AT_FDCWD, args[0], args[1]),
        Sysno::creat => opens_soon(process, libc::AT_FDCWD, args[0], 0),
        Sysno::openat => opens_soon(process, int(args[0]), args[1], args[2]),
        _ => is_short(call),
    }
}

/// Whether opening comes back soon. Opening a pipe waits for whoever opens its other end.
fn opens_soon(process: &Process, directory: i32, path: u64, flags: u64) -> bool {
    let never_waits = OFlag::O_NONBLOCK | OFlag::O_PATH;
    if OFlag::from_bits_retain(int(flags)).intersects(never_waits) {
        return true;
    }
    let status = view_at(process, directory, path, |view, caller, at| view.status(caller, at, Follow::Yes));
    !status.is_ok_and(|status| status.kind() == libc::S_IFIFO)
}

/// The calls that are short whatever their arguments.
fn is_short(call: Sysno) -> bool {
    is_of_process(call) || is_of_names(call)
}

fn is_of_process(call: Sysno) -> bool {
    matches!(
        call,
        Sysno::mmap
            | Sysno::munmap
            | Sysno::mprotect
            | Sysno::mremap
            | Sysno::brk
            | Sysno::madvise
            | Sysno::rt_sigaction
            | Sysno::rt_sigprocmask
            | Sysno::rt_sigpending
            | Sysno::sigaltstack
            | Sysno::gettimeofday
            | Sysno::time
            | Sysno::getpid
            | Sysno::gettid
            | Sysno::set_tid_address
            | Sysno::getpgrp
            | Sysno::getppid
            | Sysno::getpgid
            | Sysno::getsid
            | Sysno::getuid
            | Sysno::geteuid
            | Sysno::getgid
            | Sysno::getegid
            | Sysno::getresuid
            | Sysno::getresgid
            | Sysno::getgroups
            | Sysno::uname
            | Sysno::sysinfo
            | Sysno::prctl
            | Sysno::prlimit64
            | Sysno::getrlimit
            | Sysno::setrlimit
            | Sysno::getcpu
            | Sysno::sched_getaffinity
            | Sysno::sched_yield
            | Sysno::set_robust_list
            | Sysno::rseq
            | Sysno::getrandom
    )
}

fn is_of_names(call: Sysno) -> bool {
    matches!(
        call,
        Sysno::close
            | Sysno::close_range
            | Sysno::lseek
            | Sysno::ftruncate
            | Sysno::truncate
            | Sysno::fadvise64
            | Sysno::memfd_create
            | Sysno::dup
            | Sysno::dup2
            | Sysno::dup3
            | Sysno::pipe
            | Sysno::pipe2
            | Sysno::eventfd2
            | Sysno::epoll_create1
            | Sysno::epoll_ctl
            | Sysno::getdents64
            | Sysno::getcwd
            | Sysno::chdir
            | Sysno::fchdir
            | Sysno::mkdir
            | Sysno::mkdirat
            | Sysno::rmdir
            | Sysno::unlink
            | Sysno::unlinkat
            | Sysno::rename
            | Sysno::renameat
            | Sysno::renameat2
            | Sysno::symlink
            | Sysno::symlinkat
            | Sysno::link
            | Sysno::linkat
            | Sysno::readlink
            | Sysno::readlinkat
            | Sysno::stat
            | Sysno::lstat
            | Sysno::fstat
            | Sysno::newfstatat
            | Sysno::statx
            | Sysno::access
            | Sysno::faccessat
            | Sysno::faccessat2
            | Sysno::chmod
            | Sysno::fchmod
            | Sysno::fchmodat
            | Sysno::utimensat
            | Sysno::statfs
            | Sysno::fstatfs
            | Sysno::umask
            | Sysno::getxattr
            | Sysno::lgetxattr
            | Sysno::fgetxattr
            | Sysno::socket
    )
}

/// Whether reading or writing so many bytes comes back soon: files do, and pipes and terminals if they are
/// ready.
fn is_ready(process: &Process, descriptor: u64, wanted: PollFlags, bytes: u64) -> bool {
    let Ok(file) = process.files.descriptors().get(int(descriptor)) else {
        return true;
    };
    let Some(fd) = file.pollable() else {
        return true;
    };
    let mut polls = [PollFd::new(fd, wanted)];
    let ready = ppoll(&mut polls, Some(TimeSpec::new(0, 0)), None);
    ready == Ok(1) && (bytes <= PIPE_ATOMIC || is_file(fd))
}

fn is_file(fd: BorrowedFd<'_>) -> bool {
    let kind = fstat(fd).map(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT);
    kind == Ok(SFlag::S_IFREG)
}
