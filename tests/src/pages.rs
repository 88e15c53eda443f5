//! Memory of its own for a guest program that does to memory what no reference may live through.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use cairn_abi::Span;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A mapping, reached by volatile accesses only: the device, the kernel and other threads may change it at any
/// time. What unmaps or protects it makes the accesses to it fault, which ends the program.
#[derive(Debug)]
pub struct Pages {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread; it has no reference, and a race of volatile
// accesses of plain integers is what it is for.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

/// What of a file is mapped, and how.
#[derive(Clone, Copy, Debug)]
pub enum FileView {
    /// `MAP_SHARED`, to be read.
    SharedRead,
    /// `MAP_SHARED`, to be read and written.
    SharedWrite,
    /// `MAP_PRIVATE`, to be read.
    PrivateRead,
}

impl Pages {
    /// `count` pages of zeros that the program may read and write.
    ///
    /// # Errors
    /// What mmap says.
    pub fn anonymous(count: usize) -> io::Result<Self> {
        Self::map(0, count, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// As [`anonymous`](Self::anonymous), at this address, where nothing may be.
    ///
    /// # Errors
    /// What mmap says.
    pub fn anonymous_at(address: u64, count: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        Self::map(address, count, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// `count` pages that nobody may access.
    ///
    /// # Errors
    /// What mmap says.
    pub fn forbidden(count: usize) -> io::Result<Self> {
        Self::map(0, count, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// The first `count` pages of `file`.
    ///
    /// # Errors
    /// What mmap says.
    pub fn of_file(file: &File, count: usize, view: FileView) -> io::Result<Self> {
        let (protection, flags) = match view {
            FileView::SharedRead => (libc::PROT_READ, libc::MAP_SHARED),
            FileView::SharedWrite => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            FileView::PrivateRead => (libc::PROT_READ, libc::MAP_PRIVATE),
        };
        Self::map(0, count, protection, flags, file.as_raw_fd())
    }

    fn map(address: u64, count: usize, protection: i32, flags: i32, file: i32) -> io::Result<Self> {
        let len = count * PAGE;
        let at = ptr::with_exposed_provenance_mut(usize::try_from(address).map_err(io::Error::other)?);
        // SAFETY: a new mapping, at a place of the kernel's choice or where nothing is (NOREPLACE).
        let start = unsafe { libc::mmap(at, len, protection, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), len })
    }

    /// Lets nobody access it any more: whoever does, faults.
    ///
    /// # Errors
    /// What mprotect says.
    pub fn forbid(&self) -> io::Result<()> {
        // SAFETY: mapped by `map`; no reference was ever given out.
        match unsafe { libc::mprotect(self.start.cast(), self.len, libc::PROT_NONE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The first byte's address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads an integer.
    ///
    /// # Panics
    /// If it isn't inside.
    #[must_use]
    pub fn get<T: Integer>(&self, offset: usize) -> T {
        // SAFETY: inside the mapping by `at`; any bytes are a `T`, and at worst the access faults.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes an integer.
    ///
    /// # Panics
    /// If it isn't inside.
    pub fn put<T: Integer>(&self, offset: usize, value: T) {
        // SAFETY: as for `get`; nobody holds a reference to it.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }

    /// Fills everything with `word`.
    pub fn fill(&self, word: u64) {
        for offset in (0..self.len).step_by(8) {
            self.put(offset, word);
        }
    }

    /// Whether every word is `word`.
    #[must_use]
    pub fn is_filled(&self, word: u64) -> bool {
        (0..self.len).step_by(8).all(|offset| self.get::<u64>(offset) == word)
    }

    /// FNV-1a over the words.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        (0..self.len).step_by(8).fold(0xcbf2_9ce4_8422_2325, |sum: u64, offset| {
            (sum ^ self.get::<u64>(offset)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len && offset.is_multiple_of(align_of::<T>()));
        self.start.wrapping_add(offset).cast()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`; no reference was ever given out.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Bytes of a span that [`touch`] makes present.
const TOUCHED: u64 = 1 << 20;

/// Makes the span's first pages present and writable, by the kernel: where this program may not, nothing happens.
pub fn touch(span: &Span) {
    let (Ok(address), Ok(len)) = (usize::try_from(span.address), usize::try_from(span.len.min(TOUCHED)))
    else {
        return;
    };
    let at = ptr::with_exposed_provenance_mut(address);
    // SAFETY: as if each page were read and written back; the kernel checks the addresses.
    let _ = unsafe { libc::madvise(at, len, libc::MADV_POPULATE_WRITE) };
}

/// Types of which every bit pattern is a value.
pub trait Integer: Copy {}
impl Integer for u8 {}
impl Integer for u16 {}
impl Integer for u32 {}
impl Integer for u64 {}
