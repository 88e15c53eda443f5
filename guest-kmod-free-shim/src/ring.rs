//! The request queue and its two buffers, in one page. Unsafe: owns that page, which the device accesses too.
//!
//! The page is one structure of atomics, so that everything but getting and returning the page is safe code:
//! the device is one more thread that may change any of it at any time. All fields are little-endian, as is
//! the only architecture of this driver.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use cairn_abi::{REPLY_SIZE, REQUEST_SIZE};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

use crate::origin::Origin;

/// Descriptors: one for the request, one for the reply. One request is outstanding at a time.
pub(crate) const QUEUE_SIZE: u16 = 2;
/// The descriptor that a chain starts with.
pub(crate) const HEAD: u16 = 0;

/// virtio 1.2, 2.7.5: the chain goes on at `next`.
const DESC_F_NEXT: u16 = 1;
/// virtio 1.2, 2.7.5: the device writes the buffer.
const DESC_F_WRITE: u16 = 2;
/// virtio 1.2, 2.7.6: no interrupt is wanted. None could be taken.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// virtio 1.2, 2.7.8: the device polls.
const USED_F_NO_NOTIFY: u16 = 1;
/// The buffers' sizes as descriptors hold them.
const REQUEST_LEN: u32 = 128;
const REPLY_LEN: u32 = 272;
const _: () = assert!(REQUEST_LEN as usize == REQUEST_SIZE && REPLY_LEN as usize == REPLY_SIZE);

/// virtio 1.2, 2.7.5.
#[repr(C, align(16))]
#[derive(Debug, Default)]
pub(crate) struct Descriptor {
    pub(crate) address: AtomicU64,
    pub(crate) len: AtomicU32,
    pub(crate) flags: AtomicU16,
    pub(crate) next: AtomicU16,
}

/// virtio 1.2, 2.7.6. Aligned to a cache line, as are the other parts that one side writes and the other
/// polls.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct Available {
    pub(crate) flags: AtomicU16,
    pub(crate) index: AtomicU16,
    pub(crate) ring: [AtomicU16; QUEUE_SIZE as usize],
}

/// virtio 1.2, 2.7.8.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct Used {
    pub(crate) flags: AtomicU16,
    pub(crate) index: AtomicU16,
    pub(crate) ring: [UsedElement; QUEUE_SIZE as usize],
}

/// An answered chain: its head, and how many bytes the device wrote.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct UsedElement {
    pub(crate) id: AtomicU32,
    pub(crate) len: AtomicU32,
}

/// A buffer, in words.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Buffer<const WORDS: usize>(pub(crate) [AtomicU64; WORDS]);

/// The page.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) descriptors: [Descriptor; QUEUE_SIZE as usize],
    pub(crate) available: Available,
    pub(crate) used: Used,
    pub(crate) request: Buffer<{ REQUEST_SIZE / 8 }>,
    pub(crate) reply: Buffer<{ REPLY_SIZE / 8 }>,
}

const _: () = assert!(REQUEST_SIZE.is_multiple_of(8) && REPLY_SIZE.is_multiple_of(8));
const _: () =
    assert!(size_of::<Page>() == 4096 && size_of::<Descriptor>() == 16 && size_of::<UsedElement>() == 8);
const _: () = assert!(cfg!(target_endian = "little"));

/// Owner of the page. A forked child doesn't have the page: only [`Ring::is_inherited`] may be called there.
#[derive(Debug)]
pub(crate) struct Ring {
    page: NonNull<Page>,
    origin: Origin,
}

