//! The only mmap and munmap of the VMM: spans of its own address space with an owner.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};

use crate::host::PAGE;

/// A span of the VMM's address space, reserved without access, whose parts can be given content.
///
/// Offsets are bytes from its start. Whoever changes a part that somebody else reads by a raw
/// pointer must have made that reader stop; the type itself only guarantees that nothing outside of
/// the reservation is ever mapped or unmapped.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the span belongs to the value, not to a thread; every method goes through the kernel, which
// serializes changes of one address space.
unsafe impl Send for Reservation {}
// SAFETY: as above: shared use is system calls on the span, never Rust references into it, except
// `words`, which hands out atomics.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `len` bytes, aligned to `align`, a power of two of at least a page.
    ///
    /// # Errors
    /// What mmap says: ENOMEM, mostly.
    pub fn new(len: usize, align: usize) -> io::Result<Self> {
        let slack = len.checked_add(align).and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { mman::mmap_anonymous(None, slack, ProtFlags::PROT_NONE, flags)? }.cast::<u8>();
        let head = start.as_ptr().align_offset(align);
        // SAFETY: `head` is below `align`, so the sum stays within the `len + align` bytes just mapped.
        let base = unsafe { start.add(head) };
        let whole = Self { base: start, len: slack.get() };
        whole.trim(0..head)?;
        whole.trim(head + len..slack.get())?;
        std::mem::forget(whole);
        Ok(Self { base, len })
    }

    /// Reserves `len` bytes and makes all of them readable and writable anonymous memory.
    ///
    /// # Errors
    /// What mmap says.
    pub fn anonymous(len: usize, align: usize) -> io::Result<Self> {
        let reservation = Self::new(len, align)?;
        reservation.place_anonymous(0..len as u64, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        Ok(reservation)
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The VMM's address of the byte at `offset`; the caller has checked that it's inside.
    #[must_use]
    pub fn address(&self, offset: u64) -> usize {
        self.base.as_ptr().addr() + usize::try_from(offset).unwrap_or(usize::MAX)
    }

    /// A pointer to `range`, if that lies inside.
    #[must_use]
    pub fn pointer(&self, range: &Range<u64>) -> Option<NonNull<u8>> {
        let (start, _) = self.check(range).ok()?;
        // SAFETY: `check` found `start` inside the reservation.
        Some(unsafe { self.base.add(start) })
    }

    /// The 64-bit word at `offset`, which must have been placed and be 8-byte aligned.
    ///
    /// # Panics
    /// When `offset` is outside or unaligned: callers compute it, no guest does.
    #[must_use]
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        let pointer =
            self.pointer(&(offset..offset + 8)).expect("a word inside the reservation").cast::<AtomicU64>();
        assert!(pointer.is_aligned());
        // SAFETY: inside the reservation and aligned; users of this method place their whole
        // reservation once and never unmap it before drop; all its words are accessed as atomics.
        unsafe { pointer.as_ref() }
    }

    /// Gives `range` fresh zeroed private memory, instead of what was there.
    ///
    /// # Errors
    /// What mmap says; EINVAL when `range` isn't inside.
    pub fn place_anonymous(&self, range: Range<u64>, protection: ProtFlags) -> Result<(), Errno> {
        let (start, len) = self.check(&range)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
        // SAFETY: MAP_FIXED inside the reservation, which this value owns.
        unsafe { mman::mmap_anonymous(self.fixed(start), len, protection, flags)? };
        Ok(())
    }

    /// Gives `range` the content of a file from `offset` on.
    ///
    /// # Errors
    /// What mmap says (the descriptor's rights, the file system); EINVAL when `range` isn't inside.
    pub fn place_file(
        &self,
        range: Range<u64>,
        protection: ProtFlags,
        shared: bool,
        file: BorrowedFd<'_>,
        offset: i64,
    ) -> Result<(), Errno> {
        let (start, len) = self.check(&range)?;
        let sharing = if shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
        let flags = sharing | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
        // SAFETY: MAP_FIXED inside the reservation, which this value owns.
        unsafe { mman::mmap(self.fixed(start), len, protection, flags, file.as_fd(), offset)? };
        Ok(())
    }

    /// Takes `range`'s content away: no access, as after [`Reservation::new`].
    ///
    /// # Errors
    /// What mmap says; EINVAL when `range` isn't inside.
    pub fn clear(&self, range: Range<u64>) -> Result<(), Errno> {
        self.place_anonymous(range, ProtFlags::PROT_NONE)
    }

    /// Changes the rights on `range`.
    ///
    /// # Errors
    /// What mprotect says; EINVAL when `range` isn't inside.
    pub fn protect(&self, range: &Range<u64>, protection: ProtFlags) -> Result<(), Errno> {
        let (start, len) = self.check(range)?;
        // SAFETY: inside the reservation; rights of memory that Rust holds no reference to.
        unsafe { mman::mprotect(self.base.add(start).cast(), len.get(), protection) }
    }

    /// madvise on `range`.
    ///
    /// # Errors
    /// What madvise says; EINVAL when `range` isn't inside.
    pub fn advise(&self, range: &Range<u64>, advice: MmapAdvise) -> Result<(), Errno> {
        let (start, len) = self.check(range)?;
        // SAFETY: inside the reservation; at worst the content is dropped, and no Rust reference
        // relies on it.
        unsafe { mman::madvise(self.base.add(start).cast(), len.get(), advice) }
    }

    /// Waits until what was stored in a shared file mapping at `range` is on its way to the file.
    ///
    /// # Errors
    /// What msync says; EINVAL when `range` isn't inside.
    pub fn sync(&self, range: &Range<u64>) -> Result<(), Errno> {
        let (start, len) = self.check(range)?;
        // SAFETY: inside the reservation; syncing changes no content.
        unsafe { mman::msync(self.base.add(start).cast(), len.get(), mman::MsFlags::MS_SYNC) }
    }

    /// Backs every page of `range` with memory now.
    ///
    /// # Errors
    /// What madvise says: ENOMEM or EFAULT when memory is short, EINVAL on kernels before 5.14.
    pub fn populate(&self, range: &Range<u64>) -> Result<(), Errno> {
        let (start, len) = self.check(range)?;
        // SAFETY: inside the reservation; populating changes no content.
        let done = unsafe {
            libc::madvise(self.base.as_ptr().add(start).cast(), len.get(), libc::MADV_POPULATE_WRITE)
        };
        Errno::result(done).map(drop)
    }

    /// Moves the pages of `from` to `to`, of the same length, instead of what was there.
    ///
    /// The source stays mapped until it is cleared: were it unmapped even for a moment, another thread's
    /// mapping could land there. Nothing of `from` may be registered with a userfaultfd: what was written beside that
    /// would be lost.
    ///
    /// # Errors
    /// What mremap says; EINVAL when one isn't inside, they overlap or differ in length, and on kernels
    /// before 5.13 for what isn't private memory.
    pub fn relocate(&self, from: &Range<u64>, to: &Range<u64>) -> Result<(), Errno> {
        let ((source, len), (target, target_len)) = (self.check(from)?, self.check(to)?);
        if len != target_len || from.start < to.end && to.start < from.end {
            return Err(Errno::EINVAL);
        }
        self.relocate_pieces(source, target, len.get())?;
        self.clear(from.clone())
    }

    /// Before Linux 6.17, mremap takes one mapping of the host at a time, and may not take what the guest has as one:
    /// then the halves are tried. Since then it takes several, one after the other, but for the registered ones of
    /// `relocate`: for these it fails in the same way, when those before them may have moved.
    fn relocate_pieces(&self, source: usize, target: usize, len: usize) -> Result<(), Errno> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: the caller checked that both spans are inside the reservation, which this value owns,
        // and apart.
        let moved = unsafe {
            let (source, target) = (self.base.add(source).as_ptr(), self.base.add(target).as_ptr());
            libc::mremap(source.cast(), len, len, flags, target)
        };
        if moved != libc::MAP_FAILED {
            return Ok(());
        }
        let half = len / 2 / PAGE * PAGE;
        match Errno::last() {
            Errno::EFAULT if half != 0 => {
                self.relocate_pieces(source, target, half)?;
                self.relocate_pieces(source + half, target + half, len - half)
            }
            errno => Err(errno),
        }
    }

    fn check(&self, range: &Range<u64>) -> Result<(usize, NonZeroUsize), Errno> {
        let start = usize::try_from(range.start).map_err(|_| Errno::EINVAL)?;
        let end = usize::try_from(range.end).map_err(|_| Errno::EINVAL)?;
        let len = end.checked_sub(start).and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        if self.len < end { Err(Errno::EINVAL) } else { Ok((start, len)) }
    }

    fn fixed(&self, start: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.base.as_ptr().addr() + start)
    }

    fn trim(&self, range: Range<usize>) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: only `new` calls this, on ends of a mapping that nobody has seen yet.
        unsafe { mman::munmap(self.base.add(range.start).cast(), range.len()) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the span is this value's; who hands out pointers into it keeps it alive (an Arc).
        if let Err(errno) = unsafe { mman::munmap(self.base.cast(), self.len) } {
            tracing::error!(%errno, "a mapping could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    #[test]
    fn is_aligned_and_zeroed() {
        let memory = Reservation::anonymous(0x4000, 1 << 21).unwrap();
        assert_eq!(memory.address(0) % (1 << 21), 0);
        memory.word(0x3ff8).store(7, Ordering::Relaxed);
        assert_eq!(
            (memory.word(0).load(Ordering::Relaxed), memory.word(0x3ff8).load(Ordering::Relaxed)),
            (0, 7)
        );
    }

    #[test]
    fn nothing_outside_can_be_changed() {
        let memory = Reservation::new(0x4000, 0x1000).unwrap();
        for bad in [0x3000..0x5000, 0x4000..0x5000, 0x1000..0x1000, u64::MAX - 0xfff..u64::MAX] {
            assert_eq!(memory.place_anonymous(bad.clone(), RW), Err(Errno::EINVAL), "{bad:x?}");
            assert_eq!(memory.protect(&bad, RW), Err(Errno::EINVAL), "{bad:x?}");
            assert!(memory.pointer(&bad).is_none(), "{bad:x?}");
        }
    }

    #[test]
    fn pages_move_with_their_content() {
        let memory = Reservation::anonymous(0x8000, 0x1000).unwrap();
        memory.word(0x1008).store(42, Ordering::Relaxed);
        // Two mappings for the host, as their advice differs.
        memory.advise(&(0x2000..0x3000), MmapAdvise::MADV_NOHUGEPAGE).unwrap();
        memory.word(0x2ff8).store(43, Ordering::Relaxed);
        memory.relocate(&(0x1000..0x3000), &(0x5000..0x7000)).unwrap();
        assert_eq!(memory.word(0x6ff8).load(Ordering::Relaxed), 43);
        assert_eq!(memory.word(0x5008).load(Ordering::Relaxed), 42);
        assert_eq!(memory.relocate(&(0x5000..0x7000), &(0x6000..0x8000)), Err(Errno::EINVAL));
        assert_eq!(memory.relocate(&(0x5000..0x6000), &(0x1000..0x3000)), Err(Errno::EINVAL));
    }
}
