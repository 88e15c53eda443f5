//! The program's system calls: one dispatch table, and the calls in files by what they are about.

mod identity;
mod memory;
mod signals;
mod time;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use syscalls::Sysno;

use crate::guest::app::process::Process;

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
}

/// Serves one system call.
pub fn dispatch(process: &mut Process, number: u64, args: &Arguments) -> Flow {
    let Some(call) = usize::try_from(number).ok().and_then(Sysno::new) else {
        return Flow::Answer(Err(Errno::ENOSYS));
    };
    let flow = match call {
        Sysno::exit | Sysno::exit_group => Flow::Exit((args[0] & 0xff) as u8),
        Sysno::kill | Sysno::tgkill | Sysno::tkill => signals::send(process, call, args),
        Sysno::rt_sigprocmask => signals::set_mask(process, args),
        _ => Flow::Answer(answer(process, call, args)),
    };
    tracing::trace!(%call, ?args, ?flow, "system call");
    flow
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
        Sysno::mlock | Sysno::munlock | Sysno::mlockall | Sysno::munlockall => Ok(0),

        Sysno::rt_sigaction => signals::set_action(process, args),
        Sysno::rt_sigpending => signals::pending(process, args),
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

        Sysno::getpid | Sysno::gettid | Sysno::set_tid_address | Sysno::getpgrp => identity::pid(),
        Sysno::getppid => identity::parent_pid(),
        Sysno::getpgid | Sysno::getsid => identity::group(args),
        Sysno::getuid | Sysno::geteuid => Ok(u64::from(nix::unistd::geteuid().as_raw())),
        Sysno::getgid | Sysno::getegid => Ok(u64::from(nix::unistd::getegid().as_raw())),
        Sysno::getresuid | Sysno::getresgid => identity::real_effective_saved(process, call, args),
        Sysno::getgroups => Ok(0),
        Sysno::uname => identity::uname(process, args),
        Sysno::sysinfo => identity::sysinfo(process, args),
        Sysno::prctl => identity::prctl(process, args),
        Sysno::arch_prctl => identity::arch_prctl(process, args),
        Sysno::prlimit64 => identity::prlimit(process, args),
        Sysno::getrlimit => identity::getrlimit(process, args),
        Sysno::setrlimit => identity::setrlimit(process, args),
        Sysno::sched_getaffinity => identity::sched_getaffinity(process, args),
        Sysno::getcpu => identity::getcpu(process, args),
        Sysno::sched_yield | Sysno::set_robust_list => Ok(0),
        Sysno::getrandom => identity::getrandom(process, args),
        _ => unknown(process, call),
    }
}

/// Answers ENOSYS and names the call once: a program that then fails has its reason in the log.
fn unknown(process: &mut Process, call: Sysno) -> Answer {
    if process.refused.insert(u64::from(call.id().cast_unsigned())) {
        tracing::info!(%call, "the program made a system call that isn't there");
    }
    Err(Errno::ENOSYS)
}
