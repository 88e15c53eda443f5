//! What files are: status, rights, owners, times, file systems.

use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod as host_fchmod, futimens};
use nix::sys::time::TimeSpec;
use syscalls::Sysno;

use crate::guest::app::files::{
    At, Caller, FileView, Follow, Object, OpenFile, PERMISSIONS, Space, Status, Times, check_owner,
};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::{Answer, Arguments, int, low, view_at};

const CWD: u64 = libc::AT_FDCWD.cast_unsigned() as u64;
/// statx's flags about how fresh a network file's status must be; all are as fresh as can be here.
const SYNC_FLAGS: i32 = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
/// The bits of access(2).
const ACCESS_BITS: u64 = 7;
const MICROSECONDS: i64 = 1_000_000;

pub(super) fn stat(process: &mut Process, &[path, to, ..]: &Arguments) -> Answer {
    newfstatat(process, &[CWD, path, to, 0, 0, 0])
}

pub(super) fn lstat(process: &mut Process, &[path, to, ..]: &Arguments) -> Answer {
    newfstatat(process, &[CWD, path, to, libc::AT_SYMLINK_NOFOLLOW.cast_unsigned().into(), 0, 0])
}

pub(super) fn fstat(process: &mut Process, &[file, to, ..]: &Arguments) -> Answer {
    let status = process.files.descriptors().get(int(file))?.status()?;
    process.memory().write_bytes(to, &status.to_stat()).map(|()| 0)
}

pub(super) fn newfstatat(process: &mut Process, &[directory, path, to, flags, ..]: &Arguments) -> Answer {
    let status = status(process, directory, path, int(flags))?;
    process.memory().write_bytes(to, &status.to_stat()).map(|()| 0)
}

pub(super) fn statx(process: &mut Process, &[directory, path, flags, _mask, to, _]: &Arguments) -> Answer {
    let status = status(process, directory, path, int(flags))?;
    process.memory().write_bytes(to, &status.to_statx()).map(|()| 0)
}

fn status(process: &Process, directory: u64, path: u64, flags: i32) -> Result<Status, Errno> {
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | SYNC_FLAGS;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(file) = file_itself(process, directory, path, flags)? {
        return file.status();
    }
    let follow = if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { Follow::Yes } else { Follow::No };
    view_at(process, int(directory), path, |view, caller, at| view.status(caller, at, follow))
}

pub(super) fn access(process: &mut Process, &[path, mode, ..]: &Arguments) -> Answer {
    faccessat2(process, &[CWD, path, mode, 0, 0, 0])
}

pub(super) fn faccessat(process: &mut Process, &[directory, path, mode, ..]: &Arguments) -> Answer {
    faccessat2(process, &[directory, path, mode, 0, 0, 0])
}

pub(super) fn faccessat2(process: &mut Process, &[directory, path, mode, flags, ..]: &Arguments) -> Answer {
    let flags = int(flags);
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    if mode & !ACCESS_BITS != 0 || flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if file_itself(process, directory, path, flags)?.is_some() {
        return Ok(0);
    }
    let follow = if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { Follow::Yes } else { Follow::No };
    view_at(process, int(directory), path, |view, caller, at| view.access(caller, at, follow, low(mode)))?;
    Ok(0)
}

pub(super) fn chmod(process: &mut Process, &[path, mode, ..]: &Arguments) -> Answer {
    fchmodat(process, &[CWD, path, mode, 0, 0, 0])
}

pub(super) fn fchmodat(process: &mut Process, &[directory, path, mode, ..]: &Arguments) -> Answer {
    view_at(process, int(directory), path, |view, caller, at| view.change_mode(caller, at, low(mode)))?;
    Ok(0)
}

pub(super) fn fchmod(process: &mut Process, &[file, mode, ..]: &Arguments) -> Answer {
    let file = changeable(process, file)?;
    match (file.object(), file.host()) {
        (Object::Directory(_), _) => {
            by_path(process, &file, |view, caller, at| view.change_mode(caller, at, low(mode)))
        }
        (Object::Memory(handle), _) => handle.set_mode(low(mode) & PERMISSIONS).map(|()| 0),
        (_, Some(fd)) => host_fchmod(fd, Mode::from_bits_truncate(low(mode) & PERMISSIONS)).map(|()| 0),
        (_, None) => Err(Errno::EPERM),
    }
}

