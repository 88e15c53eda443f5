//! Reading a host directory in the kernel's own record format.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Fills `buffer` with `linux_dirent64` records (getdents64(2)) and returns how many bytes are valid.
///
/// Zero means the end of the directory. The records are the kernel's, whole ones only.
///
/// # Errors
/// The kernel's: `ENOTDIR` when `directory` is none, `EINVAL` when `buffer` can't hold one record,
/// `ENOENT` when the directory was removed.
pub fn read_entries(directory: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes at `buffer.as_mut_ptr()`. The exclusive
    // borrow makes that memory ours for the length of the call, and bytes have no invalid values. The
    // descriptor is borrowed, thus open.
    let count = unsafe {
        libc::syscall(libc::SYS_getdents64, directory.as_fd().as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    let count = Errno::result(count)?;
    usize::try_from(count).map_err(|_| Errno::EIO)
}
