//! Opening files, and the bytes in them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate as host_fallocate, posix_fadvise};
use nix::unistd::{Whence, fdatasync as host_fdatasync, fsync as host_fsync, lseek as host_lseek};

use crate::guest::app::files::{MemoryHandle, Object, OpenFile, OpenRequest, Part, SynthesizedHandle};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::{Answer, Arguments, int, low, view_at};
use crate::memory::program::HostBuffer;
use crate::memory::transfer;

/// Most bytes that one call reads or writes of a synthesized file; bounds what the monitor allocates.
const SYNTHESIZED_BYTES: usize = 1 << 20;
/// Bytes of `struct open_how` that are known (openat2(2)).
const OPEN_HOW: u64 = 24;
/// Most bytes of `struct open_how` that a newer program may give, the rest being zeros.
const OPEN_HOW_MAX: u64 = 4096;
/// memfd_create's flags: MFD_CLOEXEC, MFD_ALLOW_SEALING, and the two about execution.
const MFD_FLAGS: u64 = 0x1 | 0x2 | 0x8 | 0x10;
const MFD_CLOEXEC: u64 = 1;

pub(super) fn open(process: &mut Process, &[path, flags, mode, ..]: &Arguments) -> Answer {
    open_at(process, libc::AT_FDCWD, path, int(flags), low(mode))
}

pub(super) fn creat(process: &mut Process, &[path, mode, ..]: &Arguments) -> Answer {
    open_at(process, libc::AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, low(mode))
}

pub(super) fn openat(process: &mut Process, &[directory, path, flags, mode, ..]: &Arguments) -> Answer {
    open_at(process, int(directory), path, int(flags), low(mode))
}

/// The rules for resolving that a program may ask for are those of a sandbox of its own. They are not
/// supported: a program that relies on one must not believe that it holds.
pub(super) fn openat2(process: &mut Process, &[directory, path, how, size, ..]: &Arguments) -> Answer {
    if size < OPEN_HOW {
        return Err(Errno::EINVAL);
    }
    if size > OPEN_HOW_MAX {
        return Err(Errno::E2BIG);
    }
    let rest = usize::try_from(size - OPEN_HOW).map_err(|_| Errno::E2BIG)?;
    let unknown: Vec<u8> = process.memory().read_array(how.saturating_add(OPEN_HOW), rest)?;
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve]: [u64; 3] = process.memory().read(how)?;
    if resolve != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = i32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    open_at(process, int(directory), path, flags, low(mode))
}

fn open_at(process: &mut Process, directory: i32, path: u64, flags: i32, mode: u32) -> Answer {
    let path = process.memory().read_string(path)?;
    let (files, facts) = process.files_and_facts();
    let at = files.at(directory, path.as_bytes())?;
    let close_on_exec = flags & libc::O_CLOEXEC != 0;
    number(files.open(&facts, &at, OpenRequest::new(flags, mode), close_on_exec)?)
}

pub(super) fn memfd_create(process: &mut Process, &[name, flags, ..]: &Arguments) -> Answer {
    let name = process.memory().read_string(name)?;
    if flags & !MFD_FLAGS != 0 || name.as_bytes().len() > 249 {
        return Err(Errno::EINVAL);
    }
    let file = process.files.view().memory_file(&format!("/memfd:{} (deleted)", name.to_string_lossy()))?;
    number(process.files.descriptors_mut().insert(Arc::new(file), flags & MFD_CLOEXEC != 0)?)
}

pub(super) fn read(process: &mut Process, &[file, to, len, ..]: &Arguments) -> Answer {
    receive(process, file, &[(to, len)], None)
}

pub(super) fn pread(process: &mut Process, &[file, to, len, offset, ..]: &Arguments) -> Answer {
    receive(process, file, &[(to, len)], Some(position(offset)?))
}

pub(super) fn readv(process: &mut Process, &[file, spans, count, ..]: &Arguments) -> Answer {
    let spans = read_spans(process, spans, count)?;
    receive(process, file, &spans, None)
}

pub(super) fn preadv(process: &mut Process, &[file, spans, count, offset, ..]: &Arguments) -> Answer {
    let spans = read_spans(process, spans, count)?;
    receive(process, file, &spans, Some(position(offset)?))
}

