//! Open files: what a descriptor of the guest refers to.

use std::{
    fmt::Debug,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        epoll::Epoll,
        eventfd::{EfdFlags, EventFd},
        stat::fstat,
    },
    unistd::ftruncate,
};

use super::{
    backend::{Answer, OpenRequest, Space, host_space},
    listing::Listing,
    memory::MemoryHandle,
    path::GuestPath,
    status::Status,
    synthetic::{Bar, ForkPoint},
};

/// Type and permissions of a pipe.
const PIPE: u32 = libc::S_IFIFO | 0o600;

/// An open file: what dup and a second descriptor share.
#[derive(Debug)]
pub struct OpenFile {
    path: GuestPath,
    changeable: bool,
    object: Object,
}

/// The kinds of open files.
#[derive(Debug)]
pub enum Object {
    /// A file, pipe, device or terminal of the host. Its offset and flags are in the host's kernel.
    Host(OwnedFd),
    /// A file of the host that the guest has as a pipe's end, to write it from front to back: the monitor knows by its
    /// offset how much of it is the guest's.
    Stream(StreamHandle),
    /// A file of a memory tree: a memfd of its own open file description.
    Memory(MemoryHandle),
    /// A directory.
    Directory(DirectoryHandle),
    /// A file whose bytes the monitor makes up.
    Synthesized(SynthesizedHandle),
    /// `resourceN` of a PCI function. Only mmap means anything on it; read and write are `EIO`, as in sysfs.
    PciBar(PciBarHandle),
    /// An epoll instance of the host, with the descriptors of this guest only.
    Epoll(Epoll),
}

/// A file of the host as a pipe's end.
#[derive(Debug)]
pub struct StreamHandle {
    file: OwnedFd,
    /// Can always be written and never be read, as such a pipe, and unlike a file it can be waited for by epoll.
    writable: EventFd,
}

/// An open directory and how far it was listed.
#[derive(Debug)]
pub struct DirectoryHandle {
    directory: Box<dyn OpenDirectory>,
    listing: Listing,
    /// `O_PATH` if it can be a starting point but not be listed.
    flags: OFlag,
}

/// An open synthesized file and its offset.
#[derive(Debug)]
pub struct SynthesizedHandle {
    file: Box<dyn SynthesizedFile>,
    status: Status,
    /// The bits of an `OFlag`.
    flags: AtomicI32,
    offset: Mutex<u64>,
}

/// An open `resourceN`.
#[derive(Clone, Debug, Default)]
pub struct PciBarHandle {
    /// The function, such as `0000:00:01.0`.
    pub address: String,
    /// The BAR, and where the guest has it.
    pub bar: Bar,
    pub(super) status: Status,
}

/// What a backend keeps for an open directory.
pub(super) trait OpenDirectory: Debug + Send + Sync {
    fn status(&self) -> Answer<Status>;

    /// Where the directory is now; `ENOENT` once it was removed. None when it can't have moved.
    fn current_path(&self) -> Answer<Option<GuestPath>>;

    /// The next records of getdents64, at most `limit` bytes; empty at the end.
    fn read_entries(&self, limit: usize) -> Answer<Vec<u8>>;

    /// Goes to a position that a record gave, or to 0; tells the position.
    fn seek_entries(&self, position: i64) -> Answer<i64>;

    /// The position of the next record.
    fn position(&self) -> Answer<i64>;

    /// The host's descriptor, where there is one.
    fn host(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn space(&self) -> Answer<Space>;

    /// fsync of what has no descriptor of the host; what is in memory has nowhere to be written to.
    fn write_back(&self) -> Answer<()> {
        Ok(())
    }
}

/// A file whose bytes the monitor makes up.
pub(super) trait SynthesizedFile: Debug + Send + Sync {
    /// Bytes from `offset`, at most `length`; empty at the end.
    fn read(&self, offset: u64, length: usize) -> Answer<Vec<u8>>;

    /// Takes bytes at `offset`; how many it took.
    fn write(&self, _offset: u64, _bytes: &[u8]) -> Answer<usize> {
        Err(Errno::EBADF)
    }

    /// Where the file ends, for `SEEK_END`.
    fn size(&self) -> u64;

    /// `O_NONBLOCK` was set or cleared.
    fn set_nonblocking(&self, _on: bool) {}

    /// fsync, which most of these files don't have on Linux.
    fn write_back(&self) -> Answer<()> {
        Err(Errno::EINVAL)
    }

    /// The file as /dev/cairn, if that is what it is.
    fn fork_point(&self) -> Option<&ForkPoint> {
        None
    }
}

impl OpenFile {
    /// An open file that the guest got at `path`; `changeable` when its mount may be written to.
    #[must_use]
    pub fn new(path: GuestPath, changeable: bool, object: Object) -> Self {
        Self { path, changeable, object }
    }

    /// A descriptor of the host that has no path in the guest, such as a pipe's end; `label` is what
    /// `/proc/self/fd` shows for it, such as `pipe:[7]`.
    #[must_use]
    pub fn unnamed(fd: OwnedFd, label: &str) -> Self {
        Self::labelled(Object::Host(fd), label)
    }

