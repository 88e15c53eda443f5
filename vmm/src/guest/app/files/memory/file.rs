//! Files that live in the monitor's memory, alone or over a file of the host.

use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{Mode, fchmod, fstat, futimens},
        time::TimeSpec,
        uio::{pread, pwrite},
    },
    unistd::{Whence, ftruncate, lseek},
};

use super::{
    super::{
        backend::{Answer, PERMISSIONS, Times},
        status::{Status, Time},
    },
    BLOCK_BYTES,
    blocks::{Base, Blocks, blocks_of},
    budget::Budget,
};

/// One file in memory, named or not. It gives its bytes back when its last name and descriptor are gone.
#[derive(Debug)]
pub(in crate::guest::app::files) struct MemoryFile {
    memfd: OwnedFd,
    inode: u64,
    links: AtomicU64,
    blocks: Mutex<Blocks>,
    home: Arc<Home>,
}

/// What the files of one tree share.
#[derive(Debug)]
pub(in crate::guest::app::files) struct Home {
    /// The tree's own number, which no other tree of the guest has.
    pub tree: u64,
    /// File system number in stat.
    pub device: u64,
    /// What their bytes count on.
    pub budget: Arc<Budget>,
}

/// A write that the budget agreed to.
#[derive(Clone, Copy, Debug)]
#[must_use = "the file must be told what was written"]
pub struct Reserved {
    start: u64,
    taken: u64,
}

/// Where some bytes of a file are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// In the host's file beneath, else in the memory file.
    pub beneath: bool,
    /// The bytes.
    pub bytes: Range<u64>,
}

impl MemoryFile {
    /// An empty file without a name.
    pub(super) fn new(home: &Arc<Home>, inode: u64) -> Answer<Self> {
        // To the guest its file system is full when the monitor's descriptors are used up.
        let memfd = memfd_create("cairn-guest-file", MFdFlags::MFD_CLOEXEC).map_err(|error| match error {
            Errno::EMFILE | Errno::ENFILE => Errno::ENOSPC,
            other => other,
        })?;
        if !home.budget.leaves_descriptors(&memfd) {
            return Err(Errno::ENOSPC);
        }
        Ok(Self { memfd, inode, links: AtomicU64::new(0), blocks: Mutex::default(), home: Arc::clone(home) })
    }

    /// A file that shows a host's file until it is written to, with that file's number, size, mode and times.
    pub(super) fn over(home: &Arc<Home>, inode: u64, base: Base) -> Answer<Self> {
        let status = base.status;
        let mut file = Self::new(home, inode)?;
        ftruncate(&file.memfd, status.size)?;
        fchmod(&file.memfd, Mode::from_bits_truncate(status.mode & PERMISSIONS))?;
        file.links = AtomicU64::new(status.links);
        file.blocks = Mutex::new(Blocks::over(base));
        file.put_times(status.accessed, status.modified)?;
        Ok(file)
    }

    pub(super) fn memfd(&self) -> &OwnedFd {
        &self.memfd
    }

    /// Its number in its tree.
    pub(in crate::guest::app::files) fn number(&self) -> u64 {
        self.inode
    }

    /// The number of its tree.
    pub(in crate::guest::app::files) fn tree(&self) -> u64 {
        self.home.tree
    }

    /// Device and number of the host's file beneath.
    pub(super) fn beneath(&self) -> Option<(u64, u64)> {
        self.blocks().base.as_ref().map(|base| (base.status.device, base.status.inode))
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.home.budget
    }

    pub(super) fn links(&self) -> u64 {
        self.links.load(Ordering::Relaxed)
    }

    pub(super) fn set_links(&self, links: u64) {
        self.links.store(links, Ordering::Relaxed);
    }

    pub(super) fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mode(&self, mode: u32) -> Answer<()> {
        self.blocks().modified = true;
        fchmod(&self.memfd, Mode::from_bits_truncate(mode))
    }

    pub(super) fn set_times(&self, times: &Times) -> Answer<()> {
        self.blocks().modified = true;
        futimens(&self.memfd, &times.accessed, &times.modified)
    }

    /// Sets both times without counting it as a change.
    pub(super) fn put_times(&self, accessed: Time, modified: Time) -> Answer<()> {
        let spec = |time: Time| TimeSpec::new(time.seconds, time.nanoseconds.into());
        futimens(&self.memfd, &spec(accessed), &spec(modified))
    }

