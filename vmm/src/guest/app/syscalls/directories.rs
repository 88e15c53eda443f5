//! Names: directories, links, and making, moving and removing them.

use std::sync::Arc;

use nix::errno::Errno;

use crate::guest::app::files::{
    At, Caller, FileView, Follow, LISTING_BYTES, OpenFile, OpenRequest, Removal, Renaming,
};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::{Answer, Arguments, int, low, view_at};

const RENAME_NOREPLACE: u64 = 1;
const RENAME_EXCHANGE: u64 = 2;
const CWD: u64 = libc::AT_FDCWD.cast_unsigned() as u64;

pub(super) fn getdents(process: &mut Process, &[directory, to, len, ..]: &Arguments) -> Answer {
    let directory: Arc<OpenFile> = process.files.descriptors().get(int(directory))?;
    let limit = usize::try_from(len).unwrap_or(usize::MAX).min(LISTING_BYTES);
    let records = directory.directory()?.read_entries(limit)?;
    process.memory().write_bytes(to, &records)?;
    Ok(records.len() as u64)
}

/// The answer counts the terminating zero.
pub(super) fn getcwd(process: &mut Process, &[to, len, ..]: &Arguments) -> Answer {
    let mut path = process.files.directory()?.as_bytes().to_vec();
    path.push(0);
    let needed = path.len() as u64;
    if len < needed {
        return Err(Errno::ERANGE);
    }
    process.memory().write_bytes(to, &path)?;
    Ok(needed)
}

pub(super) fn chdir(process: &mut Process, &[path, ..]: &Arguments) -> Answer {
    let path = process.memory().read_string(path)?;
    let (files, facts) = process.files_and_facts();
    let at = files.at(libc::AT_FDCWD, path.as_bytes())?;
    files.change_directory(&facts, &at).map(|()| 0)
}

pub(super) fn fchdir(process: &mut Process, &[directory, ..]: &Arguments) -> Answer {
    process.files.change_directory_to(int(directory)).map(|()| 0)
}

pub(super) fn mkdir(process: &mut Process, &[path, mode, ..]: &Arguments) -> Answer {
    mkdirat(process, &[CWD, path, mode, 0, 0, 0])
}

pub(super) fn mkdirat(process: &mut Process, &[directory, path, mode, ..]: &Arguments) -> Answer {
    let mode = low(mode) & !process.files.umask();
    view_at(process, int(directory), path, |view, caller, at| view.make_directory(caller, at, mode))?;
    Ok(0)
}

/// Regular files only: no guest makes devices, and pipes with names lead out of it.
pub(super) fn mknodat(process: &mut Process, &[directory, path, mode, ..]: &Arguments) -> Answer {
    if !matches!(low(mode) & libc::S_IFMT, 0 | libc::S_IFREG) {
        return Err(Errno::EPERM);
    }
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    let request = OpenRequest::new(flags, low(mode)).masked(process.files.umask());
    view_at(process, int(directory), path, |view, caller, at| view.open(caller, at, &request))?;
    Ok(0)
}

pub(super) fn mknod(process: &mut Process, &[path, mode, ..]: &Arguments) -> Answer {
    mknodat(process, &[CWD, path, mode, 0, 0, 0])
}

pub(super) fn rmdir(process: &mut Process, &[path, ..]: &Arguments) -> Answer {
    remove(process, CWD, path, Removal::Directory)
}

pub(super) fn unlink(process: &mut Process, &[path, ..]: &Arguments) -> Answer {
    remove(process, CWD, path, Removal::File)
}

pub(super) fn unlinkat(process: &mut Process, &[directory, path, flags, ..]: &Arguments) -> Answer {
    match int(flags) {
        0 => remove(process, directory, path, Removal::File),
        libc::AT_REMOVEDIR => remove(process, directory, path, Removal::Directory),
        _ => Err(Errno::EINVAL),
    }
}

fn remove(process: &Process, directory: u64, path: u64, what: Removal) -> Answer {
    view_at(process, int(directory), path, |view, caller, at| view.remove(caller, at, what))?;
    Ok(0)
}

pub(super) fn rename(process: &mut Process, &[from, to, ..]: &Arguments) -> Answer {
    renameat2(process, &[CWD, from, CWD, to, 0, 0])
}

pub(super) fn renameat(
    process: &mut Process,
    &[from_directory, from, to_directory, to, ..]: &Arguments,
) -> Answer {
    renameat2(process, &[from_directory, from, to_directory, to, 0, 0])
}

pub(super) fn renameat2(process: &mut Process, args: &Arguments) -> Answer {
    let &[from_directory, from, to_directory, to, flags, _] = args;
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 {
        return Err(Errno::EINVAL);
    }
    let how =
        Renaming { keep_existing: flags & RENAME_NOREPLACE != 0, exchange: flags & RENAME_EXCHANGE != 0 };
    two_paths(process, (from_directory, from), (to_directory, to), |view, caller, from, to| {
        view.rename(caller, from, to, how)
    })
}

pub(super) fn link(process: &mut Process, &[from, to, ..]: &Arguments) -> Answer {
    linkat(process, &[CWD, from, CWD, to, 0, 0])
}

pub(super) fn linkat(process: &mut Process, args: &Arguments) -> Answer {
    let &[from_directory, from, to_directory, to, flags, _] = args;
    let follow = match int(flags) {
        0 => Follow::No,
        libc::AT_SYMLINK_FOLLOW => Follow::Yes,
        _ => return Err(Errno::EINVAL),
    };
    two_paths(process, (from_directory, from), (to_directory, to), |view, caller, from, to| {
        view.link(caller, from, follow, to)
    })
}

pub(super) fn symlink(process: &mut Process, &[target, path, ..]: &Arguments) -> Answer {
    symlinkat(process, &[target, CWD, path, 0, 0, 0])
}

pub(super) fn symlinkat(process: &mut Process, &[target, directory, path, ..]: &Arguments) -> Answer {
    let target = process.memory().read_string(target)?;
    view_at(process, int(directory), path, |view, caller, at| {
        view.make_symlink(caller, target.as_bytes(), at)
    })?;
    Ok(0)
}

pub(super) fn readlink(process: &mut Process, &[path, to, len, ..]: &Arguments) -> Answer {
    readlinkat(process, &[CWD, path, to, len, 0, 0])
}

/// Writes no terminating zero, and cuts what is too long.
pub(super) fn readlinkat(process: &mut Process, &[directory, path, to, len, ..]: &Arguments) -> Answer {
    if int(len) <= 0 {
        return Err(Errno::EINVAL);
    }
    let target = view_at(process, int(directory), path, FileView::read_link)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(target.len());
    process.memory().write_bytes(to, &target[..len])?;
    Ok(len as u64)
}

fn two_paths(
    process: &Process,
    from: (u64, u64),
    to: (u64, u64),
    act: impl FnOnce(&FileView, &Caller<'_>, &At<'_>, &At<'_>) -> Result<(), Errno>,
) -> Answer {
    let from_path = process.memory().read_string(from.1)?;
    let to_path = process.memory().read_string(to.1)?;
    let from = process.files.at(int(from.0), from_path.as_bytes())?;
    let to = process.files.at(int(to.0), to_path.as_bytes())?;
    let facts = process.facts();
    act(process.files.view(), &process.files.caller(&facts), &from, &to)?;
    Ok(0)
}
