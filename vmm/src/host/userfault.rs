//! Userfaultfd: whoever writes a protected page waits until somebody lets go of it, and whoever touches a page that
//! isn't there until somebody brings it.
//!
//! Kernel documentation: `admin-guide/mm/userfaultfd.rst`. Protection of pages without memory, which costs nothing
//! to ask for, is there since Linux 6.4.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use linux_raw_sys::general::{
    UFFD_API, UFFD_EVENT_PAGEFAULT, UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_WP_UNPOPULATED,
    UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP, USERFAULTFD_IOC, uffd_msg, uffdio_api,
    uffdio_copy, uffdio_range, uffdio_register, uffdio_writeprotect, uffdio_zeropage,
};
use linux_raw_sys::ioctl::{
    UFFDIO_API, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT,
    UFFDIO_ZEROPAGE,
};

use crate::host::PAGE;

/// Who may open it may have writes by the kernel itself wait, which the system call wants privilege for.
const DEVICE: &str = "/dev/userfaultfd";

/// `USERFAULTFD_IOC_NEW`, `_IO(0xaa, 0)`, of linux/userfaultfd.h, which the binding lacks; the next one too.
const IOC_NEW: u32 = USERFAULTFD_IOC << 8;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const MODE_WP: u64 = 1;

/// A userfaultfd. What is protected when it is dropped is writable again, and nobody waits any more.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
}

impl Userfault {
    /// Opens one that also stops writes by the kernel: KVM's for a guest, and those of system calls.
    ///
    /// # Errors
    /// EPERM without the privilege (CAP_SYS_PTRACE, `vm.unprivileged_userfaultfd` or rights on
    /// `/dev/userfaultfd`), EINVAL before Linux 6.4.
    pub fn open() -> io::Result<Self> {
        Self::open_with(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED)
    }

    /// Opens one for pages that aren't there; also who touches them in the kernel waits.
    ///
    /// # Errors
    /// EPERM without the privilege, as for [`open`](Self::open).
    pub fn open_for_missing() -> io::Result<Self> {
        Self::open_with(0)
    }

