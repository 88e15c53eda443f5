//! The program's memory: the window, and the checked ways into it.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;
use rangemap::RangeSet;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::host::mapping::Reservation;
use crate::memory::layout::{LARGE_PAGE, PAGE, WINDOW_SIZE, to_usize};
use crate::memory::written::WrittenPages;

/// Bytes that a string argument may have, with its end (Linux: PATH_MAX).
pub const MAX_STRING: usize = 4096;

/// The memory of one program, shared by the threads that serve it.
///
/// Two ways lead to the bytes: copies through the kernel, which answer EFAULT where the memory isn't
/// there, and, for private anonymous memory that can be read and written (*plain* memory), raw
/// pointers, which are good as long as the lock on the plain spans is held: whoever takes memory away
/// takes it from the plain spans first.
#[derive(Debug)]
pub struct ProgramMemory {
    window: Reservation,
    plain: RwLock<RangeSet<u64>>,
    regions: RwLock<Vec<Arc<WrittenPages>>>,
    /// What was changed of all memory, where whole programs are checkpointed.
    whole: OnceLock<WrittenPages>,
}

/// Program memory as the host kernel's system calls take it: an address of the VMM and a length.
///
/// It was checked to lie in the window, not to be mapped: the kernel answers EFAULT by itself.
#[derive(Clone, Copy, Debug)]
pub struct HostBuffer {
    address: usize,
    len: usize,
}

impl HostBuffer {
    /// For a system call.
    #[must_use]
    pub fn as_ptr(self) -> *mut libc::c_void {
        std::ptr::with_exposed_provenance_mut(self.address)
    }

    /// Bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// What the buffers hold, one after the other, between two positions.
    #[must_use]
    pub fn cut(buffers: &[Self], bytes: Range<usize>) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut at = 0;
        for buffer in buffers {
            let start = bytes.start.clamp(at, at + buffer.len);
            let end = bytes.end.clamp(start, at + buffer.len);
            if start < end {
                parts.push(Self { address: buffer.address + (start - at), len: end - start });
            }
            at += buffer.len;
        }
        parts
    }
}

impl ProgramMemory {
    /// An empty address space.
    ///
    /// # Errors
    /// ENOMEM, when the VMM's own address space is limited (ulimit -v).
    pub fn new() -> io::Result<Self> {
        let window = Reservation::new(to_usize(WINDOW_SIZE), to_usize(LARGE_PAGE))?;
        Ok(Self { window, plain: RwLock::default(), regions: RwLock::default(), whole: OnceLock::new() })
    }

    /// The span of the VMM's address space that holds the memory; the offset is the guest's address.
    #[must_use]
    pub fn window(&self) -> &Reservation {
        &self.window
    }

    /// The plain spans, for reading: while the guard lives, they stay mapped.
    pub fn plain(&self) -> RwLockReadGuard<'_, RangeSet<u64>> {
        self.plain.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plain spans, for the one who maps and unmaps.
    pub fn plain_mut(&self) -> RwLockWriteGuard<'_, RangeSet<u64>> {
        self.plain.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, what system calls write to `region` is marked in the result.
    pub fn watch(&self, region: Range<u64>) -> Arc<WrittenPages> {
        let written = Arc::new(WrittenPages::new(region));
        self.regions_mut().push(Arc::clone(&written));
        written
    }

    /// Ends [`watch`](Self::watch).
    pub fn unwatch(&self, written: &Arc<WrittenPages>) {
        self.regions_mut().retain(|watched| !Arc::ptr_eq(watched, written));
    }

    /// From now on, what the VMM changes anywhere is marked in the result: by system calls, and by mappings that
    /// come, go or move.
    pub fn watch_all(&self) -> &WrittenPages {
        self.whole.get_or_init(|| WrittenPages::new(0..WINDOW_SIZE))
    }

    /// Whether `range` has a byte of a watched region.
    #[must_use]
    pub fn is_watched(&self, range: &Range<u64>) -> bool {
        self.regions()
            .iter()
            .any(|region| range.start < region.range().end && region.range().start < range.end)
    }

    /// Memory that a system call of the host reads.
    ///
    /// # Errors
    /// EFAULT when it isn't in the program's address space.
    pub fn outgoing(&self, address: u64, len: u64) -> Result<HostBuffer, Errno> {
        if len == 0 {
            return Ok(HostBuffer { address: self.window.address(0), len: 0 });
        }
        let end = address.checked_add(len).ok_or(Errno::EFAULT)?;
        let start = self.window.pointer(&(address..end)).ok_or(Errno::EFAULT)?;
        let len = usize::try_from(len).map_err(|_| Errno::EFAULT)?;
        Ok(HostBuffer { address: start.as_ptr().expose_provenance(), len })
    }

