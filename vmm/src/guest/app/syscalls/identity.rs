//! Who the program is, and what machine it's told it runs on.

use nix::errno::Errno;
use syscalls::Sysno;
use zerocopy::IntoBytes;

use crate::guest::app::process::{PARENT_PID, PID, Process};
use crate::guest::app::syscalls::{Answer, Arguments, low};
use crate::memory::kernel;
use crate::memory::layout::{STACK_SIZE, WINDOW_SIZE};

/// Bytes of each field of `struct utsname`.
const NAME_LEN: usize = 65;
/// Descriptors that a program may have, as RLIMIT_NOFILE says.
const OPEN_FILES: u64 = 1024;
/// Resource limits that there are (RLIM_NLIMITS).
const LIMITS: u64 = 16;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

pub(super) fn pid() -> Answer {
    Ok(PID)
}

pub(super) fn parent_pid() -> Answer {
    Ok(PARENT_PID)
}

pub(super) fn group(&[of, ..]: &Arguments) -> Answer {
    if of == 0 || of == PID { Ok(PID) } else { Err(Errno::ESRCH) }
}

pub(super) fn real_effective_saved(process: &mut Process, call: Sysno, args: &Arguments) -> Answer {
    let id = match call {
        Sysno::getresuid => nix::unistd::geteuid().as_raw(),
        _ => nix::unistd::getegid().as_raw(),
    };
    for address in &args[..3] {
        process.memory().write(*address, &id)?;
    }
    Ok(0)
}

/// The program has one user id, and may set it again.
pub(super) fn set_user(call: Sysno, args: &Arguments) -> Answer {
    let own = nix::unistd::geteuid().as_raw();
    let count = match call {
        Sysno::setuid => 1,
        Sysno::setreuid => 2,
        _ => 3,
    };
    set_ids(own, &args[..count])
}

/// As [`set_user`], of the group.
pub(super) fn set_group(call: Sysno, args: &Arguments) -> Answer {
    let own = nix::unistd::getegid().as_raw();
    let count = match call {
        Sysno::setgid => 1,
        Sysno::setregid => 2,
        _ => 3,
    };
    set_ids(own, &args[..count])
}

/// All bits set leave an id as it is, where there is more than one.
fn set_ids(own: u32, ids: &[u64]) -> Answer {
    let keeps = |id: u32| id == own || ids.len() > 1 && id == u32::MAX;
    if ids.iter().all(|id| keeps(low(*id))) { Ok(0) } else { Err(Errno::EPERM) }
}

/// Linux on x86-64 is the only personality; all bits set ask for it.
pub(super) fn personality(&[persona, ..]: &Arguments) -> Answer {
    if [0, u32::MAX].contains(&low(persona)) { Ok(0) } else { Err(Errno::EINVAL) }
}

pub(super) fn uname(process: &mut Process, &[to, ..]: &Arguments) -> Answer {
    let host = nix::sys::utsname::uname()?;
    let domain = std::ffi::OsStr::new("(none)");
    let names = [
        host.sysname(),
        std::ffi::OsStr::new("cairn"),
        host.release(),
        host.version(),
        host.machine(),
        domain,
    ];
    let mut fields = [[0_u8; NAME_LEN]; 6];
    for (field, name) in fields.iter_mut().zip(names) {
        let bytes = name.as_encoded_bytes();
        let len = bytes.len().min(NAME_LEN - 1);
        field[..len].copy_from_slice(&bytes[..len]);
    }
    process.memory().write(to, &fields)?;
    Ok(0)
}

/// `struct sysinfo`: the guest's memory, and nothing of the host but its uptime.
pub(super) fn sysinfo(process: &mut Process, &[to, ..]: &Arguments) -> Answer {
    let uptime = nix::sys::sysinfo::sysinfo()?.uptime().as_secs();
    let (total, used) = (process.space.limit(), process.space.charged());
    let mut words = [0_u64; 14];
    words[0] = uptime;
    words[4] = total;
    words[5] = total.saturating_sub(used);
    // Word 10 begins with the number of processes; word 13 is the unit of the memory figures.
    words[10] = 1;
    words[13] = 1;
    process.memory().write(to, words.as_bytes())?;
    Ok(0)
}

