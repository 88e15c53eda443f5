//! The program's system calls: one dispatch table, and the calls in files by what they are about.

mod copying;
mod descriptors;
mod directories;
mod exec;
mod files;
mod identity;
mod memory;
mod metadata;
mod pipes;
mod poll;
mod posted;
mod scheduling;
mod signals;
mod sockets;
mod terminal;
mod time;

pub(in crate::guest::app) use identity::limit;
pub use posted::may_be_posted;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use syscalls::Sysno;

use crate::guest::app::files::{At, Caller, FileView};
use crate::guest::app::process::Process;
use crate::guest::app::program::Entry;
use crate::guest::app::signals::Effect;

/// A system call's six arguments.
pub type Arguments = [u64; 6];
/// What a call answers.
pub type Answer = Result<u64, Errno>;

/// How the program goes on after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It gets this answer.
    Answer(Answer),
    /// It ends with this status, 0 to 255.
    Exit(u8),
    /// It's killed by this signal.
    Killed(Signal),
    /// Another program has taken its place, and begins here.
    Began(Entry),
}

/// Serves one system call.
pub fn dispatch(process: &mut Process, number: u64, args: &Arguments) -> Flow {
    let Some(call) = usize::try_from(number).ok().and_then(Sysno::new) else {
        return Flow::Answer(Err(Errno::ENOSYS));
    };
    process.call = (number, *args);
    let flow = match call {
        Sysno::exit | Sysno::exit_group => Flow::Exit((args[0] & 0xff) as u8),
        Sysno::kill | Sysno::tgkill | Sysno::tkill => signals::send(process, call, args),
        Sysno::execve => exec::execve(process, args),
        Sysno::execveat => exec::execveat(process, args),
        Sysno::rt_sigprocmask => signals::set_mask(process, args),
        Sysno::rt_sigsuspend => signals::suspend(process, args),
        Sysno::write
        | Sysno::writev
        | Sysno::pwrite64
        | Sysno::pwritev
        | Sysno::pwritev2
        | Sysno::sendfile => {
            let answer = answer(process, call, args);
            written(process, answer)
        }
        _ => Flow::Answer(answer(process, call, args)),
    };
    if !is_interrupted(flow) {
        process.waiting = None;
    }
    tracing::trace!(%call, ?args, ?flow, "system call");
    flow
}

/// Whether a wait was interrupted. No signal reaches the program from outside, so that it was the monitor who did, and
/// the call is to be made again.
#[must_use]
pub fn is_interrupted(flow: Flow) -> bool {
    flow == Flow::Answer(Err(Errno::EINTR))
}

/// The calls that always come back.
fn answer(process: &mut Process, call: Sysno, args: &Arguments) -> Answer {
    match call {
        Sysno::mmap => memory::mmap(process, args),
        Sysno::munmap => memory::munmap(process, args),
        Sysno::mprotect => memory::mprotect(process, args),
        Sysno::mremap => memory::mremap(process, args),
        Sysno::brk => Ok(process.space.set_heap_end(args[0])),
        Sysno::madvise => memory::madvise(process, args),
        Sysno::msync => memory::msync(process, args),
        Sysno::mlock | Sysno::mlock2 | Sysno::munlock | Sysno::mlockall | Sysno::munlockall => Ok(0),

        Sysno::rt_sigaction => signals::set_action(process, args),
        Sysno::rt_sigpending => signals::pending(process, args),
        Sysno::rt_sigtimedwait => signals::timed_wait(process, args),
        Sysno::pause => signals::pause(process),
        Sysno::sigaltstack => signals::alt_stack(process, args),

        Sysno::clock_gettime => time::clock_gettime(process, args),
        Sysno::clock_getres => time::clock_getres(process, args),
        Sysno::gettimeofday => time::gettimeofday(process, args),
        Sysno::time => time::time(process, args),
        Sysno::nanosleep => time::nanosleep(process, args),
        Sysno::clock_nanosleep => time::clock_nanosleep(process, args),
        Sysno::times => time::times(process, args),
        Sysno::getrusage => time::getrusage(process, args),
        Sysno::futex => time::futex(process, args),
        Sysno::getitimer => time::getitimer(process, args),
        Sysno::setitimer => time::setitimer(process, args),
        // As for setitimer.
        Sysno::alarm if args[0] == 0 => Ok(0),

        Sysno::getpid | Sysno::gettid | Sysno::set_tid_address | Sysno::getpgrp => identity::pid(),
        Sysno::getppid => identity::parent_pid(),
        Sysno::getpgid | Sysno::getsid => identity::group(args),
        Sysno::getuid | Sysno::geteuid => Ok(u64::from(nix::unistd::geteuid().as_raw())),
        Sysno::getgid | Sysno::getegid => Ok(u64::from(nix::unistd::getegid().as_raw())),
        Sysno::getresuid | Sysno::getresgid => identity::real_effective_saved(process, call, args),
        Sysno::getgroups => Ok(0),
        Sysno::setuid | Sysno::setreuid | Sysno::setresuid => identity::set_user(call, args),
        Sysno::setgid | Sysno::setregid | Sysno::setresgid => identity::set_group(call, args),
        // The program leads its session and its group already.
        Sysno::setsid | Sysno::setpgid | Sysno::setgroups => Err(Errno::EPERM),
        // Only its own children can be waited for, and it has none.
        Sysno::wait4 | Sysno::waitid => Err(Errno::ECHILD),
        Sysno::personality => identity::personality(args),
        Sysno::uname => identity::uname(process, args),
        Sysno::sysinfo => identity::sysinfo(process, args),
        Sysno::prctl => identity::prctl(process, args),
        Sysno::arch_prctl => identity::arch_prctl(process, args),
        Sysno::prlimit64 => identity::prlimit(process, args),
        Sysno::getrlimit => identity::getrlimit(process, args),
        Sysno::setrlimit => identity::setrlimit(process, args),
        Sysno::getpriority => scheduling::getpriority(process, args),
        Sysno::setpriority => scheduling::setpriority(process, args),
        Sysno::sched_getscheduler => scheduling::getscheduler(args),
        Sysno::sched_setscheduler => scheduling::setscheduler(process, args),
        Sysno::sched_getparam => scheduling::getparam(process, args),
        Sysno::sched_get_priority_max => scheduling::most_priority(args),
        Sysno::sched_get_priority_min => scheduling::least_priority(args),
        Sysno::sched_rr_get_interval => scheduling::round_robin_interval(process, args),
        Sysno::sched_setaffinity => scheduling::setaffinity(process, args),
        Sysno::sched_getaffinity => identity::sched_getaffinity(process, args),
        Sysno::getcpu => identity::getcpu(process, args),
        Sysno::sched_yield | Sysno::set_robust_list => Ok(0),
        Sysno::getrandom => identity::getrandom(process, args),
        _ => file_answer(process, call, args),
    }
}