impl Ring {
    /// A ring whose descriptors are filled in and which is present in memory.
    ///
    /// # Errors
    /// What mmap says.
    pub(crate) fn new() -> Result<Self, Errno> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE);
        // SAFETY: a null address lets the kernel choose free address space, so no memory is replaced.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), size_of::<Page>(), prot, flags) }?;
        let page = NonNull::new(page).ok_or(Errno::NOMEM)?;
        let ring = Self { page: page.cast(), origin: Origin::here() };
        // SAFETY: this is the mapping just made. `page` and `drop` look at the origin first.
        unsafe { ring.origin.keep(page, size_of::<Page>()) }?;
        // SAFETY: as above; it stays what it is. Where it isn't allowed, because the limit of such memory is
        // reached, the page is most often there all the same, as it was just written at each notification.
        let _ = unsafe { mlock(page.as_ptr(), size_of::<Page>()) };
        ring.fill_in();
        Ok(ring)
    }

    /// The page, which the device reads and writes at the same addresses.
    ///
    /// # Panics
    /// In a forked child, which doesn't have it: callers ask [`is_inherited`](Self::is_inherited) before.
    pub(crate) fn page(&self) -> &Page {
        assert!(!self.is_inherited(), "a forked child has no ring");
        // SAFETY: it's the process that made the mapping, as was just checked. The mapping is as large and aligned as `Page`, lives as long as `self`, and was filled with
        // zeros, which are a `Page`. All of a `Page` is atomics, so that writes of the device at any time are
        // allowed behind a shared reference.
        unsafe { self.page.as_ref() }
    }

    /// The addresses of descriptor table, available ring and used ring: this program's own virtual ones.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        let page = self.page();
        [address(&page.descriptors), address(&page.available), address(&page.used)]
    }

    /// Whether this process is a forked child of the one that made the ring.
    pub(crate) fn is_inherited(&self) -> bool {
        !self.origin.is_here()
    }

    /// Makes the page present and writable, if the guest's kernel took it away or is just moving it.
    pub(crate) fn touch(&self) {
        // A store as any other, of what is there already; the access itself is what is wanted.
        self.page().available.flags.store(AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
    }

    /// Makes `request` available.
    pub(crate) fn publish(&self, request: &[u8; REQUEST_SIZE]) {
        let page = self.page();
        let (words, _) = request.as_chunks::<8>();
        for (slot, word) in page.request.0.iter().zip(words) {
            slot.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        let index = page.available.index.load(Ordering::Relaxed).wrapping_add(1);
        // Release: who sees the index sees the request.
        page.available.index.store(index, Ordering::Release);
        // Before the flags are read: either the device sees the request before it stops polling, or we see
        // that it stopped (virtio 1.2, 2.7.13.4).
        fence(Ordering::SeqCst);
    }

    /// The used ring's index: how many requests were answered, modulo 2^16.
    pub(crate) fn used_index(&self) -> u16 {
        self.page().used.index.load(Ordering::Acquire)
    }

    /// Whether the device says that it polls.
    pub(crate) fn device_polls(&self) -> bool {
        self.page().used.flags.load(Ordering::Acquire) & USED_F_NO_NOTIFY != 0
    }

    /// The used ring's element number `index`: a chain's head and the bytes written.
    pub(crate) fn used_element(&self, index: u16) -> (u32, u32) {
        let element = &self.page().used.ring[usize::from(index % QUEUE_SIZE)];
        (element.id.load(Ordering::Relaxed), element.len.load(Ordering::Relaxed))
    }

    /// A copy of the reply's bytes: what is judged can't change afterwards.
    pub(crate) fn reply(&self) -> [u8; REPLY_SIZE] {
        let mut bytes = [0; REPLY_SIZE];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, slot) in words.iter_mut().zip(&self.page().reply.0) {
            *word = slot.load(Ordering::Relaxed).to_le_bytes();
        }
        bytes
    }

    /// Writes what never changes: both descriptors and the available ring, which only ever names [`HEAD`] (as
    /// zeros do).
    fn fill_in(&self) {
        let page = self.page();
        let [request, reply] = &page.descriptors;
        request.address.store(address(&page.request), Ordering::Relaxed);
        request.len.store(REQUEST_LEN, Ordering::Relaxed);
        request.flags.store(DESC_F_NEXT, Ordering::Relaxed);
        request.next.store(HEAD + 1, Ordering::Relaxed);
        reply.address.store(address(&page.reply), Ordering::Relaxed);
        reply.len.store(REPLY_LEN, Ordering::Relaxed);
        reply.flags.store(DESC_F_WRITE, Ordering::Relaxed);
        page.available.flags.store(AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.is_inherited() {
            // What is at that address in a child, if anything, isn't ours.
            return;
        }
        // SAFETY: the mapping was made by `new` and is this value's alone; references to it live no longer
        // than `self`. The device was reset before, as `Transport` drops the ring after that.
        let unmapped = unsafe { munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
        debug_assert!(unmapped.is_ok(), "a mapping that exists can be unmapped");
    }
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Ring {}
// SAFETY: all access goes through `&Page`, which is `Sync` because it is made of atomics.
unsafe impl Sync for Ring {}

fn address<T>(part: &T) -> u64 {
    std::ptr::from_ref(part).addr() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_ring_is_laid_out_for_one_chain() {
        let ring = Ring::new().expect("a page");
        let base = ring.page.addr().get() as u64;
        assert_eq!(base % 4096, 0);
        for (at, align) in ring.addresses().into_iter().zip([16, 2, 4]) {
            assert!(at.is_multiple_of(align) && (base..base + 4096).contains(&at));
        }
        let [request, reply] = &ring.page().descriptors;
        let fields = |d: &Descriptor| {
            (d.len.load(Ordering::Relaxed), d.flags.load(Ordering::Relaxed), d.next.load(Ordering::Relaxed))
        };
        assert_eq!(fields(request), (128, DESC_F_NEXT, 1));
        assert_eq!(fields(reply), (272, DESC_F_WRITE, 0));
        assert!(!ring.is_inherited() && !ring.device_polls() && ring.used_index() == 0);
    }

    #[test]
    fn published_bytes_are_in_the_request_buffer() {
        let ring = Ring::new().expect("a page");
        let mut request = [0; REQUEST_SIZE];
        request[0] = 0x5a;
        request[127] = 0xa5;
        ring.publish(&request);
        assert_eq!(ring.page().available.index.load(Ordering::Relaxed), 1);
        assert_eq!(ring.page().request.0[0].load(Ordering::Relaxed), 0x5a);
        assert_eq!(ring.page().request.0[15].load(Ordering::Relaxed), 0xa5 << 56);
    }

    #[test]
    fn a_forked_child_knows_that_the_ring_is_not_its_own() {
        let ring = Ring::new().expect("a page");
        let page = ring.page.as_ptr().cast::<libc::c_void>();
        // SAFETY: the child uses atomics and system calls only, which are safe after a fork of a process with
        // threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let inherited = ring.is_inherited();
            // SAFETY: maps a page where there is none: an address that is in use is left alone.
            let other = unsafe {
                libc::mmap(
                    page,
                    size_of::<Page>(),
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                    -1,
                    0,
                )
            };
            drop(ring);
            // SAFETY: locking a page tells whether it's mapped.
            let still_there = other == page && unsafe { libc::munlock(page, size_of::<Page>()) } == 0;
            let code = if inherited && still_there { 0 } else { 1 };
            // SAFETY: ends the child at once, running no destructors of the parent's.
            unsafe { libc::_exit(code) };
        }
        assert!(child > 0, "fork failed");
        let mut status = -1;
        // SAFETY: waits for the child just made; `status` is a valid place for the result.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        assert!(!ring.is_inherited());
    }
}
