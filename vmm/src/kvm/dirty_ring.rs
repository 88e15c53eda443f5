//! KVM's dirty ring: a log of the pages that were written, in the order in which they were.
//!
//! KVM pushes an entry at the first write to a page after the page was protected. User space takes entries in
//! order and marks each one as done; a reset protects the pages of all that are done, up to the first that isn't.
//! So pages can't be left open one by one: between two resets all that were written are, and after one none is.
//!
//! Linux Documentation/virt/kvm/api.rst, 8.29 KVM_CAP_DIRTY_LOG_RING and 4.129 KVM_RESET_DIRTY_RINGS;
//! virt/kvm/dirty_ring.c has the other side.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::KVM_DIRTY_LOG_PAGE_OFFSET;
use kvm_ioctls::VcpuFd;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

use crate::host::mapping::Reservation;
use crate::kvm::system::{KvmError, refused};
use crate::kvm::vm::Vm;
use crate::memory::layout::{PAGE, to_usize};

/// Bytes of an entry: flags and slot, 32 bits each, then the page's offset in the slot.
const ENTRY_BYTES: u64 = 16;
/// Flag: KVM has filled the entry (KVM_DIRTY_GFN_F_DIRTY).
pub(super) const FILLED: u64 = 1 << 0;
/// Flag: user space is done with it (KVM_DIRTY_GFN_F_RESET). Alone: KVM looks for exactly that.
pub(super) const DONE: u64 = 1 << 1;
/// The flags' half of an entry's first word.
const FLAGS: u64 = u32::MAX as u64;

/// The fewest entries that a ring can have: KVM keeps 64 back, 512 more where the CPU logs by itself, and takes
/// powers of two of at least a page.
pub const FEWEST_ENTRIES: u32 = 256;
/// The most entries that KVM allows (KVM_DIRTY_RING_MAX_ENTRIES).
pub const MOST_ENTRIES: u32 = 65_536;

/// Bytes of a ring.
pub(super) fn ring_bytes(entries: u32) -> u64 {
    u64::from(entries) * ENTRY_BYTES
}

/// The words of a ring, with the orders of memory that the protocol needs.
pub(super) trait RingWords {
    /// Entries, a power of two.
    fn entries(&self) -> usize;
    /// Flags (low half) and slot of an entry. What the filler wrote before is seen after.
    fn head(&self, entry: usize) -> u64;
    /// The page's offset. Only read between a [`head`](Self::head) that was filled and [`give`](Self::give).
    fn offset(&self, entry: usize) -> u64;
    /// Sets flags and slot. All reads of the entry come before.
    fn give(&self, entry: usize, head: u64);
}

/// A page that was written, as KVM tells it: a claim, until slot and offset were looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrittenPage {
    /// The slot's number, the address space (0, or 1 in system-management mode) in the upper half.
    pub slot: u32,
    /// The page's number in the slot.
    pub offset: u64,
}

/// The consumer's side of one ring.
#[derive(Debug)]
pub(super) struct Consumer<W> {
    words: W,
    next: usize,
    /// Entries that were taken since the last reset.
    taken: usize,
}

impl<W: RingWords> Consumer<W> {
    pub(super) fn new(words: W) -> Self {
        Self { words, next: 0, taken: 0 }
    }

    /// The next page that was written, or none yet. Its entry is done.
    pub(super) fn take(&mut self) -> Option<WrittenPage> {
        let head = self.words.head(self.next);
        // An entry that is done already was reached by going around: nothing is new behind it before a reset.
        if head & FLAGS != FILLED {
            return None;
        }
        let offset = self.words.offset(self.next);
        self.words.give(self.next, head & !FLAGS | DONE);
        self.next = (self.next + 1) & (self.words.entries() - 1);
        self.taken += 1;
        let slot = u32::try_from(head >> 32).unwrap_or(u32::MAX);
        Some(WrittenPage { slot, offset })
    }
}

/// The ring of a machine's only vCPU.
#[derive(Debug)]
pub struct DirtyRing {
    consumer: Consumer<MappedWords>,
    vm: Arc<Vm>,
}

impl DirtyRing {
    /// The ring of `vcpu`, of a machine that was made with rings of `entries`.
    pub(super) fn map(vm: &Arc<Vm>, vcpu: &VcpuFd, entries: u32) -> Result<Self, KvmError> {
        let words = MappedWords::map(vcpu, entries)
            .map_err(|error| refused("its dirty ring")(kvm_ioctls::Error::new(errno(&error))))?;
        Ok(Self { consumer: Consumer::new(words), vm: Arc::clone(vm) })
    }

    /// Takes what was written since the last call, at most as many pages as the ring holds. Nothing is protected.
    pub fn take(&mut self) -> impl Iterator<Item = WrittenPage> + '_ {
        let most = self.entries();
        std::iter::from_fn(|| self.consumer.take()).take(most)
    }

    /// Protects all pages that were taken: the next write to each is told again.
    ///
    /// # Errors
    /// [`KvmError::Refused`]; then they are not protected.
    pub fn reset(&mut self) -> Result<(), KvmError> {
        self.vm.reset_dirty_rings().map_err(refused("to protect the pages of its dirty ring"))?;
        self.consumer.taken = 0;
        Ok(())
    }

    /// Entries that can't be filled before the next reset.
    #[must_use]
    pub fn used(&self) -> usize {
        self.consumer.taken
    }

    /// Entries.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.consumer.words.entries()
    }
}

/// A ring that is shared with KVM.
#[derive(Debug)]
struct MappedWords {
    pages: Reservation,
    entries: usize,
}

impl MappedWords {
    fn map(vcpu: &VcpuFd, entries: u32) -> io::Result<Self> {
        // SAFETY: the descriptor stays open while `vcpu` is borrowed, and the mapping holds the vCPU by itself.
        let file = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let bytes = ring_bytes(entries);
        let pages = Reservation::new(to_usize(bytes), to_usize(PAGE))?;
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let place = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE.cast_signed();
        pages.place_file(0..bytes, rights, true, file, place)?;
        Ok(Self { pages, entries: to_usize(u64::from(entries)) })
    }
}

impl RingWords for MappedWords {
    fn entries(&self) -> usize {
        self.entries
    }

    fn head(&self, entry: usize) -> u64 {
        self.pages.word(entry as u64 * ENTRY_BYTES).load(Ordering::Acquire)
    }

    fn offset(&self, entry: usize) -> u64 {
        self.pages.word(entry as u64 * ENTRY_BYTES + 8).load(Ordering::Relaxed)
    }

    fn give(&self, entry: usize, head: u64) {
        self.pages.word(entry as u64 * ENTRY_BYTES).store(head, Ordering::Release);
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}