    /// Anything without a path.
    #[must_use]
    pub fn labelled(object: Object, label: &str) -> Self {
        Self::new(GuestPath::label(label), true, object)
    }

    /// What it is.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Where it was opened; a directory may have moved since, see [`OpenFile::current_path`].
    #[must_use]
    pub fn path(&self) -> &GuestPath {
        &self.path
    }

    /// Where it is now, as far as that is known.
    ///
    /// # Errors
    /// `ENOENT` for a directory that was removed.
    pub fn current_path(&self) -> Answer<GuestPath> {
        match &self.object {
            Object::Directory(handle) => {
                Ok(handle.directory.current_path()?.unwrap_or_else(|| self.path.clone()))
            }
            _ => Ok(self.path.clone()),
        }
    }

    /// Whether mode and times may be changed through the descriptor.
    ///
    /// # Errors
    /// `EROFS` when the mount is read-only: the host's kernel would allow it, since its own file system
    /// isn't.
    pub fn check_changeable(&self) -> Answer<()> {
        if self.changeable { Ok(()) } else { Err(Errno::EROFS) }
    }

    /// The host's descriptor behind it, for reading, writing and mapping; none for what is synthesized.
    ///
    /// Before anything that may make a memory file longer, [`MemoryHandle::reserve_write`] must agree.
    #[must_use]
    pub fn host(&self) -> Option<BorrowedFd<'_>> {
        match &self.object {
            Object::Host(fd) => Some(fd.as_fd()),
            Object::Stream(handle) => Some(handle.file.as_fd()),
            Object::Memory(handle) => Some(handle.fd()),
            Object::Directory(handle) => handle.directory.host(),
            Object::Epoll(epoll) => Some(epoll.0.as_fd()),
            Object::Synthesized(_) | Object::PciBar(_) => None,
        }
    }

