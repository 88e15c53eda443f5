//! What a thread that serves a guest may still ask of the host: no new privileges, and only the
//! system calls that serving takes.

use std::collections::BTreeMap;

use nix::sys::prctl;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::kvm::dirty_log;

/// What of each system call is allowed: anything, or what fits one of the rules.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Why a thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// prctl refused.
    #[error("the guest's thread could not give up new privileges")]
    NoNewPrivileges(#[source] nix::errno::Errno),
    /// The filter was refused.
    #[error(
        "the guest's thread could not be confined by seccomp; does this kernel have CONFIG_SECCOMP_FILTER?"
    )]
    Filter(#[source] seccompiler::Error),
}

/// Everything that runs a guest: the run loop, the system calls of the program that the VMM hands to
/// the host, the engine, memory for all of it, and messages. Absent on purpose: everything that starts
/// programs or reaches the network, other processes, mounts, modules or the clock.
const ALLOWED: &[i64] = &[
    // The vCPU, its memory slots and dirty log, and terminals. Devices are opened before this.
    libc::SYS_ioctl,
    // Memory: the window, mirrors, the allocator.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    // To and from the window. The seccomp filter can't see whose memory it is; the VMM only ever
    // passes its own process id, and without ptrace rights no other works.
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // Files, all beneath granted directories.
    libc::SYS_openat2,
    libc::SYS_openat,
    libc::SYS_open,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_memfd_create,
    libc::SYS_eventfd2,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_fgetxattr,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_umask,
    // Time, randomness, and what the program is told of its host.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_pause,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrusage,
    // Threads that wait for each other and end, and aborting with a message should the VMM have a bug.
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What every confined thread takes but those that serve an app guest's program ([`ALLOWED`]): memory, messages, other
/// threads, its end.
const ALLOWED_ANY: &[i64] = &[
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    // Rust's library makes sure that what it closes is open.
    libc::SYS_fcntl,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    // Waiting for other threads, kicking them, ending, and aborting with a message.
    libc::SYS_futex,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What a vCPU takes beside that: the console's output, the engine, and reading a store whose files another thread has
/// opened. Files and everything else are opened before, and disks are other threads' business.
const ALLOWED_VCPU: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_clock_nanosleep,
    libc::SYS_sched_getaffinity,
    libc::SYS_pread64,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
];

/// What a device takes beside that: the image, which is open, and which a format may let grow.
const ALLOWED_DEVICE: &[i64] = &[
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    // The C library's way to do that.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
];

/// What the thread that copies asynchronous checkpoints takes beside that.
const ALLOWED_COPIER: &[i64] = &[libc::SYS_poll, libc::SYS_ppoll];

/// What the thread that writes the store takes beside that: files in a directory that is open, which appear, grow, are
/// renamed and go, and getting them to the disk. Where somebody has deleted the store, it's made again, with a lock that
/// names its host.
const ALLOWED_STORE: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_uname,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_getdents64,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_flock,
];

/// What these may call and don't get: a panic that tells where it came from (RUST_BACKTRACE) looks for names in files. It
/// can do without, and whoever catches it goes on.
const REFUSED: &[i64] = &[libc::SYS_open, libc::SYS_openat, libc::SYS_readlink, libc::SYS_getcwd];
/// The same of the thread that writes the store, which opens files itself.
const REFUSED_STORE: &[i64] = &[libc::SYS_open, libc::SYS_readlink, libc::SYS_getcwd];

/// The bits of an ioctl's number that say whose it is, and KVM's.
const IOCTL_TYPE: u64 = 0xff00;
const IOCTL_KVM: u64 = (kvm_bindings::KVMIO as u64) << 8;

/// The same of userfaultfd.
const IOCTL_USERFAULT: u64 = (linux_raw_sys::general::USERFAULTFD_IOC as u64) << 8;

/// Confines the calling thread, which serves an app guest, for the rest of its life. A system call outside of
/// the list ends the process: no guest can bring the VMM there, so it means that somebody else is in control.
///
/// # Errors
/// [`SandboxError`]: the thread must not run a guest then.
pub fn confine() -> Result<(), SandboxError> {
    apply(whole(ALLOWED))
}

/// Confines the calling thread, which runs a vCPU of a guest with a kernel, in the same way. It can make no
/// memory executable, and of all devices only KVM is within reach.
///
/// # Errors
/// [`SandboxError`]: the thread must not run a guest then.
pub fn confine_vcpu() -> Result<(), SandboxError> {
    confine_linux(ALLOWED_VCPU)
}