    pub(super) fn size(&self) -> Answer<u64> {
        u64::try_from(fstat(&self.memfd)?.st_size).map_err(|_| Errno::EIO)
    }

    pub(super) fn status(&self) -> Answer<Status> {
        let (beneath, modified) = {
            let blocks = self.blocks();
            (blocks.base.as_ref().map(|base| base.status), blocks.modified)
        };
        let host = Status::from(&fstat(&self.memfd)?);
        let links = self.links();
        Ok(match beneath {
            None => Status { device: self.home.device, inode: self.inode, links, ..host },
            Some(status) if !modified => Status { links, ..status },
            Some(Status { device, inode, user, group, mode, .. }) => {
                // What a memory file can't have, its host's file keeps.
                let mode = host.mode | mode & !PERMISSIONS & !libc::S_IFMT;
                let blocks = host.size.unsigned_abs().div_ceil(BLOCK_BYTES) * (BLOCK_BYTES / 512);
                let blocks = i64::try_from(blocks).unwrap_or(i64::MAX);
                Status { device, inode, user, group, mode, links, blocks, ..host }
            }
        })
    }

    /// Makes sure that the budget covers a size of `end` bytes.
    pub(super) fn reserve(&self, end: u64) -> Answer<()> {
        let mut blocks = self.blocks();
        if end <= blocks.charged_end {
            return Ok(());
        }
        let target = end.checked_next_multiple_of(BLOCK_BYTES).ok_or(Errno::EFBIG)?;
        self.home.budget.take(target - blocks.charged_end)?;
        blocks.charged_end = target;
        Ok(())
    }

    /// Makes sure that the budget covers a write of these bytes.
    pub(super) fn reserve_span(&self, bytes: &Range<u64>) -> Answer<Reserved> {
        self.reserve(bytes.end)?;
        let taken = self.blocks().cost(&blocks_of(bytes));
        self.home.budget.take(taken)?;
        Ok(Reserved { start: bytes.start, taken })
    }

    /// After a write: `count` bytes went into the memory file. The rest of the first and the last block that
    /// they touched comes from the file beneath.
    pub(super) fn written(&self, reserved: Reserved, count: u64) -> Answer<()> {
        let bytes = reserved.start..reserved.start.saturating_add(count);
        let touched = if count == 0 { 0..0 } else { blocks_of(&bytes) };
        let mut blocks = self.blocks();
        let used = blocks.cost(&touched);
        self.home.budget.give_back(reserved.taken.saturating_sub(used));
        for gap in blocks.shown(&touched) {
            let edges = [gap.start * BLOCK_BYTES..bytes.start, bytes.end..gap.end * BLOCK_BYTES];
            for edge in edges {
                self.copy_up(&blocks, &edge)?;
            }
        }
        blocks.take(touched);
        Ok(())
    }

    /// Makes the blocks of `bytes` the file's own, as they are.
    pub(super) fn fill(&self, bytes: &Range<u64>) -> Answer<()> {
        let mut blocks = self.blocks();
        let span = blocks_of(bytes);
        let gaps = blocks.shown(&span);
        if gaps.is_empty() {
            return Ok(());
        }
        let status = Status::from(&fstat(&self.memfd)?);
        self.home.budget.take(blocks.cost(&span))?;
        let modified = blocks.modified;
        for gap in gaps {
            self.copy_up(&blocks, &(gap.start * BLOCK_BYTES..gap.end * BLOCK_BYTES))?;
            blocks.take(gap);
        }
        blocks.modified = modified;
        self.put_times(status.accessed, status.modified)
    }

    /// Owner and group of the host's file beneath.
    pub(in crate::guest::app::files) fn owner_beneath(&self) -> Option<(u32, u32)> {
        self.blocks().base.as_ref().map(|base| (base.status.user, base.status.group))
    }

