//! Userfaultfd in asynchronous write-protect mode: the kernel lifts the protection at the write.
//!
//! Kernel documentation: `admin-guide/mm/userfaultfd.rst`, "Write Protect Notifications"; there since
//! Linux 6.7.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use linux_raw_sys::general::{
    UFFD_API, UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_UNPOPULATED,
    UFFDIO_REGISTER_MODE_WP, uffdio_api, uffdio_range, uffdio_register,
};
use linux_raw_sys::ioctl::{UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER};
use rustix::mm::{self, UserfaultfdFlags};

/// `UFFD_USER_MODE_ONLY`: needs no privilege. Writes by the kernel are tracked all the same, because
/// asynchronous protection raises no event that could be refused.
const USER_MODE_ONLY: u32 = 1;

/// A userfaultfd whose registered spans can be write-protected by [`super::pagemap`].
#[derive(Debug)]
pub(crate) struct AsyncProtection {
    fd: OwnedFd,
}

impl AsyncProtection {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
        // SAFETY: the descriptor acts on no memory before a span is registered, and then only in the
        // mode above, which changes no content.
        let fd = unsafe { mm::userfaultfd(flags) }?;
        let features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
        let mut api = uffdio_api { api: u64::from(UFFD_API), features: u64::from(features), ioctls: 0 };
        let protection = Self { fd };
        protection.call(UFFDIO_API, &mut api)?;
        Ok(protection)
    }

    /// Makes whole pages of this process's private anonymous memory protectable.
    pub(crate) fn register(&self, span: &Range<usize>) -> io::Result<()> {
        let mode = u64::from(UFFDIO_REGISTER_MODE_WP);
        self.call(UFFDIO_REGISTER, &mut uffdio_register { range: range(span), mode, ioctls: 0 })
    }

    /// Lifts every protection in a registered span and ends its registration.
    pub(crate) fn unregister(&self, span: &Range<usize>) -> io::Result<()> {
        self.call(UFFDIO_UNREGISTER, &mut range(span))
    }

    fn call<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: each caller in this file pairs the request with its structure, which the kernel
        // reads and fills in and does not keep. None of the three changes what memory holds.
        let result = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::c_ulong::from(request), std::ptr::from_mut(argument))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn range(span: &Range<usize>) -> uffdio_range {
    uffdio_range { start: span.start as u64, len: span.len() as u64 }
}
