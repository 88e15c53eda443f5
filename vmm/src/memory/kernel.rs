//! System calls of the host on the program's memory. The host's kernel checks the memory itself and
//! answers EFAULT where there is none.

use nix::errno::Errno;

use crate::memory::program::HostBuffer;

/// Fills `buffer` with random bytes; answers how many. `flags` are getrandom's.
///
/// # Errors
/// What getrandom says.
pub fn getrandom(buffer: HostBuffer, flags: u32) -> Result<u64, Errno> {
    // SAFETY: `HostBuffer` is memory of the guest's window, to which Rust has no references.
    result(unsafe { libc::getrandom(buffer.as_ptr(), buffer.len(), flags) } as i64)
}

/// A system call's return value as Rust's result.
pub(crate) fn result(returned: i64) -> Result<u64, Errno> {
    u64::try_from(returned).map_err(|_| Errno::last())
}