    /// Writes all bytes into an empty file of the host, but for holes at its end. Answers what it must be like
    /// otherwise.
    pub(in crate::guest::app::files) fn copy_to(&self, to: BorrowedFd<'_>) -> Answer<Status> {
        let host = Status::from(&fstat(&self.memfd)?);
        let blocks = self.blocks();
        let size = host.size.unsigned_abs();
        if let Some(base) = &blocks.base {
            for shown in blocks.shown(&(0..base.end.div_ceil(BLOCK_BYTES))) {
                let end = (shown.end * BLOCK_BYTES).min(base.end);
                copy(base.fd.as_fd(), to, shown.start * BLOCK_BYTES..end)?;
            }
        }
        for range in self.data(blocks.own(size))? {
            let end = (range.end * BLOCK_BYTES).min(size);
            copy(self.memfd.as_fd(), to, range.start * BLOCK_BYTES..end)?;
        }
        Ok(host)
    }

    /// The blocks among `own` that have data in the memory file.
    pub(super) fn data(&self, own: Vec<Range<u64>>) -> Answer<Vec<Range<u64>>> {
        let seek = |at: u64, whence| lseek(&self.memfd, i64::try_from(at).map_err(|_| Errno::EFBIG)?, whence);
        let mut found = Vec::new();
        for range in own {
            let mut at = range.start;
            while at < range.end {
                let start = match seek(at * BLOCK_BYTES, Whence::SeekData) {
                    Ok(start) => start.unsigned_abs() / BLOCK_BYTES,
                    Err(Errno::ENXIO) => break,
                    Err(error) => return Err(error),
                };
                let hole = seek(start * BLOCK_BYTES, Whence::SeekHole)?;
                let end = hole.unsigned_abs().div_ceil(BLOCK_BYTES);
                if range.end <= start {
                    break;
                }
                found.push(start.max(at)..end.min(range.end));
                at = end;
            }
        }
        Ok(found)
    }

    /// Copies bytes that the base shows into the memory file.
    fn copy_up(&self, blocks: &Blocks, bytes: &Range<u64>) -> Answer<()> {
        match &blocks.base {
            Some(base) => copy(base.fd.as_fd(), self.memfd.as_fd(), bytes.start..bytes.end.min(base.end)),
            None => Ok(()),
        }
    }

    /// Where the bytes of a span are to be read; none when all are in the memory file.
    pub(super) fn parts(&self, bytes: &Range<u64>) -> Answer<Option<Vec<Part>>> {
        let blocks = self.blocks();
        let gaps = blocks.shown(&blocks_of(bytes));
        if gaps.is_empty() {
            return Ok(None);
        }
        let size = self.size()?;
        let (mut at, end) = (bytes.start, bytes.end.min(size));
        if end <= at {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let mut push = |beneath, bytes: Range<u64>| {
            if !bytes.is_empty() {
                parts.push(Part { beneath, bytes });
            }
        };
        for gap in gaps {
            let start = (gap.start * BLOCK_BYTES).clamp(at, end);
            let stop = (gap.end * BLOCK_BYTES).min(blocks.base_end()).clamp(start, end);
            push(false, at..start);
            push(true, start..stop);
            at = stop;
        }
        push(false, at..end);
        Ok(Some(parts))
    }

    /// Gives back what lies behind the end of the file.
    pub(super) fn settle(&self) -> Answer<()> {
        let size = self.size()?;
        let mut blocks = self.blocks();
        let back = blocks.cut(size);
        blocks.modified = true;
        self.home.budget.give_back(back);
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let blocks = self.blocks.get_mut().unwrap_or_else(PoisonError::into_inner);
        let back = blocks.cut(0);
        self.home.budget.give_back(back);
    }
}

/// Copies bytes to the same place of another file.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: Range<u64>) -> Answer<()> {
    let mut at = bytes.start;
    let mut buffer = [0; 1 << 14];
    while at < bytes.end {
        let want = usize::try_from(bytes.end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = pread(from, &mut buffer[..want], i64::try_from(at).map_err(|_| Errno::EFBIG)?)?;
        if count == 0 {
            // The host has cut its file; what is missing reads as zeros, and publishing tells.
            return Ok(());
        }
        put(to, &buffer[..count], at)?;
        at += u64::try_from(count).map_err(|_| Errno::EIO)?;
    }
    Ok(())
}

/// Writes all of `bytes` at an offset.
pub(super) fn put(file: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Answer<()> {
    while !bytes.is_empty() {
        let count = pwrite(file, bytes, i64::try_from(at).map_err(|_| Errno::EFBIG)?)?;
        if count == 0 {
            return Err(Errno::EIO);
        }
        bytes = &bytes[count..];
        at += u64::try_from(count).map_err(|_| Errno::EIO)?;
    }
    Ok(())
}
