//! Memory files that are open.

use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl},
    sys::stat::{Mode, fchmod, fstat},
    unistd::{Whence, ftruncate, lseek},
};

use super::{
    super::{
        backend::{Answer, Space, Times},
        host::reopen,
        status::Status,
    },
    BLOCK_BYTES,
    file::{MemoryFile, Part, Reserved},
    space,
};

/// A memory file that is open: with an offset and flags of its own.
#[derive(Debug)]
pub struct MemoryHandle {
    file: Arc<MemoryFile>,
    fd: OwnedFd,
}

impl MemoryHandle {
    /// Opens a file anew, with flags of its own.
    pub(in crate::guest::app::files) fn open(file: Arc<MemoryFile>, flags: OFlag) -> Answer<Self> {
        let fd = reopen(file.memfd(), flags)?;
        if flags.contains(OFlag::O_TRUNC) {
            file.settle()?;
        }
        Ok(Self { file, fd })
    }

    /// Opens a file as it was open before, whatever its mode says by now.
    pub(in crate::guest::app::files) fn open_any(file: Arc<MemoryFile>, flags: OFlag) -> Answer<Self> {
        let mode = Mode::from_bits_truncate(fstat(file.memfd())?.st_mode);
        fchmod(file.memfd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
        let fd = reopen(file.memfd(), flags);
        fchmod(file.memfd(), mode)?;
        Ok(Self { fd: fd?, file })
    }

    pub(in crate::guest::app::files) fn file(&self) -> &Arc<MemoryFile> {
        &self.file
    }

    /// The host's descriptor: for writing, where [`MemoryHandle::reserve_write`] agreed, for locking and
    /// seeking, and for reading what [`MemoryHandle::parts`] doesn't say to lie beneath.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What fstat tells.
    ///
    /// # Errors
    /// The host's.
    pub fn status(&self) -> Answer<Status> {
        self.file.status()
    }

    pub(in crate::guest::app::files) fn space(&self) -> Space {
        space(self.file.budget())
    }

    /// Must agree before bytes are written, at `offset` or at the descriptor's own place.
    ///
    /// # Errors
    /// `ENOSPC` when the memory files of the guest would take more than their budget.
    pub fn reserve_write(&self, offset: Option<u64>, length: usize) -> Answer<Reserved> {
        let start = match offset {
            // Linux appends even in pwrite.
            _ if self.flags()?.contains(OFlag::O_APPEND) => self.file.size()?,
            Some(offset) => offset,
            None => self.position()?,
        };
        let length = u64::try_from(length).map_err(|_| Errno::EFBIG)?;
        self.file.reserve_span(&(start..start.checked_add(length).ok_or(Errno::EFBIG)?))
    }

    /// Must be told how many bytes were written, also if it were none.
    ///
    /// # Errors
    /// The host's, when the file beneath can't be read.
    pub fn written(&self, reserved: Reserved, count: usize) -> Answer<()> {
        self.file.written(reserved, u64::try_from(count).map_err(|_| Errno::EFBIG)?)
    }

    /// Where so many bytes, at `offset` or at the descriptor's own place, are to be read: up to the file's
    /// end, in order. None when all are in the memory file, where [`MemoryHandle::fd`] reads them.
    ///
    /// # Errors
    /// `EBADF` when it isn't open for reading.
    pub fn parts(&self, offset: Option<u64>, length: u64) -> Answer<Option<Vec<Part>>> {
        if self.file.blocks().base_end() == 0 {
            return Ok(None);
        }
        let start = match offset {
            Some(offset) => offset,
            None => self.position()?,
        };
        let parts = self.file.parts(&(start..start.saturating_add(length)))?;
        if parts.is_some() {
            self.check_readable()?;
        }
        Ok(parts)
    }

    /// Reads of the host's file beneath, or of the memory file, as a [`Part`] says.
    ///
    /// # Errors
    /// What `read` says.
    pub fn read_part<T>(&self, part: &Part, read: impl FnOnce(BorrowedFd<'_>) -> Answer<T>) -> Answer<T> {
        let blocks = self.file.blocks();
        match &blocks.base {
            Some(base) if part.beneath => read(base.fd.as_fd()),
            _ => read(self.fd.as_fd()),
        }
    }

    /// Runs `map` on the descriptor whose bytes from `offset` on a mapping is to show.
    ///
    /// A private mapping of a file that nobody changed shows the host's own; any other has its bytes copied
    /// into the memory file first.
    ///
    /// # Errors
    /// `ENOSPC`, as [`MemoryHandle::reserve_write`]; `EACCES` when it isn't open for reading.
    pub fn map<T>(
        &self,
        bytes: &Range<u64>,
        shared: bool,
        map: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Answer<T> {
        let flags = self.flags()?;
        if flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
            return Err(Errno::EACCES);
        }
        if !shared {
            let blocks = self.file.blocks();
            if let (Some(base), false) = (&blocks.base, blocks.modified) {
                return Ok(map(base.fd.as_fd()));
            }
        }
        let end = bytes.end.min(self.file.size()?);
        self.file.fill(&(bytes.start.min(end)..end))?;
        if shared && flags & OFlag::O_ACCMODE == OFlag::O_RDWR {
            let mut blocks = self.file.blocks();
            blocks.mapped = true;
            blocks.modified = true;
        }
        Ok(map(self.fd.as_fd()))
    }

    /// Whether the monitor has descriptors left, should this one be held for longer than the guest has it open.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn check_descriptors(&self) -> Answer<()> {
        if self.file.budget().leaves_descriptors(&self.fd) { Ok(()) } else { Err(Errno::ENFILE) }
    }

    /// The bytes that changed since they were last given to an image, or may have by a mapping.
    ///
    /// # Errors
    /// The host's.
    pub fn changed(&self) -> Answer<Vec<Range<u64>>> {
        let size = self.file.size()?;
        let news = self.file.blocks().news(size);
        Ok(news.into_iter().map(|blocks| blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES).collect())
    }

    /// lseek.
    ///
    /// # Errors
    /// `EINVAL` for a position before the start, `ENXIO` for data behind the end.
    pub fn seek(&self, offset: i64, whence: Whence) -> Answer<i64> {
        if !matches!(whence, Whence::SeekData | Whence::SeekHole) || self.file.blocks().base_end() == 0 {
            return lseek(&self.fd, offset, whence);
        }
        // What shows through looks like a hole to the host. Without a hole but the one at the end every
        // answer is right.
        let size = i64::try_from(self.file.size()?).map_err(|_| Errno::EOVERFLOW)?;
        if !(0..size).contains(&offset) {
            return Err(Errno::ENXIO);
        }
        let target = if matches!(whence, Whence::SeekData) { offset } else { size };
        lseek(&self.fd, target, Whence::SeekSet)
    }

    /// ftruncate, within the budget.
    ///
    /// # Errors
    /// As [`MemoryHandle::reserve_write`], and the host's: `EINVAL` when not open for writing.
    pub fn truncate(&self, size: i64) -> Answer<()> {
        if self.flags()? & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            return Err(Errno::EINVAL);
        }
        self.file.reserve(u64::try_from(size).map_err(|_| Errno::EINVAL)?)?;
        let result = ftruncate(&self.fd, size);
        self.file.settle()?;
        result
    }

