//! Files that live in the monitor's memory, and the budget that they share.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, getrlimit},
        stat::{Mode, fchmod, fstat},
    },
    unistd::{Whence, ftruncate, lseek},
};

use super::{
    super::{
        backend::{Answer, Space},
        host::reopen,
        status::Status,
    },
    BLOCK_BYTES, space,
};

/// Descriptors that files in memory leave free for the monitor and for what else the guest opens. Bounds
/// what a guest can take from the monitor by filling its private directories.
const RESERVED_DESCRIPTORS: u64 = 256;

/// The bytes that all memory files of a guest may take together.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    /// Descriptors that the monitor can have, as of the start.
    descriptors: u64,
    used: Mutex<u64>,
}

/// One file in memory, named or not. It gives its bytes back when its last name and descriptor are gone.
#[derive(Debug)]
pub(super) struct MemoryFile {
    memfd: OwnedFd,
    device: u64,
    inode: u64,
    links: AtomicU64,
    /// Bytes that the budget has been charged: the greatest size since the last truncation, in blocks.
    charged: Mutex<u64>,
    budget: Arc<Budget>,
}

/// A memory file that is open: with an offset and flags of its own.
#[derive(Debug)]
pub struct MemoryHandle {
    file: Arc<MemoryFile>,
    fd: OwnedFd,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self { limit, descriptors, used: Mutex::new(0) }
    }

    /// The most bytes there can be.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that files take now.
    #[must_use]
    pub fn used(&self) -> u64 {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether enough descriptors are free after this one. The kernel gives the lowest free number, so a
    /// high one means that all below are taken.
    fn leaves_descriptors(&self, fd: &OwnedFd) -> bool {
        let number = u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
        number.saturating_add(RESERVED_DESCRIPTORS) < self.descriptors
    }

    pub(super) fn take(&self, bytes: u64) -> Answer<()> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = used.checked_add(bytes).filter(|sum| *sum <= self.limit).ok_or(Errno::ENOSPC)?;
        *used = sum;
        Ok(())
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(bytes);
    }
}

impl MemoryFile {
    /// An empty file without a name.
    pub(super) fn new(budget: &Arc<Budget>, device: u64, inode: u64) -> Answer<Self> {
        // To the guest its file system is full when the monitor's descriptors are used up.
        let memfd = memfd_create("cairn-guest-file", MFdFlags::MFD_CLOEXEC).map_err(|error| match error {
            Errno::EMFILE | Errno::ENFILE => Errno::ENOSPC,
            other => other,
        })?;
        if !budget.leaves_descriptors(&memfd) {
            return Err(Errno::ENOSPC);
        }
        Ok(Self {
            memfd,
            device,
            inode,
            links: AtomicU64::new(0),
            charged: Mutex::new(0),
            budget: Arc::clone(budget),
        })
    }

    pub(super) fn memfd(&self) -> &OwnedFd {
        &self.memfd
    }

    pub(super) fn links(&self) -> u64 {
        self.links.load(Ordering::Relaxed)
    }

    pub(super) fn set_links(&self, links: u64) {
        self.links.store(links, Ordering::Relaxed);
    }

    pub(super) fn set_mode(&self, mode: u32) -> Answer<()> {
        fchmod(&self.memfd, Mode::from_bits_truncate(mode))
    }

    pub(super) fn status(&self) -> Answer<Status> {
        let host = Status::from(&fstat(&self.memfd)?);
        Ok(Status { device: self.device, inode: self.inode, links: self.links(), ..host })
    }

    /// Makes sure that the budget covers a size of `end` bytes.
    fn reserve(&self, end: u64) -> Answer<()> {
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= *charged {
            return Ok(());
        }
        let target = end.checked_next_multiple_of(BLOCK_BYTES).ok_or(Errno::EFBIG)?;
        self.budget.take(target - *charged)?;
        *charged = target;
        Ok(())
    }

    /// Gives back what lies behind the end of the file.
    pub(super) fn settle(&self) -> Answer<()> {
        let size = u64::try_from(fstat(&self.memfd)?.st_size).map_err(|_| Errno::EIO)?;
        let target = size.next_multiple_of(BLOCK_BYTES);
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(charged.saturating_sub(target));
        *charged = target.min(*charged);
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let charged = self.charged.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(*charged);
    }
}

impl MemoryHandle {
    /// Opens a file anew, with flags of its own.
    pub(super) fn open(file: Arc<MemoryFile>, flags: OFlag) -> Answer<Self> {
        let fd = reopen(&file.memfd, flags)?;
        if flags.contains(OFlag::O_TRUNC) {
            file.settle()?;
        }
        Ok(Self { file, fd })
    }

    /// The host's descriptor, for reading, writing and mapping.
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
        space(&self.file.budget)
    }

    /// Must agree before the file is made `end` bytes long.
    ///
    /// # Errors
    /// `ENOSPC` when the memory files of the guest would take more than their budget.
    pub fn reserve(&self, end: u64) -> Answer<()> {
        self.file.reserve(end)
    }

    /// Must agree before `length` bytes are written at `offset`, or at the descriptor's own place.
    ///
    /// # Errors
    /// As [`MemoryHandle::reserve`].
    pub fn reserve_write(&self, offset: Option<u64>, length: usize) -> Answer<()> {
        let appends = OFlag::from_bits_retain(fcntl(&self.fd, FcntlArg::F_GETFL)?).contains(OFlag::O_APPEND);
        let start = match offset {
            // Linux appends even in pwrite.
            _ if appends => u64::try_from(fstat(&self.fd)?.st_size).map_err(|_| Errno::EIO)?,
            Some(offset) => offset,
            None => u64::try_from(lseek(&self.fd, 0, Whence::SeekCur)?).map_err(|_| Errno::EIO)?,
        };
        let length = u64::try_from(length).map_err(|_| Errno::EFBIG)?;
        self.reserve(start.checked_add(length).ok_or(Errno::EFBIG)?)
    }

    /// ftruncate, within the budget.
    ///
    /// # Errors
    /// As [`MemoryHandle::reserve`], and the host's: `EINVAL` when not open for writing.
    pub fn truncate(&self, size: i64) -> Answer<()> {
        self.reserve(u64::try_from(size).map_err(|_| Errno::EINVAL)?)?;
        let result = ftruncate(&self.fd, size);
        self.file.settle()?;
        result
    }
}