/// Flags ask for ways of reading that a host's file may not have; programs go on without.
pub(super) fn preadv2(process: &mut Process, args: &Arguments) -> Answer {
    match args {
        [.., flags] if *flags != 0 => Err(Errno::EOPNOTSUPP),
        [.., u64::MAX, _, _] => readv(process, args),
        _ => preadv(process, args),
    }
}

pub(super) fn write(process: &mut Process, &[file, from, len, ..]: &Arguments) -> Answer {
    send(process, file, &[(from, len)], None)
}

pub(super) fn pwrite(process: &mut Process, &[file, from, len, offset, ..]: &Arguments) -> Answer {
    send(process, file, &[(from, len)], Some(position(offset)?))
}

pub(super) fn writev(process: &mut Process, &[file, spans, count, ..]: &Arguments) -> Answer {
    let spans = read_spans(process, spans, count)?;
    send(process, file, &spans, None)
}

pub(super) fn pwritev(process: &mut Process, &[file, spans, count, offset, ..]: &Arguments) -> Answer {
    let spans = read_spans(process, spans, count)?;
    send(process, file, &spans, Some(position(offset)?))
}

/// As [`preadv2`].
pub(super) fn pwritev2(process: &mut Process, args: &Arguments) -> Answer {
    match args {
        [.., flags] if *flags != 0 => Err(Errno::EOPNOTSUPP),
        [.., u64::MAX, _, _] => writev(process, args),
        _ => pwritev(process, args),
    }
}

pub(super) fn lseek(process: &mut Process, &[file, offset, whence, ..]: &Arguments) -> Answer {
    let (offset, whence) = (offset.cast_signed(), int(whence));
    let file = process.files.descriptors().get(int(file))?;
    let position = match file.object() {
        Object::Host(fd) => host_lseek(fd, offset, known(whence)?)?,
        Object::Memory(handle) => handle.seek(offset, known(whence)?)?,
        Object::Directory(handle) => handle.seek(offset, whence)?,
        Object::Synthesized(handle) => handle.seek(offset, whence)?,
        Object::Stream(_) | Object::PciBar(_) | Object::Epoll(_) => return Err(Errno::ESPIPE),
    };
    u64::try_from(position).map_err(|_| Errno::EOVERFLOW)
}

pub(super) fn ftruncate(process: &mut Process, &[file, size, ..]: &Arguments) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    file.object().set_size(size.cast_signed()).map(|()| 0)
}

pub(super) fn truncate(process: &mut Process, &[path, size, ..]: &Arguments) -> Answer {
    let size = size.cast_signed();
    view_at(process, libc::AT_FDCWD, path, |view, caller, at| view.resize(caller, at, size))?;
    Ok(0)
}

pub(super) fn fallocate(process: &mut Process, &[file, mode, offset, len, ..]: &Arguments) -> Answer {
    let (offset, len) = (offset.cast_signed(), len.cast_signed());
    let file = process.files.descriptors().get(int(file))?;
    let how = FallocateFlags::from_bits_retain(int(mode));
    match file.object() {
        Object::Memory(handle) => handle.allocate(how, offset, len).map(|()| 0),
        Object::Stream(_) => Err(Errno::ESPIPE),
        _ => host_fallocate(bytes_of(&file)?, how, offset, len).map(|()| 0),
    }
}

pub(super) fn fsync(process: &mut Process, &[file, ..]: &Arguments) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    to_disk(&file, |fd| host_fsync(fd))
}

pub(super) fn fdatasync(process: &mut Process, &[file, ..]: &Arguments) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    to_disk(&file, |fd| host_fdatasync(fd))
}

fn to_disk(file: &OpenFile, write: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>) -> Answer {
    file.host().map_or_else(|| file.write_back(), write).map(|()| 0)
}

/// The whole host's files, since nothing less holds all that the program has written.
pub(super) fn sync() -> Answer {
    nix::unistd::sync();
    Ok(0)
}

pub(super) fn syncfs(process: &mut Process, &[file, ..]: &Arguments) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    match file.host() {
        Some(fd) => nix::unistd::syncfs(fd).map(|()| 0),
        None => Ok(0),
    }
}

