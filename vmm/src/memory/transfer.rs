//! Reading and writing files straight into and out of the program's memory.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::memory::program::HostBuffer;

/// Most spans of one call (Linux: UIO_MAXIOV).
pub const MAX_SPANS: usize = 1024;

/// Reads from a file into the program's memory, at `offset` or, without one, where the file stands.
///
/// # Errors
/// The kernel's: EFAULT when nothing could be stored, EBADF when the file isn't open for reading.
pub fn read(file: BorrowedFd<'_>, into: &[HostBuffer], offset: Option<i64>) -> Result<usize, Errno> {
    let spans = spans(into)?;
    let count = i32::try_from(spans.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel stores only within the spans, which were checked to lie in the program's window
    // when the `HostBuffer`s were made. That memory is the program's: no Rust reference points there, and
    // raw readers of it expect stores at any time. Pages that aren't there make the call fail.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), spans.as_ptr(), count, position(offset), 0) };
    count_of(read)
}

/// Writes the program's memory to a file, at `offset` or, without one, where the file stands.
///
/// # Errors
/// The kernel's: EFAULT when nothing could be read, EBADF when the file isn't open for writing.
pub fn write(file: BorrowedFd<'_>, from: &[HostBuffer], offset: Option<i64>) -> Result<usize, Errno> {
    let spans = spans(from)?;
    let count = i32::try_from(spans.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel only reads the spans; as in `read`, they lie in the program's window.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), spans.as_ptr(), count, position(offset), 0) };
    count_of(written)
}

fn spans(buffers: &[HostBuffer]) -> Result<Vec<libc::iovec>, Errno> {
    if buffers.len() > MAX_SPANS {
        return Err(Errno::EINVAL);
    }
    Ok(buffers
        .iter()
        .map(|buffer| libc::iovec { iov_base: buffer.as_ptr(), iov_len: buffer.len() })
        .collect())
}

/// preadv2 takes -1 for the file's own position.
fn position(offset: Option<i64>) -> i64 {
    offset.unwrap_or(-1)
}

fn count_of(result: isize) -> Result<usize, Errno> {
    usize::try_from(Errno::result(result)?).map_err(|_| Errno::EIO)
}
