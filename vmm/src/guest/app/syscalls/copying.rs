//! Bytes from file to file.

use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::copy_file_range as host_copy;
use nix::sys::sendfile::sendfile as host_sendfile;
use nix::unistd::{Whence, lseek as host_lseek};

use crate::guest::app::files::{Object, OpenFile};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::files::{bytes_of, count_of, write_within};
use crate::guest::app::syscalls::{Answer, Arguments, int};

pub(super) fn sendfile(process: &mut Process, &[to, from, offset, count, ..]: &Arguments) -> Answer {
    let (to, from) = pair(process, to, from)?;
    let mut at = read_offset(process, offset)?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let length = length_of_copy(&to, (&from, at), count)?;
    let send = || host_sendfile(bytes_of(&to)?, bytes_of(&from)?, at.as_mut(), length);
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
    let (mut from_at, mut to_at) = (read_offset(process, from_offset)?, read_offset(process, to_offset)?);
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let start = to_at.map(u64::try_from).transpose().map_err(|_| Errno::EINVAL)?;
    let length = length_of_copy(&to, (&from, from_at), count)?;
    let copy = || host_copy(bytes_of(&from)?, from_at.as_mut(), bytes_of(&to)?, to_at.as_mut(), length);
    let copied = write_within(&to, start, length, copy)?;
    write_offset(process, from_offset, from_at)?;
    write_offset(process, to_offset, to_at)?;
    count_of(copied)
}

fn pair(process: &Process, to: u64, from: u64) -> Result<(Arc<OpenFile>, Arc<OpenFile>), Errno> {
    let table = process.files.descriptors();
    Ok((table.get(int(to))?, table.get(int(from))?))
}

/// How much of what is in `from`, at `at` or where it stands, can be copied.
///
/// What the host's kernel can't copy because it lies in two files, or can't be accounted for beforehand
/// because it has no end, is `EINVAL`, after which programs copy by reading and writing.
fn length_of_copy(to: &OpenFile, (from, at): (&OpenFile, Option<i64>), count: usize) -> Result<usize, Errno> {
    let is_memory = |file: &OpenFile| matches!(file.object(), Object::Memory(_));
    if !is_memory(to) && !is_memory(from) {
        return Ok(count);
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
    if let Object::Memory(handle) = from.object() {
        let start = u64::try_from(at).map_err(|_| Errno::EINVAL)?;
        if handle.parts(Some(start), u64::try_from(length).map_err(|_| Errno::EINVAL)?)?.is_some() {
            return Err(Errno::EINVAL);
        }
    }
    Ok(length)
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