    /// Memory that a system call of the host writes.
    ///
    /// # Errors
    /// EFAULT when it isn't in the program's address space.
    pub fn incoming(&self, address: u64, len: u64) -> Result<HostBuffer, Errno> {
        let buffer = self.outgoing(address, len)?;
        self.touch(&(address..address.saturating_add(len)));
        Ok(buffer)
    }

    /// Fills all of `into` from `address` on.
    ///
    /// # Errors
    /// EFAULT when a byte of it can't be read.
    pub fn read_bytes(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if self.window.copy_out(address, into)? == into.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Writes all of `from` to `address` on.
    ///
    /// # Errors
    /// EFAULT when a byte of it can't be written; those before it may have been.
    pub fn write_bytes(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        self.touch(&(address..address.saturating_add(from.len() as u64)));
        if self.window.copy_in(address, from)? == from.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// EFAULT when a byte of it can't be read.
    pub fn read<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value.
    ///
    /// # Errors
    /// EFAULT when a byte of it can't be written.
    pub fn write<T: IntoBytes + Immutable + ?Sized>(&self, address: u64, value: &T) -> Result<(), Errno> {
        self.write_bytes(address, value.as_bytes())
    }

    /// Reads `count` values; the caller has bounded `count`.
    ///
    /// # Errors
    /// EFAULT when a byte of them can't be read.
    pub fn read_array<T: FromBytes + IntoBytes + Clone>(
        &self,
        address: u64,
        count: usize,
    ) -> Result<Vec<T>, Errno> {
        let mut values = vec![T::new_zeroed(); count];
        self.read_bytes(address, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Reads a string that ends with a zero byte.
    ///
    /// # Errors
    /// EFAULT when a byte before its end can't be read, ENAMETOOLONG when it has no end within
    /// [`MAX_STRING`] bytes.
    pub fn read_string(&self, address: u64) -> Result<CString, Errno> {
        self.read_text(address, MAX_STRING, Errno::ENAMETOOLONG)
    }

    /// Reads a string of at most `most` bytes with the zero byte that ends it.
    ///
    /// # Errors
    /// EFAULT when a byte before its end can't be read, `too_long` when it's longer.
    pub fn read_text(&self, address: u64, most: usize, too_long: Errno) -> Result<CString, Errno> {
        let mut bytes = Vec::new();
        let mut at = address;
        while bytes.len() < most {
            // Up to the end of the page: the next one may not be there, and need not.
            let rest_of_page = usize::try_from(PAGE - at % PAGE).unwrap_or(0);
            let start = bytes.len();
            bytes.resize(start + rest_of_page.min(256).min(most - start), 0);
            let read = self.window.copy_out(at, &mut bytes[start..])?;
            bytes.truncate(start + read);
            if let Some(end) = bytes[start..].iter().position(|byte| *byte == 0) {
                bytes.truncate(start + end);
                return CString::new(bytes).map_err(|_| Errno::EINVAL);
            }
            if read == 0 {
                return Err(Errno::EFAULT);
            }
            at += read as u64;
        }
        Err(too_long)
    }

    /// Counts `span` as another memory than before, where all memory is watched: it was mapped or unmapped, or
    /// something was moved there. Regions that lie there have ended.
    pub fn renew(&self, span: &Range<u64>) {
        if let Some(whole) = self.whole.get() {
            whole.mark(span);
        }
    }

    /// Counts `span` as written by the VMM where it's watched.
    pub fn touch(&self, span: &Range<u64>) {
        self.renew(span);
        for region in self.regions().iter() {
            region.mark(span);
        }
    }

    /// Counts pages of a region as changed, where all memory is watched, because whoever follows the region is about
    /// to forget that they were written: bit i of word w is page `64 * (first + w) + i` of what begins at `start`.
    pub fn renew_pages(&self, start: u64, first: usize, words: &[u64]) {
        if self.whole.get().is_none() {
            return;
        }
        for (word, bits) in (first as u64..).zip(words) {
            let mut left = *bits;
            while left != 0 {
                let page = u64::from(left.trailing_zeros());
                let count = u64::from((left >> page).trailing_ones());
                let at = start + (64 * word + page) * PAGE;
                self.renew(&(at..at + count * PAGE));
                left &= u64::MAX.checked_shl(u32::try_from(page + count).unwrap_or(u32::MAX)).unwrap_or(0);
            }
        }
    }

    /// Counts pages of the region that is just `region` as written, because whoever follows all memory is about to
    /// clear their log: bit i of word w is page `64 * w + i` of it.
    pub fn touch_pages(&self, region: &Range<u64>, words: &[u64]) {
        for region in self.regions().iter().filter(|watched| watched.range() == region) {
            for (word, bits) in words.iter().enumerate().filter(|(_, bits)| **bits != 0) {
                region.mark_word(word, *bits);
            }
        }
    }

    fn regions(&self) -> RwLockReadGuard<'_, Vec<Arc<WrittenPages>>> {
        self.regions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn regions_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<WrittenPages>>> {
        self.regions.write().unwrap_or_else(PoisonError::into_inner)
    }
}