    fn open_with(features: u32) -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the call takes an integer and makes a descriptor; no memory is touched before a span is registered.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = match own(fd) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|_| error)?;
                // SAFETY: as above; the flags are the argument itself, not a pointer.
                own(i64::from(unsafe {
                    libc::ioctl(device.as_raw_fd(), libc::c_ulong::from(IOC_NEW), flags)
                }))?
            }
            other => other?,
        };
        let mut api = uffdio_api { api: u64::from(UFFD_API), features: u64::from(features), ioctls: 0 };
        let opened = Self { fd };
        opened.call(UFFDIO_API, &mut api)?;
        Ok(opened)
    }

    /// Makes whole pages of this process's private anonymous memory protectable.
    ///
    /// # Errors
    /// What the kernel says: EBUSY when another userfaultfd has a part of it.
    pub fn register(&self, span: &Range<usize>) -> io::Result<()> {
        self.register_for(span, UFFDIO_REGISTER_MODE_WP)
    }

    /// From now on, who touches a page of `span` that isn't there waits for it: whole pages of this process's private
    /// anonymous memory.
    ///
    /// # Errors
    /// What the kernel says: EBUSY when another userfaultfd has a part of it.
    pub fn register_missing(&self, span: &Range<usize>) -> io::Result<()> {
        self.register_for(span, UFFDIO_REGISTER_MODE_MISSING)
    }

    fn register_for(&self, span: &Range<usize>, mode: u32) -> io::Result<()> {
        let mode = u64::from(mode);
        self.call(UFFDIO_REGISTER, &mut uffdio_register { range: range(span), mode, ioctls: 0 })
    }

    /// Brings whole pages to `address` and behind; who waits for one goes on. One that is there stays, as does memory
    /// that was mapped anew and isn't registered.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bring(&self, address: usize, pages: &[u8]) -> io::Result<()> {
        let (mut at, mut most) = (0, pages.len());
        while at < pages.len() {
            let part = &pages[at..pages.len().min(at + most)];
            let (dst, src) = ((address + at) as u64, part.as_ptr().expose_provenance() as u64);
            let mut copy = uffdio_copy { dst, src, len: part.len() as u64, mode: 0, copy: 0 };
            let Err(error) = self.call(UFFDIO_COPY, &mut copy) else {
                at += part.len();
                continue;
            };
            match error.raw_os_error() {
                // Some of them are there now, or none, as the kernel changes the address space.
                Some(libc::EAGAIN) => at += usize::try_from(copy.copy).unwrap_or(0),
                Some(libc::EEXIST) => at += PAGE,
                Some(libc::ENOENT) if part.len() == PAGE => at += PAGE,
                // They aren't of one mapping.
                Some(libc::ENOENT) => most = PAGE,
                _ => return Err(error),
            }
        }
        Ok(())
    }

    /// As [`bring`](Self::bring), a page of zeros.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bring_zeros(&self, address: usize) -> io::Result<()> {
        let range = range(&(address..address + PAGE));
        loop {
            match self.call(UFFDIO_ZEROPAGE, &mut uffdio_zeropage { range, mode: 0, zeropage: 0 }) {
                // The kernel changes the address space just now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if [Some(libc::EEXIST), Some(libc::ENOENT)].contains(&error.raw_os_error()) => {
                    return Ok(());
                }
                result => return result,
            }
        }
    }

    /// Ends [`register`](Self::register), and every protection and waiting in the span.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unregister(&self, span: &Range<usize>) -> io::Result<()> {
        self.call(UFFDIO_UNREGISTER, &mut range(span))
    }

    /// From now on, who writes a page of `span` waits.
    ///
    /// # Errors
    /// What the kernel says: ENOENT when `span` isn't registered, ENOMEM. A part of it may be protected.
    pub fn protect(&self, span: &Range<usize>) -> io::Result<()> {
        self.write_protect(span, MODE_WP)
    }

    /// Ends the protection of `span`; who waits for it goes on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unprotect(&self, span: &Range<usize>) -> io::Result<()> {
        self.write_protect(span, 0)
    }

    /// Has everybody who waits in `span` look again: who must wait still does, and is told of once more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wake(&self, span: &Range<usize>) -> io::Result<()> {
        self.call(UFFDIO_WAKE, &mut range(span))
    }

    /// The address that somebody waits to write or to have, if anybody does. Each is told once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn next_waiting(&self) -> io::Result<Option<u64>> {
        loop {
            let mut message = std::mem::MaybeUninit::<uffd_msg>::zeroed();
            let size = size_of::<uffd_msg>();
            // SAFETY: the kernel writes at most one message to the buffer, which has that size.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), message.as_mut_ptr().cast(), size) };
            if read < 0 {
                return match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => Err(error),
                };
            }
            // SAFETY: all zeros, or what the kernel wrote, is a message: it is made of integers.
            let message = unsafe { message.assume_init() };
            if u32::from(message.event) == UFFD_EVENT_PAGEFAULT {
                // SAFETY: this event's part of the union is the page fault's, and it is made of integers.
                return Ok(Some(unsafe { message.arg.pagefault.address }));
            }
        }
    }

    fn write_protect(&self, span: &Range<usize>, mode: u64) -> io::Result<()> {
        loop {
            match self.call(UFFDIO_WRITEPROTECT, &mut uffdio_writeprotect { range: range(span), mode }) {
                // The kernel changes the address space just now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    fn call<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: each caller in this file pairs the request with its structure, which the kernel reads and fills
        // in and does not keep. Only COPY and ZEROPAGE change what memory holds, and only that of pages that nobody
        // has seen yet: a page that is there stays as it is. COPY reads pages that its caller has borrowed.
        let result = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::c_ulong::from(request), std::ptr::from_mut(argument))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The descriptor that a system call made.
fn own(result: i64) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just made it, for this caller.
        Ok(fd) if 0 <= fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn range(span: &Range<usize>) -> uffdio_range {
    uffdio_range { start: span.start as u64, len: span.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mapping::Reservation;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use cairn_test_host::{holds_writers, serves_missing_pages, skipped};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn whoever_touches_a_missing_page_waits_for_it() {
        if !serves_missing_pages() {
            skipped("no userfaultfd for faults of the kernel");
            return;
        }
        let userfault = Userfault::open_for_missing().unwrap();
        let memory = Reservation::anonymous(8 << 12, 1 << 12).unwrap();
        let at = |page: u64| memory.address(page << 12);
        userfault.register_missing(&(at(0)..at(4))).unwrap();
        userfault.bring(at(0), &[5; PAGE]).unwrap();
        std::thread::scope(|scope| {
            let by_cpu = scope.spawn(|| memory.word(1 << 12).load(Ordering::Relaxed));
            let by_kernel = scope.spawn(|| {
                let mut bytes = [1; 8];
                memory.copy_out(2 << 12, &mut bytes).unwrap();
                bytes
            });
            let mut told = Vec::new();
            while told.len() < 2 {
                let fd = PollFd::new(userfault.as_fd(), PollFlags::POLLIN);
                poll(&mut [fd], PollTimeout::NONE).unwrap();
                told.extend(userfault.next_waiting().unwrap());
            }
            userfault.bring(at(1), &[7; PAGE]).unwrap();
            userfault.bring_zeros(at(2)).unwrap();
            assert_eq!(by_cpu.join().unwrap(), 0x0707_0707_0707_0707);
            assert_eq!(by_kernel.join().unwrap(), [0; 8]);
        });
        // What is there stays, and what isn't registered is nobody's business: page 3 alone is still to come.
        userfault.bring(at(0), &[6; 8 * PAGE]).unwrap();
        assert_eq!([0, 3, 6].map(|page| memory.word(page << 12).load(Ordering::Relaxed) & 0xff), [5, 6, 0]);
        drop(userfault);
        assert_eq!(memory.word(7 << 12).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_writer_waits_until_it_is_let_go() {
        if !holds_writers() {
            skipped("no userfaultfd for writes of the kernel");
            return;
        }
        let userfault = Userfault::open().unwrap();
        let memory = Reservation::anonymous(16 << 12, 1 << 12).unwrap();
        let span = |pages: Range<u64>| memory.address(pages.start << 12)..memory.address(pages.end << 12);
        userfault.register(&span(0..16)).unwrap();
        userfault.protect(&span(2..4)).unwrap();
        memory.word(0).store(1, Ordering::Relaxed);
        assert_eq!(userfault.next_waiting().unwrap(), None);
        std::thread::scope(|scope| {
            let by_cpu = scope.spawn(|| memory.word(3 << 12).store(7, Ordering::Relaxed));
            let by_kernel = scope.spawn(|| memory.copy_in((2 << 12) + 8, &[9; 8]).unwrap());
            let mut told = Vec::new();
            while told.len() < 2 {
                let fd = PollFd::new(userfault.as_fd(), PollFlags::POLLIN);
                poll(&mut [fd], PollTimeout::NONE).unwrap();
                told.extend(userfault.next_waiting().unwrap().map(|address| address >> 12));
            }
            told.sort_unstable();
            assert_eq!(told, [2, 3].map(|page| (span(page..page + 1).start as u64) >> 12));
            let word = |offset| memory.word(offset).load(Ordering::Relaxed);
            assert_eq!([word((2 << 12) + 8), word(3 << 12)], [0, 0]);
            userfault.unprotect(&span(2..4)).unwrap();
            by_cpu.join().unwrap();
            assert_eq!(by_kernel.join().unwrap(), 8);
            assert_eq!(word(3 << 12), 7);
        });
        userfault.protect(&span(0..16)).unwrap();
        userfault.unregister(&span(0..16)).unwrap();
        memory.word(0).store(2, Ordering::Relaxed);
        assert!(userfault.protect(&span(0..1)).is_err());
    }
}