pub(super) fn fadvise(process: &mut Process, &[file, offset, len, advice, ..]: &Arguments) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    let advice = match int(advice) {
        libc::POSIX_FADV_NORMAL => PosixFadviseAdvice::POSIX_FADV_NORMAL,
        libc::POSIX_FADV_RANDOM => PosixFadviseAdvice::POSIX_FADV_RANDOM,
        libc::POSIX_FADV_SEQUENTIAL => PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL,
        libc::POSIX_FADV_WILLNEED => PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        libc::POSIX_FADV_DONTNEED => PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        libc::POSIX_FADV_NOREUSE => PosixFadviseAdvice::POSIX_FADV_NOREUSE,
        _ => return Err(Errno::EINVAL),
    };
    match file.host() {
        Some(fd) => posix_fadvise(fd, offset.cast_signed(), len.cast_signed(), advice).map(|()| 0),
        None => Ok(0),
    }
}

/// Reads into the program's memory.
fn receive(process: &Process, file: u64, spans: &[(u64, u64)], offset: Option<i64>) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    match file.object() {
        Object::Stream(_) if offset.is_some() => Err(Errno::ESPIPE),
        Object::Host(_) | Object::Stream(_) | Object::Memory(_) | Object::Epoll(_) => {
            let memory = process.memory();
            let into: Result<Vec<HostBuffer>, Errno> =
                spans.iter().map(|(address, len)| memory.incoming(*address, *len)).collect();
            let count = read_bytes(&file, &into?, offset);
            // Again: a checkpoint may have been taken after the first mark and before the bytes came.
            for (address, len) in spans {
                memory.touch(&(*address..address.saturating_add(*len)));
            }
            count_of(count?)
        }
        Object::Directory(_) => Err(Errno::EISDIR),
        Object::Synthesized(handle) => receive_synthesized(process, handle, spans, offset),
        Object::PciBar(_) => Err(Errno::EIO),
    }
}

/// Reads where the bytes are.
fn read_bytes(file: &OpenFile, into: &[HostBuffer], offset: Option<i64>) -> Result<usize, Errno> {
    if let Object::Memory(handle) = file.object() {
        let wanted: usize = into.iter().map(|buffer| buffer.len()).sum();
        let wanted = u64::try_from(wanted).map_err(|_| Errno::EINVAL)?;
        if let Some(parts) = handle.parts(unsigned(offset)?, wanted)? {
            let count = read_parts(handle, into, &parts)?;
            if offset.is_none() {
                host_lseek(handle.fd(), i64::try_from(count).map_err(|_| Errno::EIO)?, Whence::SeekCur)?;
            }
            return Ok(count);
        }
    }
    transfer::read(bytes_of(file)?, into, offset)
}

/// Reads parts one after the other, until one is short.
fn read_parts(handle: &MemoryHandle, into: &[HostBuffer], parts: &[Part]) -> Result<usize, Errno> {
    let mut done = 0;
    for part in parts {
        let length = usize::try_from(part.bytes.end - part.bytes.start).map_err(|_| Errno::EINVAL)?;
        let buffers = HostBuffer::cut(into, done..done + length);
        let at = i64::try_from(part.bytes.start).map_err(|_| Errno::EINVAL)?;
        let count = match handle.read_part(part, |file| transfer::read(file, &buffers, Some(at))) {
            Err(error) if done == 0 => return Err(error),
            count => count.unwrap_or(0),
        };
        done += count;
        if count < length {
            break;
        }
    }
    Ok(done)
}

fn receive_synthesized(
    process: &Process,
    handle: &SynthesizedHandle,
    spans: &[(u64, u64)],
    offset: Option<i64>,
) -> Answer {
    let bytes = handle.read(unsigned(offset)?, wanted(spans))?;
    let mut rest = &bytes[..];
    for (address, len) in spans {
        let (part, after) = rest.split_at(usize::try_from(*len).unwrap_or(usize::MAX).min(rest.len()));
        process.memory().write_bytes(*address, part)?;
        rest = after;
    }
    count_of(bytes.len())
}