/// The calls on files.
fn file_answer(process: &mut Process, call: Sysno, args: &Arguments) -> Answer {
    match call {
        Sysno::open => files::open(process, args),
        Sysno::openat => files::openat(process, args),
        Sysno::openat2 => files::openat2(process, args),
        Sysno::creat => files::creat(process, args),
        Sysno::memfd_create => files::memfd_create(process, args),
        Sysno::read => files::read(process, args),
        Sysno::pread64 => files::pread(process, args),
        Sysno::readv => files::readv(process, args),
        Sysno::preadv => files::preadv(process, args),
        Sysno::preadv2 => files::preadv2(process, args),
        Sysno::write => files::write(process, args),
        Sysno::pwrite64 => files::pwrite(process, args),
        Sysno::writev => files::writev(process, args),
        Sysno::pwritev => files::pwritev(process, args),
        Sysno::pwritev2 => files::pwritev2(process, args),
        Sysno::lseek => files::lseek(process, args),
        Sysno::ftruncate => files::ftruncate(process, args),
        Sysno::truncate => files::truncate(process, args),
        Sysno::fallocate => files::fallocate(process, args),
        Sysno::fsync => files::fsync(process, args),
        Sysno::fdatasync => files::fdatasync(process, args),
        Sysno::sync => files::sync(),
        Sysno::syncfs => files::syncfs(process, args),
        Sysno::fadvise64 => files::fadvise(process, args),
        Sysno::sendfile => copying::sendfile(process, args),
        Sysno::copy_file_range => copying::copy_file_range(process, args),

        Sysno::close => descriptors::close(process, args),
        Sysno::close_range => descriptors::close_range(process, args),
        Sysno::dup => descriptors::dup(process, args),
        Sysno::dup2 => descriptors::dup2(process, args),
        Sysno::dup3 => descriptors::dup3(process, args),
        Sysno::fcntl => descriptors::fcntl(process, args),
        Sysno::flock => descriptors::flock(process, args),
        Sysno::pipe => pipes::pipe(process, args),
        Sysno::pipe2 => pipes::pipe2(process, args),
        Sysno::eventfd => pipes::eventfd(process, args),
        Sysno::eventfd2 => pipes::eventfd2(process, args),
        Sysno::ioctl => terminal::ioctl(process, args),
        Sysno::poll => poll::poll(process, args),
        Sysno::ppoll => poll::ppoll(process, args),
        Sysno::select => poll::select(process, args),
        Sysno::pselect6 => poll::pselect(process, args),
        Sysno::epoll_create => poll::epoll_create(process, args),
        Sysno::epoll_create1 => poll::epoll_create1(process, args),
        Sysno::epoll_ctl => poll::epoll_ctl(process, args),
        Sysno::epoll_wait | Sysno::epoll_pwait => poll::epoll_wait(process, args),
        _ => name_answer(process, call, args),
    }
}