/// Confines the calling thread, which serves a device of a guest with a kernel, likewise. What it works with is
/// open.
///
/// # Errors
/// [`SandboxError`]: the thread must not serve a guest then.
pub fn confine_device() -> Result<(), SandboxError> {
    confine_linux(ALLOWED_DEVICE)
}

/// Confines the calling thread, which copies an app guest's memory, likewise. Of all devices userfaultfd is within
/// reach, and of KVM what clears its log.
///
/// # Errors
/// [`SandboxError`]: no page may be frozen then.
pub fn confine_copier() -> Result<(), SandboxError> {
    let clear_log = masked(1, u32::MAX.into(), dirty_log::clear_request())?;
    let ioctl = [masked(1, IOCTL_TYPE, IOCTL_USERFAULT)?, clear_log].concat();
    confine_to(ALLOWED_COPIER, REFUSED, Some(ioctl))
}

/// Confines the calling thread, which writes the store of a guest, likewise. It may open files: a store has new ones
/// all the time. No device is within reach.
///
/// # Errors
/// [`SandboxError`]: nothing may be stored then.
pub fn confine_store() -> Result<(), SandboxError> {
    confine_to(ALLOWED_STORE, REFUSED_STORE, None)
}

/// Confines the calling thread, which compares and copies memory for another, likewise. It has nothing to ask of a
/// device, not even of KVM.
///
/// # Errors
/// [`SandboxError`]: the thread must not help then.
pub fn confine_helper() -> Result<(), SandboxError> {
    confine_to(&[], REFUSED, None)
}

fn confine_linux(more: &[i64]) -> Result<(), SandboxError> {
    confine_to(more, REFUSED, Some(masked(1, IOCTL_TYPE, IOCTL_KVM)?))
}

fn confine_to(more: &[i64], refused: &[i64], ioctl: Option<Vec<SeccompRule>>) -> Result<(), SandboxError> {
    let mut rules = whole(&[ALLOWED_ANY, more, refused].concat());
    // No memory can be made executable.
    let no_code = masked(2, libc::PROT_EXEC.unsigned_abs().into(), 0)?;
    rules.insert(libc::SYS_mmap, no_code.clone());
    rules.insert(libc::SYS_mprotect, no_code);
    if let Some(ioctl) = ioctl {
        rules.insert(libc::SYS_ioctl, ioctl);
    }
    // Of several filters the strictest counts, and behind the other one there is no way to add this one.
    let refuse = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    install(whole(refused), SeccompAction::Allow, refuse)?;
    apply(rules)
}

fn whole(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, vec![])).collect()
}

/// The condition that the bits `mask` of argument `index` are `value`.
fn masked(index: u8, mask: u64, value: u64) -> Result<Vec<SeccompRule>, SandboxError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map(|rule| vec![rule])
        .map_err(|error| SandboxError::Filter(error.into()))
}

fn apply(rules: Rules) -> Result<(), SandboxError> {
    install(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// Adds a filter: what becomes of calls that no rule fits, and of the others.
fn install(rules: Rules, others: SeccompAction, fitting: SeccompAction) -> Result<(), SandboxError> {
    prctl::set_no_new_privs().map_err(SandboxError::NoNewPrivileges)?;
    let filter = |error: seccompiler::BackendError| SandboxError::Filter(error.into());
    let program: seccompiler::BpfProgram = SeccompFilter::new(rules, others, fitting, TargetArch::x86_64)
        .map_err(filter)?
        .try_into()
        .map_err(filter)?;
    seccompiler::apply_filter(&program).map_err(SandboxError::Filter)
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;
    use std::fs::File;
    use std::io::{ErrorKind, Read};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// A call outside of the list would end all tests here.
    #[test]
    fn a_confined_thread_panics_and_tells_where_and_opens_nothing() {
        for confine in [confine_vcpu, confine_device, confine_helper, confine_copier] {
            let confined = std::thread::spawn(move || {
                let mut open = File::open("/proc/self/status").unwrap();
                confine().unwrap();
                let told = Backtrace::force_capture().to_string();
                let caught = catch_unwind(AssertUnwindSafe(|| panic!("{told}")));
                let refused = File::open("/proc/self/status").map(drop).unwrap_err();
                open.read_exact(&mut [0; 4]).unwrap();
                (caught.is_err(), refused.kind(), vec![0_u8; 64 << 20].len())
            });
            let (panicked, refused, memory) = confined.join().unwrap();
            assert!(panicked && refused == ErrorKind::PermissionDenied && memory == 64 << 20);
        }
    }
}
