//! The memory of regions: mapped by us, or adopted from the program. The only way to its bytes.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;

use cairn_abi::Span;
pub(crate) use cairn_engine::PAGE_SIZE as PAGE;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};

/// Bytes of a huge page on x86-64: mappings of at least this size are aligned to it.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Page-aligned memory that one owner may read and write.
///
/// While a block is registered with a tracker, writes through [`Block::bytes_mut`] may fault; the
/// tracker's handler resolves that, so the reference is as good as to ordinary memory.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    len: usize,
    owned: bool,
}

// SAFETY: a block is the only owner of its bytes (mapped by `Block::map`) or stands for them by the
// contract of `Block::adopt`. They are ordinary memory of the process, tied to no thread, and the
// pointer is only followed through `&self` and `&mut self`.
unsafe impl Send for Block {}

impl Block {
    /// Maps `len` bytes of zeros, rounded up to pages; from [`HUGE_PAGE`] on aligned to it.
    ///
    /// No swap space is reserved: sparse blocks may be larger than memory.
    pub(crate) fn map(len: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = len.checked_next_multiple_of(PAGE).ok_or_else(too_large)?;
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slack = if len >= HUGE_PAGE { HUGE_PAGE - PAGE } else { 0 };
        let mapped = len.checked_add(slack).ok_or_else(too_large)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses replaces nothing.
        let base = unsafe { mm::mmap_anonymous(ptr::null_mut(), mapped, protection, flags) }?;
        let base: *mut u8 = base.cast();
        let head = if slack == 0 { 0 } else { base.addr().wrapping_neg() % HUGE_PAGE };
        let start = base.wrapping_add(head);
        trim(base, head);
        trim(start.wrapping_add(len), slack - head);
        let start = NonNull::new(start).ok_or_else(too_large)?;
        Ok(Self { start, len, owned: true })
    }

    /// Maps `len` bytes of zeros, whole pages, at `address` and nowhere else.
    ///
    /// # Errors
    /// Something is there, or can't be there.
    pub(crate) fn map_at(address: usize, len: usize) -> io::Result<Self> {
        let refused = || io::Error::from(io::ErrorKind::AddrInUse);
        if address == 0 || !address.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) || len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let wanted = ptr::without_provenance_mut(address);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: a fresh anonymous mapping that replaces nothing: that is what FIXED_NOREPLACE says, and a kernel
        // that doesn't know it takes the address for a hint.
        let base = unsafe { mm::mmap_anonymous(wanted, len, protection, flags) }?;
        let start = NonNull::new(base.cast::<u8>()).ok_or_else(refused)?;
        let block = Self { start, len, owned: true };
        if block.address() == address { Ok(block) } else { Err(refused()) }
    }

    /// Stands for memory that the program owns.
    ///
    /// # Safety
    /// `memory` must stay mapped readable and writable until the block is gone, and nothing else may
    /// read or write it while a reference from [`Block::bytes`] or [`Block::bytes_mut`] lives.
    pub(crate) unsafe fn adopt(memory: &mut [u8]) -> Self {
        Self { start: NonNull::from_mut(memory).cast(), len: memory.len(), owned: false }
    }

    /// Bytes, a multiple of [`PAGE`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first byte's address.
    pub(crate) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Where trackers find it.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Whether it was mapped by us, so that a page that was never touched is known to be zeros.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned
    }

    /// What the device is told of it. Exposes the address: the device's driver touches pages by it.
    pub(crate) fn span(&self) -> Span {
        Span { address: self.start.as_ptr().expose_provenance() as u64, len: self.len as u64 }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` and `len` describe memory that is mapped and initialised (anonymous pages
        // read as zeros) while the block lives: by `map`, which owns it, or by the contract of
        // `adopt`. Nobody writes it meanwhile: writers need `&mut self`. The length is below
        // isize::MAX because the kernel's user half of the address space is.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Asks the kernel for huge pages here: a hint, so an answer of no is fine.
    pub(crate) fn prefer_huge_pages(&self) {
        if self.len >= HUGE_PAGE {
            // SAFETY: the range is ours and mapped; this advice changes no byte of it.
            let _ = unsafe { mm::madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxHugepage) };
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.owned {
            trim(self.start.as_ptr(), self.len);
        }
    }
}

/// Unmaps what [`Block::map`] mapped.
fn trim(start: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: only called with parts of a mapping of `Block::map` that no reference reaches: its
        // slack, which never had one, or all of it when the block is dropped. Failing (the kernel
        // has no memory to split a mapping) leaves it mapped, which harms nobody.
        let _ = unsafe { mm::munmap(start.cast(), len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_pages_and_large_blocks_are_aligned_to_huge_pages() -> io::Result<()> {
        for (asked, len) in [(1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (HUGE_PAGE, HUGE_PAGE)] {
            let block = Block::map(asked)?;
            assert_eq!(block.len(), len);
            assert_eq!(block.address() % PAGE, 0);
        }
        for len in [HUGE_PAGE, HUGE_PAGE + PAGE, 5 * HUGE_PAGE] {
            let mut block = Block::map(len)?;
            assert_eq!(block.address() % HUGE_PAGE, 0, "{len}");
            block.bytes_mut()[len - 1] = 1;
            assert_eq!(block.bytes()[len - 1], 1);
        }
        Ok(())
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Block::map(0).is_err());
        assert!(Block::map(usize::MAX).is_err());
        assert!(Block::map(usize::MAX - HUGE_PAGE).is_err());
        assert!(Block::map(1 << 60).is_err());
    }
}