    /// fallocate, within the budget.
    ///
    /// # Errors
    /// As [`MemoryHandle::reserve_write`], and the host's: `EOPNOTSUPP` for other ways than making room and
    /// punching holes.
    pub fn allocate(&self, how: FallocateFlags, offset: i64, length: i64) -> Answer<()> {
        let start = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let length_bytes = u64::try_from(length).ok().filter(|length| *length > 0).ok_or(Errno::EINVAL)?;
        let end = start.checked_add(length_bytes).ok_or(Errno::EFBIG)?;
        if how == FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE {
            let within = start..end.min(self.file.size()?).max(start);
            let reserved = self.file.reserve_span(&within)?;
            let punched = fallocate(&self.fd, how, offset, length);
            let count = if punched.is_ok() { within.end - within.start } else { 0 };
            self.file.written(reserved, count)?;
            return punched;
        }
        self.file.reserve(end)?;
        // Room for what the host's file shows need not be made.
        let beneath = self.file.blocks().base_end().next_multiple_of(super::BLOCK_BYTES);
        let behind = start.max(beneath);
        if end <= behind {
            return self.grow_to(how, end);
        }
        let span = |bytes: u64| i64::try_from(bytes).map_err(|_| Errno::EFBIG);
        fallocate(&self.fd, how, span(behind)?, span(end - behind)?)
    }

    /// What fallocate does to the size where there is room.
    fn grow_to(&self, how: FallocateFlags, end: u64) -> Answer<()> {
        if !(how - FallocateFlags::FALLOC_FL_KEEP_SIZE).is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        if how.is_empty() && self.file.size()? < end {
            return self.truncate(i64::try_from(end).map_err(|_| Errno::EFBIG)?);
        }
        if self.flags()? & OFlag::O_ACCMODE == OFlag::O_RDONLY { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// fchmod.
    ///
    /// # Errors
    /// The host's.
    pub fn set_mode(&self, mode: u32) -> Answer<()> {
        self.file.set_mode(mode)
    }

    /// futimens.
    ///
    /// # Errors
    /// `EINVAL` for impossible nanoseconds.
    pub fn set_times(&self, times: &Times) -> Answer<()> {
        self.file.set_times(times)
    }

    /// The access mode and status flags.
    ///
    /// # Errors
    /// The host's.
    pub fn flags(&self) -> Answer<OFlag> {
        Ok(OFlag::from_bits_retain(fcntl(&self.fd, FcntlArg::F_GETFL)?))
    }

    fn check_readable(&self) -> Answer<()> {
        let flags = self.flags()?;
        let denied = flags & OFlag::O_ACCMODE == OFlag::O_WRONLY || flags.contains(OFlag::O_PATH);
        if denied { Err(Errno::EBADF) } else { Ok(()) }
    }

    fn position(&self) -> Answer<u64> {
        u64::try_from(lseek(&self.fd, 0, Whence::SeekCur)?).map_err(|_| Errno::EIO)
    }
}