pub(super) fn prctl(process: &mut Process, &[option, value, ..]: &Arguments) -> Answer {
    match i32::try_from(option).map_err(|_| Errno::EINVAL)? {
        libc::PR_SET_NAME => {
            let name = process.memory().read_string(value)?;
            process.set_name(name.as_bytes());
            Ok(0)
        }
        libc::PR_GET_NAME => process.memory().write(value, &process.name).map(|()| 0),
        libc::PR_GET_DUMPABLE => Ok(1),
        libc::PR_SET_DUMPABLE | libc::PR_SET_PDEATHSIG | libc::PR_SET_VMA => Ok(0),
        libc::PR_GET_NO_NEW_PRIVS | libc::PR_SET_NO_NEW_PRIVS => Ok(1),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn arch_prctl(process: &mut Process, &[code, value, ..]: &Arguments) -> Answer {
    match code {
        ARCH_SET_FS | ARCH_SET_GS if WINDOW_SIZE < value => return Err(Errno::EPERM),
        ARCH_SET_FS => process.segments.fs = value,
        ARCH_SET_GS => process.segments.gs = value,
        ARCH_GET_FS => process.memory().write(value, &process.segments.fs)?,
        ARCH_GET_GS => process.memory().write(value, &process.segments.gs)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub(super) fn prlimit(process: &mut Process, &[of, resource, new, old, ..]: &Arguments) -> Answer {
    if of != 0 && of != PID {
        return Err(Errno::ESRCH);
    }
    let current = limit(&process.limits, resource)?;
    if new != 0 {
        let wanted: [u64; 2] = process.memory().read(new)?;
        set_limit(process, resource, current, wanted)?;
    }
    if old != 0 {
        process.memory().write(old, &current)?;
    }
    Ok(0)
}

pub(super) fn getrlimit(process: &mut Process, &[resource, to, ..]: &Arguments) -> Answer {
    let current = limit(&process.limits, resource)?;
    process.memory().write(to, &current).map(|()| 0)
}

pub(super) fn setrlimit(process: &mut Process, &[resource, from, ..]: &Arguments) -> Answer {
    let current = limit(&process.limits, resource)?;
    let wanted: [u64; 2] = process.memory().read(from)?;
    set_limit(process, resource, current, wanted)
}

/// The soft and hard limit on `resource`.
pub(in crate::guest::app) fn limit(limits: &[(u64, [u64; 2])], resource: u64) -> Result<[u64; 2], Errno> {
    if LIMITS <= resource {
        return Err(Errno::EINVAL);
    }
    if let Some((_, limits)) = limits.iter().find(|(number, _)| *number == resource) {
        return Ok(*limits);
    }
    let unlimited = libc::RLIM_INFINITY;
    Ok(match u32::try_from(resource).unwrap_or(u32::MAX) {
        libc::RLIMIT_STACK => [STACK_SIZE, unlimited],
        libc::RLIMIT_NOFILE => [OPEN_FILES, OPEN_FILES],
        libc::RLIMIT_CORE => [0, unlimited],
        libc::RLIMIT_NPROC => [1, 1],
        _ => [unlimited, unlimited],
    })
}

fn set_limit(process: &mut Process, resource: u64, current: [u64; 2], wanted: [u64; 2]) -> Answer {
    if wanted[1] < wanted[0] {
        return Err(Errno::EINVAL);
    }
    if current[1] < wanted[1] {
        return Err(Errno::EPERM);
    }
    process.limits.retain(|(number, _)| *number != resource);
    process.limits.push((resource, wanted));
    if resource == u64::from(libc::RLIMIT_NOFILE) {
        process.files.descriptors_mut().set_limit(wanted[0]);
    }
    Ok(0)
}

/// One CPU.
pub(super) fn sched_getaffinity(process: &mut Process, &[of, size, to, ..]: &Arguments) -> Answer {
    if of != 0 && of != PID {
        return Err(Errno::ESRCH);
    }
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    process.memory().write(to, &1_u64)?;
    Ok(8)
}

pub(super) fn getcpu(process: &mut Process, &[cpu, node, ..]: &Arguments) -> Answer {
    for address in [cpu, node] {
        if address != 0 {
            process.memory().write(address, &0_u32)?;
        }
    }
    Ok(0)
}

pub(super) fn getrandom(process: &mut Process, &[to, len, flags, ..]: &Arguments) -> Answer {
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    kernel::getrandom(process.memory().incoming(to, len)?, flags)
}