pub(super) fn chown(process: &mut Process, &[path, user, group, ..]: &Arguments) -> Answer {
    fchownat(process, &[CWD, path, user, group, 0, 0])
}

pub(super) fn lchown(process: &mut Process, &[path, user, group, ..]: &Arguments) -> Answer {
    fchownat(process, &[CWD, path, user, group, libc::AT_SYMLINK_NOFOLLOW.cast_unsigned().into(), 0])
}

pub(super) fn fchown(process: &mut Process, &[file, user, group, ..]: &Arguments) -> Answer {
    let file = changeable(process, file)?;
    check_owner(&file.status()?, (low(user), low(group))).map(|()| 0)
}

pub(super) fn fchownat(
    process: &mut Process,
    &[directory, path, user, group, flags, _]: &Arguments,
) -> Answer {
    let owner = (low(user), low(group));
    if let Some(file) = file_itself(process, directory, path, int(flags))? {
        file.check_changeable()?;
        return check_owner(&file.status()?, owner).map(|()| 0);
    }
    let follow = if int(flags) & libc::AT_SYMLINK_NOFOLLOW == 0 { Follow::Yes } else { Follow::No };
    view_at(process, int(directory), path, |view, caller, at| view.change_owner(caller, at, follow, owner))?;
    Ok(0)
}

/// Without a path, the file of the descriptor is meant: futimens.
pub(super) fn utimensat(process: &mut Process, &[directory, path, times, flags, ..]: &Arguments) -> Answer {
    let times = read_times(process, times)?;
    if path == 0 {
        let file = changeable(process, directory)?;
        return match (file.object(), file.host()) {
            (Object::Directory(_), _) => {
                by_path(process, &file, |view, caller, at| view.change_times(caller, at, Follow::Yes, &times))
            }
            (Object::Memory(handle), _) => handle.set_times(&times).map(|()| 0),
            (_, Some(fd)) => futimens(fd, &times.accessed, &times.modified).map(|()| 0),
            (_, None) => Err(Errno::EPERM),
        };
    }
    let follow = match int(flags) {
        0 => Follow::Yes,
        libc::AT_SYMLINK_NOFOLLOW => Follow::No,
        _ => return Err(Errno::EINVAL),
    };
    view_at(process, int(directory), path, |view, caller, at| view.change_times(caller, at, follow, &times))?;
    Ok(0)
}

/// `struct utimbuf`: whole seconds.
pub(super) fn utime(process: &mut Process, &[path, times, ..]: &Arguments) -> Answer {
    let times = match times {
        0 => read_times(process, 0)?,
        address => {
            let [accessed, modified]: [i64; 2] = process.memory().read(address)?;
            Times { accessed: TimeSpec::new(accessed, 0), modified: TimeSpec::new(modified, 0) }
        }
    };
    set_times(process, path, &times)
}

/// Two of `struct timeval`: microseconds.
pub(super) fn utimes(process: &mut Process, &[path, times, ..]: &Arguments) -> Answer {
    let mut times = match times {
        0 => return set_times(process, path, &read_times(process, 0)?),
        address => process.memory().read::<[[i64; 2]; 2]>(address)?,
    };
    for [_, fraction] in &mut times {
        if !(0..MICROSECONDS).contains(fraction) {
            return Err(Errno::EINVAL);
        }
        *fraction *= 1000;
    }
    let [accessed, modified] = times.map(|[seconds, nanoseconds]| TimeSpec::new(seconds, nanoseconds));
    set_times(process, path, &Times { accessed, modified })
}

fn set_times(process: &Process, path: u64, times: &Times) -> Answer {
    let set =
        |view: &FileView, caller: &Caller<'_>, at: &At<'_>| view.change_times(caller, at, Follow::Yes, times);
    view_at(process, libc::AT_FDCWD, path, set).map(|()| 0)
}

