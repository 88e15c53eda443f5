//! Descriptors: copies, flags, locks.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl as host_fcntl};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::guest::app::files::{Object, OpenFile};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::files::wants_close_on_exec;
use crate::guest::app::syscalls::{Answer, Arguments, int};
use crate::host::calls;

const CLOSE_RANGE_UNSHARE: u64 = 2;
const CLOSE_RANGE_CLOEXEC: u64 = 4;

/// `struct flock` on x86-64.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Lock {
    kind: i16,
    whence: i16,
    padding: u32,
    start: i64,
    len: i64,
    owner: i32,
    end_padding: u32,
}

pub(super) fn close(process: &mut Process, &[file, ..]: &Arguments) -> Answer {
    process.files.descriptors_mut().close(int(file)).map(|()| 0)
}

pub(super) fn close_range(process: &mut Process, &[first, last, flags, ..]: &Arguments) -> Answer {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || last < first {
        return Err(Errno::EINVAL);
    }
    let bound = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    let table = process.files.descriptors_mut();
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        table.close_range_on_exec(bound(first), bound(last));
    } else {
        table.close_range(bound(first), bound(last));
    }
    Ok(0)
}

pub(super) fn dup(process: &mut Process, &[file, ..]: &Arguments) -> Answer {
    number(process.files.descriptors_mut().duplicate(int(file), 0, false)?)
}

pub(super) fn dup2(process: &mut Process, &[file, target, ..]: &Arguments) -> Answer {
    let (file, target) = (int(file), int(target));
    let table = process.files.descriptors_mut();
    if file == target {
        table.get(file)?;
    } else {
        table.duplicate_to(file, target, false)?;
    }
    number(target)
}

pub(super) fn dup3(process: &mut Process, &[file, target, flags, ..]: &Arguments) -> Answer {
    let (file, target) = (int(file), int(target));
    if file == target || int(flags) & !libc::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    process.files.descriptors_mut().duplicate_to(file, target, wants_close_on_exec(flags))?;
    number(target)
}

pub(super) fn fcntl(process: &mut Process, &[number_of, command, argument, ..]: &Arguments) -> Answer {
    let descriptor = int(number_of);
    let file = process.files.descriptors().get(descriptor)?;
    match int(command) {
        libc::F_DUPFD => {
            number(process.files.descriptors_mut().duplicate(descriptor, int(argument), false)?)
        }
        libc::F_DUPFD_CLOEXEC => {
            number(process.files.descriptors_mut().duplicate(descriptor, int(argument), true)?)
        }
        libc::F_GETFD => Ok(u64::from(process.files.descriptors().close_on_exec(descriptor)?)),
        libc::F_SETFD => {
            let on = int(argument) & libc::FD_CLOEXEC != 0;
            process.files.descriptors_mut().set_close_on_exec(descriptor, on).map(|()| 0)
        }
        libc::F_GETFL => flags(&file),
        libc::F_SETFL => set_flags(&file, int(argument)),
        command @ (libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW) => {
            let lock: Lock = process.memory().read(argument)?;
            set_lock(&file, command, lock)
        }
        command @ (libc::F_GETLK | libc::F_OFD_GETLK) => {
            let mut lock: Lock = process.memory().read(argument)?;
            get_lock(&file, command, &mut lock)?;
            process.memory().write(argument, &lock).map(|()| 0)
        }
        libc::F_GETPIPE_SZ => returned(host_fcntl(file.host().ok_or(Errno::EBADF)?, FcntlArg::F_GETPIPE_SZ)?),
        libc::F_SETPIPE_SZ => {
            let request = FcntlArg::F_SETPIPE_SZ(int(argument));
            returned(host_fcntl(file.host().ok_or(Errno::EBADF)?, request)?)
        }
        // Signals about a descriptor would come to the monitor; leases and seals aren't supported yet.
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn flock(process: &mut Process, &[file, operation, ..]: &Arguments) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    match file.host() {
        Some(fd) => calls::lock(fd, int(operation)).map(|()| 0),
        // The guest is the only one who could have it.
        None => Ok(0),
    }
}

/// The access mode and status flags.
fn flags(file: &OpenFile) -> Answer {
    match (file.object(), file.host()) {
        (Object::Synthesized(handle), _) => returned(handle.flags().bits()),
        (Object::PciBar(_), _) => returned(libc::O_RDWR),
        (Object::Directory(handle), _) => returned(handle.flags().bits()),
        (_, Some(fd)) => returned(host_fcntl(fd, FcntlArg::F_GETFL)?),
        (_, None) => Err(Errno::EBADF),
    }
}

/// Changes the flags that a guest may change; `O_ASYNC`, whose signals would come to the monitor, is
/// ignored.
fn set_flags(file: &OpenFile, wanted: i32) -> Answer {
    let changeable = OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_DIRECT;
    if let Object::Synthesized(handle) = file.object() {
        return handle.set_flags(OFlag::from_bits_retain(wanted)).map(|()| 0);
    }
    if let (Some(fd), false) = (file.host(), matches!(file.object(), Object::Directory(_))) {
        host_fcntl(fd, FcntlArg::F_SETFL(OFlag::from_bits_retain(wanted) & changeable))?;
    }
    Ok(0)
}

fn set_lock(file: &OpenFile, command: i32, lock: Lock) -> Answer {
    let Some(fd) = file.host() else {
        // A synthesized file: whoever asks is the only one who can.
        return Ok(0);
    };
    let lock = lock.for_host();
    let request = match command {
        libc::F_SETLK => FcntlArg::F_SETLK(&lock),
        libc::F_SETLKW => FcntlArg::F_SETLKW(&lock),
        libc::F_OFD_SETLK => FcntlArg::F_OFD_SETLK(&lock),
        _ => FcntlArg::F_OFD_SETLKW(&lock),
    };
    host_fcntl(fd, request).map(|_| 0)
}

fn get_lock(file: &OpenFile, command: i32, lock: &mut Lock) -> Result<(), Errno> {
    let Some(fd) = file.host() else {
        lock.kind = narrow(libc::F_UNLCK);
        return Ok(());
    };
    let mut found = lock.for_host();
    let request = match command {
        libc::F_GETLK => FcntlArg::F_GETLK(&mut found),
        _ => FcntlArg::F_OFD_GETLK(&mut found),
    };
    host_fcntl(fd, request)?;
    *lock = Lock {
        kind: found.l_type,
        whence: found.l_whence,
        start: found.l_start,
        len: found.l_len,
        owner: found.l_pid,
        ..*lock
    };
    Ok(())
}

impl Lock {
    fn for_host(self) -> libc::flock {
        libc::flock {
            l_type: self.kind,
            l_whence: self.whence,
            l_start: self.start,
            l_len: self.len,
            l_pid: self.owner,
        }
    }
}

fn narrow(value: i32) -> i16 {
    i16::try_from(value).unwrap_or(0)
}

fn returned(value: i32) -> Answer {
    u64::try_from(value).map_err(|_| Errno::EIO)
}

fn number(descriptor: i32) -> Answer {
    u64::try_from(descriptor).map_err(|_| Errno::EBADF)
}
