//! The memory of a Linux guest: guest-physical addresses, two spans around the hole for devices.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::MmapAdvise;
use vm_memory::bitmap::{Bitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::host::mapping::Reservation;
use crate::memory::layout::{LARGE_PAGE, PAGE, round_up, to_usize};
use crate::memory::marks::FrameMarks;

/// The hole below 4 GiB in which a Linux guest has no memory: PCI functions, interrupt controllers.
pub const DEVICE_HOLE: Range<u64> = 0xc000_0000..0x1_0000_0000;
/// The least memory that a Linux guest can have.
pub const MIN_BYTES: u64 = 64 << 20;
/// The most.
pub const MAX_BYTES: u64 = 1 << 40;

/// The memory. It is never moved, shrunk or unmapped while the value lives.
#[derive(Debug)]
pub struct Ram {
    spans: Vec<Span>,
    memory: GuestMemoryMmap<FrameMarks>,
}

/// A contiguous part, at the same distance in the VMM's address space everywhere.
#[derive(Debug)]
struct Span {
    range: Range<u64>,
    host: Arc<Reservation>,
    marks: FrameMarks,
}

impl Ram {
    /// `bytes` of zeros, rounded up to whole large pages: from address 0 up to the [`DEVICE_HOLE`], and what
    /// doesn't fit there from 4 GiB on.
    ///
    /// # Errors
    /// What mmap says; `InvalidInput` below [`MIN_BYTES`] or above [`MAX_BYTES`].
    pub fn new(bytes: u64) -> io::Result<Self> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes) {
            let text = format!(
                "a Linux guest has between {} MiB and {} GiB of memory",
                MIN_BYTES >> 20,
                MAX_BYTES >> 30
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let bytes = round_up(bytes, LARGE_PAGE).unwrap_or(MAX_BYTES);
        let low = bytes.min(DEVICE_HOLE.start);
        let mut spans = vec![Span::new(0..low)?];
        if low < bytes {
            spans.push(Span::new(DEVICE_HOLE.end..DEVICE_HOLE.end + (bytes - low))?);
        }
        let regions = spans.iter().map(Span::region).collect::<io::Result<Vec<_>>>()?;
        let memory = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
        Ok(Self { spans, memory })
    }

    /// The memory as rust-vmm's crates want it. Whatever is written through it is marked.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap<FrameMarks> {
        &self.memory
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|span| span.range.end - span.range.start).sum()
    }

    /// The guest-physical spans, ascending, whole large pages each, with the VMM's mapping of each.
    pub fn spans(&self) -> impl Iterator<Item = (Range<u64>, &Arc<Reservation>)> {
        self.spans.iter().map(|span| (span.range.clone(), &span.host))
    }

    /// A pointer to the frame at `address`, a multiple of [`PAGE`]; `None` if there is no memory. It stays
    /// good as long as the memory lives.
    #[must_use]
    pub fn frame(&self, address: u64) -> Option<NonNull<u8>> {
        let span = self.span(address)?;
        let offset = address - span.range.start;
        span.host.pointer(&(offset..offset.checked_add(PAGE)?))
    }

    /// The 64-bit word at `address`, a multiple of 8; `None` if there is no memory. Writes through it aren't
    /// marked.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<&AtomicU64> {
        let span = self.span(address).filter(|_| address.is_multiple_of(8))?;
        Some(span.host.word(address - span.range.start))
    }

    /// Marks the frame around `address` as written by the VMM.
    pub fn mark(&self, address: u64) {
        if let Some(span) = self.span(address) {
            span.marks.mark_dirty(to_usize(address - span.range.start), 1);
        }
    }

    /// The marks of the 64 frames from `address` on, a multiple of 64 pages: bit i is frame i.
    #[must_use]
    pub fn marks(&self, address: u64) -> u64 {
        self.span(address).map_or(0, |span| span.marks.load(span.word_index(address)))
    }

    /// Takes the marks in `mask`, of the 64 frames from `address` on, back.
    pub fn clear_marks(&self, address: u64, mask: u64) {
        if let Some(span) = self.span(address) {
            span.marks.clear(span.word_index(address), mask);
        }
    }

    fn span(&self, address: u64) -> Option<&Span> {
        self.spans.iter().find(|span| span.range.contains(&address))
    }
}

impl Span {
    fn new(range: Range<u64>) -> io::Result<Self> {
        let len = to_usize(range.end - range.start);
        let host = Reservation::anonymous(len, to_usize(LARGE_PAGE))?;
        // Large pages make the guest's page faults in the second dimension rare; without them it's only slower.
        if let Err(error) = host.advise(&(0..len as u64), MmapAdvise::MADV_HUGEPAGE) {
            tracing::debug!(%error, "the guest's memory gets no large pages");
        }
        Ok(Self { range, host: Arc::new(host), marks: FrameMarks::with_len(len) })
    }

    /// The span as a region of `vm-memory`, which doesn't own it.
    fn region(&self) -> io::Result<GuestRegionMmap<FrameMarks>> {
        let pointer = self.host.pointer(&(0..self.host.len() as u64));
        let pointer = pointer.ok_or_else(|| io::Error::other("a span of memory without memory"))?;
        let builder = MmapRegionBuilder::new_with_bitmap(self.host.len(), self.marks.clone())
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the reservation is that long, is readable and writable, and lives beside the region in `Ram`,
        // which never hands the region out but by reference.
        let builder = unsafe { builder.with_raw_mmap_pointer(pointer.as_ptr()) };
        let region = builder.build().map_err(io::Error::other)?;
        GuestRegionMmap::new(region, GuestAddress(self.range.start))
            .ok_or_else(|| io::Error::other("memory beyond the address space"))
    }

    fn word_index(&self, address: u64) -> usize {
        to_usize((address - self.range.start) / (64 * PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use vm_memory::Bytes;

    #[test]
    fn memory_is_around_the_hole() {
        let ram = Ram::new(DEVICE_HOLE.start + (8 << 20)).unwrap();
        let spans: Vec<_> = ram.spans().map(|(range, _)| range).collect();
        assert_eq!(spans, [0..DEVICE_HOLE.start, DEVICE_HOLE.end..DEVICE_HOLE.end + (8 << 20)]);
        assert_eq!(ram.bytes(), DEVICE_HOLE.start + (8 << 20));
        for hole in [DEVICE_HOLE.start, DEVICE_HOLE.end - PAGE, DEVICE_HOLE.end + (8 << 20), u64::MAX - 7] {
            assert!(ram.frame(hole).is_none() && ram.word(hole).is_none(), "{hole:#x}");
        }
        assert!(ram.frame(DEVICE_HOLE.end).is_some());
    }

    #[test]
    fn writes_are_marked_and_words_are_seen() {
        let ram = Ram::new(MIN_BYTES).unwrap();
        ram.memory().write_obj(0x1122_u64, GuestAddress(66 * PAGE + 8)).unwrap();
        assert_eq!(ram.marks(64 * PAGE), 0b100);
        assert_eq!(ram.word(66 * PAGE + 8).unwrap().load(Ordering::Relaxed), 0x1122);
        assert!(ram.word(66 * PAGE + 4).is_none());
        ram.clear_marks(64 * PAGE, 0b100);
        assert_eq!(ram.marks(64 * PAGE), 0);
    }

    #[test]
    fn too_little_and_too_much_are_refused() {
        for bytes in [0, MIN_BYTES - 1, MAX_BYTES + 1, u64::MAX] {
            assert!(Ram::new(bytes).is_err(), "{bytes}");
        }
    }
}