    /// The host's descriptor that can be waited for instead of it, as poll does; none where nobody ever waits.
    #[must_use]
    pub fn pollable(&self) -> Option<BorrowedFd<'_>> {
        match &self.object {
            Object::Directory(_) => None,
            Object::Stream(handle) => Some(handle.writable.as_fd()),
            Object::Synthesized(handle) => handle.fork_point().map(ForkPoint::answered),
            _ => self.host(),
        }
    }

    /// fsync of what has no descriptor of the host.
    ///
    /// # Errors
    /// `EBADF` for a descriptor opened with `O_PATH`, `EINVAL` for what can't be written back.
    pub fn write_back(&self) -> Answer<()> {
        match &self.object {
            Object::Directory(handle) if handle.flags.contains(OFlag::O_PATH) => Err(Errno::EBADF),
            Object::Directory(handle) => handle.directory.write_back(),
            Object::Synthesized(handle) if handle.flags().contains(OFlag::O_PATH) => Err(Errno::EBADF),
            Object::Synthesized(handle) => handle.file.write_back(),
            // As all files of sysfs.
            Object::PciBar(_) => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The directory, if it is one.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn directory(&self) -> Answer<&DirectoryHandle> {
        match &self.object {
            Object::Directory(handle) => Ok(handle),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn is_changeable(&self) -> bool {
        self.changeable
    }

    /// What fstat tells.
    ///
    /// # Errors
    /// The host's.
    pub fn status(&self) -> Answer<Status> {
        match &self.object {
            Object::Host(fd) => Ok(Status::from(&fstat(fd)?)),
            Object::Stream(handle) => {
                let file = Status::from(&fstat(&handle.file)?);
                Ok(Status { mode: PIPE, size: 0, blocks: 0, ..file })
            }
            Object::Memory(handle) => handle.status(),
            Object::Directory(handle) => handle.directory.status(),
            Object::Synthesized(handle) => Ok(handle.status),
            Object::PciBar(handle) => Ok(handle.status),
            Object::Epoll(epoll) => Ok(Status::from(&fstat(&epoll.0)?)),
        }
    }

    /// What fstatfs tells.
    ///
    /// # Errors
    /// The host's.
    pub fn space(&self) -> Answer<Space> {
        match &self.object {
            Object::Host(fd) => host_space(fd),
            Object::Stream(handle) => host_space(&handle.file),
            Object::Memory(handle) => Ok(handle.space()),
            Object::Directory(handle) => handle.directory.space(),
            Object::Epoll(epoll) => host_space(&epoll.0),
            Object::Synthesized(_) | Object::PciBar(_) => Ok(super::synthetic::space()),
        }
    }
}

impl Object {
    /// Makes a file as long as this: ftruncate.
    ///
    /// # Errors
    /// `EINVAL` for what isn't a file that is open for writing, and for a negative size; `ENOSPC`, `EFBIG`.
    pub fn set_size(&self, size: i64) -> Answer<()> {
        match self {
            _ if size < 0 => Err(Errno::EINVAL),
            Self::Host(fd) => ftruncate(fd, size),
            Self::Memory(handle) => handle.truncate(size),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl StreamHandle {
    /// A file of the host that is open for writing.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn new(file: OwnedFd) -> Answer<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self { file, writable: EventFd::from_value_and_flags(0, flags)? })
    }
}

impl DirectoryHandle {
    pub(super) fn new(directory: Box<dyn OpenDirectory>, listing: Listing, request: &OpenRequest) -> Self {
        Self { directory, listing, flags: OFlag::O_DIRECTORY | request.flags() & OFlag::O_PATH }
    }

    /// The access mode and status flags, for `F_GETFL`.
    #[must_use]
    pub fn flags(&self) -> OFlag {
        self.flags
    }

    /// The next records of getdents64, at most `limit` bytes; empty at the end.
    ///
    /// # Errors
    /// `EINVAL` when `limit` is too small for one record, `EBADF` for a descriptor opened with `O_PATH`,
    /// `ENOENT` when the directory was removed.
    pub fn read_entries(&self, limit: usize) -> Answer<Vec<u8>> {
        if self.flags.contains(OFlag::O_PATH) {
            return Err(Errno::EBADF);
        }
        self.listing.read(&*self.directory, limit)
    }

    /// lseek on a directory; only positions that a record gave mean anything.
    ///
    /// # Errors
    /// `EINVAL` for another kind of seek than to a position or by 0 from the present one.
    pub fn seek(&self, offset: i64, whence: i32) -> Answer<i64> {
        match (whence, offset) {
            (libc::SEEK_SET, 0..) => self.listing.seek(&*self.directory, offset),
            (libc::SEEK_CUR, 0) => match self.listing.position() {
                Some(position) => Ok(position),
                None => self.directory.position(),
            },
            _ => Err(Errno::EINVAL),
        }
    }
}

impl SynthesizedHandle {
    pub(super) fn new(file: Box<dyn SynthesizedFile>, status: Status, request: &OpenRequest) -> Self {
        let kept = OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_PATH;
        let flags = request.flags() & kept;
        file.set_nonblocking(flags.contains(OFlag::O_NONBLOCK));
        Self { file, status, flags: AtomicI32::new(flags.bits()), offset: Mutex::new(0) }
    }

    /// The access mode and status flags, for `F_GETFL`.
    #[must_use]
    pub fn flags(&self) -> OFlag {
        OFlag::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// `F_SETFL`: `O_APPEND` and `O_NONBLOCK` as in `wanted`, and all else as it is.
    ///
    /// # Errors
    /// `EBADF` for a descriptor opened with `O_PATH`.
    pub fn set_flags(&self, wanted: OFlag) -> Answer<()> {
        let flags = self.flags();
        if flags.contains(OFlag::O_PATH) {
            return Err(Errno::EBADF);
        }
        let changeable = OFlag::O_APPEND | OFlag::O_NONBLOCK;
        let flags = (flags - changeable) | (wanted & changeable);
        self.file.set_nonblocking(flags.contains(OFlag::O_NONBLOCK));
        self.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Reads at most `length` bytes: at `offset`, or where the last read ended.
    ///
    /// # Errors
    /// `EBADF` when it isn't open for reading.
    pub fn read(&self, offset: Option<u64>, length: usize) -> Answer<Vec<u8>> {
        self.check_access(OFlag::O_WRONLY)?;
        self.at(offset, |offset| {
            let bytes = self.file.read(offset, length)?;
            Ok((bytes.len(), bytes))
        })
    }

    /// Writes at `offset`, or where the last access ended; how many bytes were taken.
    ///
    /// # Errors
    /// `EBADF` when it isn't open for writing; others as the file says.
    pub fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Answer<usize> {
        self.check_access(OFlag::O_RDONLY)?;
        self.at(offset, |offset| {
            let count = self.file.write(offset, bytes)?;
            Ok((count, count))
        })
    }

    pub(super) fn fork_point(&self) -> Option<&ForkPoint> {
        self.file.fork_point()
    }

    /// lseek.
    ///
    /// # Errors
    /// `EINVAL` for an unknown `whence` or a position before the start.
    pub fn seek(&self, offset: i64, whence: i32) -> Answer<i64> {
        let mut position = self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let base = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => *position,
            libc::SEEK_END => self.file.size(),
            _ => return Err(Errno::EINVAL),
        };
        let target = i64::try_from(base).ok().and_then(|base| base.checked_add(offset));
        let target = target.ok_or(Errno::EOVERFLOW)?;
        *position = u64::try_from(target).map_err(|_| Errno::EINVAL)?;
        Ok(target)
    }

    fn check_access(&self, forbidden: OFlag) -> Answer<()> {
        let flags = self.flags();
        let denied = flags & OFlag::O_ACCMODE == forbidden || flags.contains(OFlag::O_PATH);
        if denied { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// Runs `access` at a given offset, or at the shared one, which moves on by the count it returns.
    fn at<T>(&self, offset: Option<u64>, access: impl FnOnce(u64) -> Answer<(usize, T)>) -> Answer<T> {
        match offset {
            Some(offset) => Ok(access(offset)?.1),
            None => {
                let mut position = self.offset.lock().unwrap_or_else(PoisonError::into_inner);
                let (count, value) = access(*position)?;
                *position = position.saturating_add(u64::try_from(count).unwrap_or(0));
                Ok(value)
            }
        }
    }
}