/// Writes from the program's memory.
fn send(process: &Process, file: u64, spans: &[(u64, u64)], offset: Option<i64>) -> Answer {
    let file = process.files.descriptors().get(int(file))?;
    match file.object() {
        Object::Stream(_) if offset.is_some() => Err(Errno::ESPIPE),
        Object::Host(_) | Object::Stream(_) | Object::Memory(_) | Object::Epoll(_) => {
            let memory = process.memory();
            let from: Result<Vec<HostBuffer>, Errno> =
                spans.iter().map(|(address, len)| memory.outgoing(*address, *len)).collect();
            let from = from?;
            let length = from.iter().map(|buffer| buffer.len()).sum();
            let write = || transfer::write(bytes_of(&file)?, &from, offset);
            count_of(write_within(&file, unsigned(offset)?, length, write)?)
        }
        Object::Directory(_) => Err(Errno::EBADF),
        Object::Synthesized(handle) => {
            let mut bytes = Vec::new();
            let mut left = wanted(spans);
            for (address, len) in spans {
                let mut part = vec![0; usize::try_from(*len).unwrap_or(usize::MAX).min(left)];
                process.memory().read_bytes(*address, &mut part)?;
                left -= part.len();
                bytes.extend(part);
            }
            count_of(handle.write(unsigned(offset)?, &bytes)?)
        }
        Object::PciBar(_) => Err(Errno::EIO),
    }
}

/// The iovecs of a vectored call: addresses and lengths.
pub(super) fn read_spans(process: &Process, address: u64, count: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let count =
        usize::try_from(count).ok().filter(|count| *count <= transfer::MAX_SPANS).ok_or(Errno::EINVAL)?;
    let spans: Vec<[u64; 2]> = process.memory().read_array(address, count)?;
    let total = spans.iter().try_fold(0_u64, |sum, [_, len]| sum.checked_add(*len));
    if total.is_none_or(|total| i64::try_from(total).is_err()) {
        return Err(Errno::EINVAL);
    }
    Ok(spans.into_iter().map(|[address, len]| (address, len)).collect())
}

/// Bytes of a call on a synthesized file.
fn wanted(spans: &[(u64, u64)]) -> usize {
    let total = spans.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
    usize::try_from(total).unwrap_or(usize::MAX).min(SYNTHESIZED_BYTES)
}

/// Runs a write of at most `length` bytes, at `offset` or where the file stands, and tells a memory file of it
/// before and after.
pub(super) fn write_within(
    file: &OpenFile,
    offset: Option<u64>,
    length: usize,
    write: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let Object::Memory(handle) = file.object() else { return write() };
    let reserved = handle.reserve_write(offset, length)?;
    let count = write();
    handle.written(reserved, count.unwrap_or(0))?;
    count
}

/// The host's descriptor of something that has bytes.
pub(super) fn bytes_of(file: &OpenFile) -> Result<BorrowedFd<'_>, Errno> {
    match file.object() {
        Object::Directory(_) => Err(Errno::EISDIR),
        _ => file.host().ok_or(Errno::EINVAL),
    }
}

fn position(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

fn unsigned(offset: Option<i64>) -> Result<Option<u64>, Errno> {
    offset.map(u64::try_from).transpose().map_err(|_| Errno::EINVAL)
}

fn known(whence: i32) -> Result<Whence, Errno> {
    Ok(match whence {
        libc::SEEK_SET => Whence::SeekSet,
        libc::SEEK_CUR => Whence::SeekCur,
        libc::SEEK_END => Whence::SeekEnd,
        libc::SEEK_DATA => Whence::SeekData,
        libc::SEEK_HOLE => Whence::SeekHole,
        _ => return Err(Errno::EINVAL),
    })
}

pub(super) fn count_of(count: usize) -> Answer {
    u64::try_from(count).map_err(|_| Errno::EOVERFLOW)
}

fn number(descriptor: i32) -> Answer {
    u64::try_from(descriptor).map_err(|_| Errno::EMFILE)
}

/// `O_CLOEXEC` in the flags of a call that makes descriptors.
pub(super) fn wants_close_on_exec(flags: u64) -> bool {
    OFlag::from_bits_truncate(int(flags)).contains(OFlag::O_CLOEXEC)
}