/// The calls on names and what they lead to.
fn name_answer(process: &mut Process, call: Sysno, args: &Arguments) -> Answer {
    match call {
        Sysno::getdents64 => directories::getdents(process, args),
        Sysno::getcwd => directories::getcwd(process, args),
        Sysno::chdir => directories::chdir(process, args),
        Sysno::fchdir => directories::fchdir(process, args),
        Sysno::mkdir => directories::mkdir(process, args),
        Sysno::mkdirat => directories::mkdirat(process, args),
        Sysno::mknod => directories::mknod(process, args),
        Sysno::mknodat => directories::mknodat(process, args),
        Sysno::rmdir => directories::rmdir(process, args),
        Sysno::unlink => directories::unlink(process, args),
        Sysno::unlinkat => directories::unlinkat(process, args),
        Sysno::rename => directories::rename(process, args),
        Sysno::renameat => directories::renameat(process, args),
        Sysno::renameat2 => directories::renameat2(process, args),
        Sysno::link => directories::link(process, args),
        Sysno::linkat => directories::linkat(process, args),
        Sysno::symlink => directories::symlink(process, args),
        Sysno::symlinkat => directories::symlinkat(process, args),
        Sysno::readlink => directories::readlink(process, args),
        Sysno::readlinkat => directories::readlinkat(process, args),

        Sysno::stat => metadata::stat(process, args),
        Sysno::lstat => metadata::lstat(process, args),
        Sysno::fstat => metadata::fstat(process, args),
        Sysno::newfstatat => metadata::newfstatat(process, args),
        Sysno::statx => metadata::statx(process, args),
        Sysno::access => metadata::access(process, args),
        Sysno::faccessat => metadata::faccessat(process, args),
        Sysno::faccessat2 => metadata::faccessat2(process, args),
        Sysno::chmod => metadata::chmod(process, args),
        Sysno::fchmod => metadata::fchmod(process, args),
        Sysno::fchmodat => metadata::fchmodat(process, args),
        Sysno::chown => metadata::chown(process, args),
        Sysno::lchown => metadata::lchown(process, args),
        Sysno::fchown => metadata::fchown(process, args),
        Sysno::fchownat => metadata::fchownat(process, args),
        Sysno::utimensat => metadata::utimensat(process, args),
        Sysno::utime => metadata::utime(process, args),
        Sysno::utimes => metadata::utimes(process, args),
        Sysno::statfs => metadata::statfs(process, args),
        Sysno::fstatfs => metadata::fstatfs(process, args),
        Sysno::umask => metadata::umask(process, args),
        Sysno::getxattr
        | Sysno::lgetxattr
        | Sysno::fgetxattr
        | Sysno::setxattr
        | Sysno::lsetxattr
        | Sysno::fsetxattr
        | Sysno::listxattr
        | Sysno::llistxattr
        | Sysno::flistxattr
        | Sysno::removexattr
        | Sysno::lremovexattr
        | Sysno::fremovexattr => metadata::attributes(process, call, args),
        // Optional to every C library, and of use only where threads migrate between CPUs.
        Sysno::rseq => Err(Errno::ENOSYS),
        // There is no network, and C libraries look for a name service on it and go on without.
        Sysno::socket | Sysno::socketpair => Err(Errno::EAFNOSUPPORT),
        Sysno::getpeername
        | Sysno::getsockname
        | Sysno::getsockopt
        | Sysno::setsockopt
        | Sysno::bind
        | Sysno::connect
        | Sysno::listen
        | Sysno::accept
        | Sysno::accept4
        | Sysno::recvfrom
        | Sysno::recvmsg
        | Sysno::sendto
        | Sysno::sendmsg
        | Sysno::shutdown => sockets::on_descriptor(process, args),
        _ => unknown(process, call),
    }
}

/// Who writes to a pipe that nobody reads gets SIGPIPE, and EPIPE if that doesn't end it.
fn written(process: &mut Process, answer: Answer) -> Flow {
    if answer == Err(Errno::EPIPE)
        && let Effect::Kills(signal) = process.signals.send(libc::SIGPIPE as u64)
    {
        return Flow::Killed(signal);
    }
    Flow::Answer(answer)
}

/// Runs `act` on a path argument, relative to a directory's descriptor or to `AT_FDCWD`.
fn view_at<T>(
    process: &Process,
    directory: i32,
    path: u64,
    act: impl FnOnce(&FileView, &Caller<'_>, &At<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let path = process.memory().read_string(path)?;
    let at = process.files.at(directory, path.as_bytes())?;
    let facts = process.facts();
    act(process.files.view(), &process.files.caller(&facts), &at)
}

/// An argument whose C type is int: its low half.
fn int(argument: u64) -> i32 {
    low(argument).cast_signed()
}

/// An argument whose C type is unsigned int, or a mode: its low half.
fn low(argument: u64) -> u32 {
    (argument & 0xffff_ffff) as u32
}

/// Answers ENOSYS and names the call once: a program that then fails has its reason in the log.
fn unknown(process: &mut Process, call: Sysno) -> Answer {
    if !process.refused.contains(&call.name()) {
        process.refused.push(call.name());
        tracing::info!(%call, "the program made a system call that isn't there");
    }
    Err(Errno::ENOSYS)
}