fn read_times(process: &Process, address: u64) -> Result<Times, Errno> {
    if address == 0 {
        let now = TimeSpec::new(0, libc::UTIME_NOW);
        return Ok(Times { accessed: now, modified: now });
    }
    let [accessed, modified]: [[i64; 2]; 2] = process.memory().read(address)?;
    let time = |[seconds, nanoseconds]: [i64; 2]| TimeSpec::new(seconds, nanoseconds);
    Ok(Times { accessed: time(accessed), modified: time(modified) })
}

pub(super) fn statfs(process: &mut Process, &[path, to, ..]: &Arguments) -> Answer {
    let space = view_at(process, libc::AT_FDCWD, path, FileView::space)?;
    write_space(process, to, &space)
}

pub(super) fn fstatfs(process: &mut Process, &[file, to, ..]: &Arguments) -> Answer {
    let space = process.files.descriptors().get(int(file))?.space()?;
    write_space(process, to, &space)
}

/// `struct statfs` of x86-64: 15 words, of which the last four are spare.
fn write_space(process: &Process, to: u64, space: &Space) -> Answer {
    let words = [
        space.kind.cast_unsigned(),
        space.block_size.cast_unsigned(),
        space.blocks,
        space.blocks_free,
        space.blocks_available,
        space.files,
        space.files_free,
        0,
        space.name_length.cast_unsigned(),
        space.block_size.cast_unsigned(),
        space.flags.cast_unsigned(),
        0,
        0,
        0,
        0,
    ];
    process.memory().write(to, &words).map(|()| 0)
}

pub(super) fn umask(process: &mut Process, &[mask, ..]: &Arguments) -> Answer {
    Ok(u64::from(process.files.set_umask(low(mask))))
}

/// The calls on extended attributes. No file of the guest has any, and none can be given: on the host some
/// are rights.
pub(super) fn attributes(process: &mut Process, call: Sysno, args: &Arguments) -> Answer {
    let &[file, ..] = args;
    match call {
        Sysno::fgetxattr | Sysno::flistxattr | Sysno::fsetxattr | Sysno::fremovexattr => {
            process.files.descriptors().get(int(file))?;
        }
        _ => {
            let look =
                |view: &FileView, caller: &Caller<'_>, at: &At<'_>| view.status(caller, at, Follow::No);
            view_at(process, libc::AT_FDCWD, file, look)?;
        }
    }
    match call {
        Sysno::listxattr | Sysno::llistxattr | Sysno::flistxattr => Ok(0),
        Sysno::getxattr | Sysno::lgetxattr | Sysno::fgetxattr => Err(Errno::ENODATA),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// The file of `directory` itself, when the path is empty and `AT_EMPTY_PATH` says that this is meant.
fn file_itself(
    process: &Process,
    directory: u64,
    path: u64,
    flags: i32,
) -> Result<Option<Arc<OpenFile>>, Errno> {
    if flags & libc::AT_EMPTY_PATH == 0 || path != 0 && !process.memory().read_string(path)?.is_empty() {
        return Ok(None);
    }
    if int(directory) == libc::AT_FDCWD {
        return Ok(Some(Arc::clone(process.files.directory_file())));
    }
    process.files.descriptors().get(int(directory)).map(Some)
}

fn changeable(process: &Process, file: u64) -> Result<Arc<OpenFile>, Errno> {
    let file = process.files.descriptors().get(int(file))?;
    let flags = match file.object() {
        Object::Memory(handle) => handle.flags()?,
        Object::Directory(handle) => handle.flags(),
        Object::Synthesized(handle) => handle.flags(),
        // The host knows.
        _ => OFlag::empty(),
    };
    if flags.contains(OFlag::O_PATH) {
        return Err(Errno::EBADF);
    }
    file.check_changeable()?;
    Ok(file)
}

/// Runs `act` on the place where an open directory is now.
fn by_path(
    process: &Process,
    file: &OpenFile,
    act: impl FnOnce(&FileView, &Caller<'_>, &At<'_>) -> Result<(), Errno>,
) -> Answer {
    let path = file.current_path()?;
    let at = At::new(path.clone(), path.as_bytes());
    let facts = process.facts();
    act(process.files.view(), &process.files.caller(&facts), &at)?;
    Ok(0)
}
