//! Bytes from file to file.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::copy_file_range as host_copy;
use nix::sys::sendfile::sendfile as host_sendfile;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, lseek as host_lseek, write};

use crate::guest::app::files::{MemoryHandle, Object, OpenFile, Part};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::files::{bytes_of, count_of, write_within};
use crate::guest::app::syscalls::{Answer, Arguments, int};

/// Most bytes that one call copies through the monitor's memory; bounds what it allocates.
const COPIED_BYTES: usize = 1 << 16;

pub(super) fn sendfile(process: &mut Process, &[to, from, offset, count, ..]: &Arguments) -> Answer {
    let (to, from) = pair(process, to, from)?;
    let mut at = read_offset(process, offset)?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let (length, beneath) = length_of_copy(&to, (&from, at), count)?;
    let send = || match &beneath {
        Some((handle, part)) => {
            let mut start = i64::try_from(part.bytes.start).map_err(|_| Errno::EINVAL)?;
            let send = |file: BorrowedFd<'_>| host_sendfile(bytes_of(&to)?, file, Some(&mut start), length);
            let sent = handle.read_part(part, send)?;
            move_on(handle, at.as_mut(), part, sent)?;
            Ok(sent)
        }
        None => host_sendfile(bytes_of(&to)?, bytes_of(&from)?, at.as_mut(), length),
    };
    let sent = write_within(&to, None, length, send)?;
    write_offset(process, offset, at)?;
    count_of(sent)
}

pub(super) fn copy_file_range(process: &mut Process, args: &Arguments) -> Answer {
    let &[from, from_offset, to, to_offset, count, flags] = args;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (to, from) = pair(process, to, from)?;
    if [&to, &from].iter().any(|file| matches!(file.object(), Object::Stream(_))) {
        return Err(Errno::EINVAL);
    }
    let (mut from_at, mut to_at) = (read_offset(process, from_offset)?, read_offset(process, to_offset)?);
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let start = to_at.map(u64::try_from).transpose().map_err(|_| Errno::EINVAL)?;
    let (length, beneath) = length_of_copy(&to, (&from, from_at), count)?;
    let copy = || match &beneath {
        Some((handle, part)) => {
            let copied = copy_beneath(handle, part, length, &to, to_at.as_mut())?;
            move_on(handle, from_at.as_mut(), part, copied)?;
            Ok(copied)
        }
        None => host_copy(bytes_of(&from)?, from_at.as_mut(), bytes_of(&to)?, to_at.as_mut(), length),
    };
    let copied = write_within(&to, start, length, copy)?;
    write_offset(process, from_offset, from_at)?;
    write_offset(process, to_offset, to_at)?;
    count_of(copied)
}

fn pair(process: &Process, to: u64, from: u64) -> Result<(Arc<OpenFile>, Arc<OpenFile>), Errno> {
    let table = process.files.descriptors();
    Ok((table.get(int(to))?, table.get(int(from))?))
}

/// What lies beneath an overlay's file, of which one call copies a part only.
type Beneath<'a> = Option<(&'a MemoryHandle, Part)>;

/// How much of what is in `from`, at `at` or where it stands, can be copied at once, and from where if it isn't
/// in the file's own descriptor.
///
/// What can't be accounted for beforehand because it has no end is `EINVAL`, after which programs copy by
/// reading and writing.
fn length_of_copy<'a>(
    to: &OpenFile,
    (from, at): (&'a OpenFile, Option<i64>),
    count: usize,
) -> Result<(usize, Beneath<'a>), Errno> {
    let is_memory = |file: &OpenFile| matches!(file.object(), Object::Memory(_));
    if !is_memory(to) && !is_memory(from) {
        return Ok((count, None));
    }
    let status = from.status()?;
    if status.kind() != libc::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let at = match at {
        Some(at) => at,
        None => host_lseek(bytes_of(from)?, 0, Whence::SeekCur)?,
    };
    let length = count.min(usize::try_from(status.size.saturating_sub(at)).unwrap_or(0));
    let Object::Memory(handle) = from.object() else { return Ok((length, None)) };
    let start = u64::try_from(at).map_err(|_| Errno::EINVAL)?;
    let parts = handle.parts(Some(start), u64::try_from(length).map_err(|_| Errno::EINVAL)?)?;
    let Some(part) = parts.and_then(|parts| parts.into_iter().next()) else { return Ok((length, None)) };
    let length = usize::try_from(part.bytes.end - part.bytes.start).map_err(|_| Errno::EINVAL)?;
    Ok((length, Some((handle, part))))
}

/// Copies through the monitor's memory: to the host's kernel the two are of different file systems.
fn copy_beneath(
    handle: &MemoryHandle,
    part: &Part,
    length: usize,
    to: &OpenFile,
    to_at: Option<&mut i64>,
) -> Result<usize, Errno> {
    let mut bytes = vec![0; length.min(COPIED_BYTES)];
    let start = i64::try_from(part.bytes.start).map_err(|_| Errno::EINVAL)?;
    let count = handle.read_part(part, |file| pread(file, &mut bytes, start))?;
    let Some(at) = to_at else { return write(bytes_of(to)?, &bytes[..count]) };
    let count = pwrite(bytes_of(to)?, &bytes[..count], *at)?;
    *at = at.saturating_add(i64::try_from(count).map_err(|_| Errno::EIO)?);
    Ok(count)
}

/// Notes that so much of a part was read: in the caller's offset, or the file's own.
fn move_on(handle: &MemoryHandle, at: Option<&mut i64>, part: &Part, count: usize) -> Result<(), Errno> {
    let start = i64::try_from(part.bytes.start).map_err(|_| Errno::EINVAL)?;
    let end = start.saturating_add(i64::try_from(count).map_err(|_| Errno::EIO)?);
    match at {
        Some(at) => *at = end,
        None => drop(handle.seek(end, Whence::SeekSet)?),
    }
    Ok(())
}

fn read_offset(process: &Process, address: u64) -> Result<Option<i64>, Errno> {
    if address == 0 { Ok(None) } else { process.memory().read(address).map(Some) }
}

fn write_offset(process: &Process, address: u64, offset: Option<i64>) -> Result<(), Errno> {
    match offset {
        Some(offset) => process.memory().write(address, &offset),
        None => Ok(()),
    }
}
