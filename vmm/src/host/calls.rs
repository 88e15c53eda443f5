//! System calls on files that nix lacks, or has only for types that own their descriptor.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Bytes of the kernel's own `struct termios` (asm-generic/termbits.h), which is not the C library's.
pub const TERMIOS_BYTES: usize = 36;

/// When new terminal attributes take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTerminal {
    /// At once.
    Now,
    /// After all output.
    AfterOutput,
    /// After all output, and input that wasn't read is dropped.
    AfterOutputFlushInput,
}

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

/// flock(2) with an operation of that call's.
///
/// # Errors
/// The kernel's: `EWOULDBLOCK` when somebody else has the lock and the operation doesn't wait.
pub fn lock(file: impl AsFd, operation: i32) -> Result<(), Errno> {
    // SAFETY: the call takes two integers and touches no memory; the descriptor is borrowed, thus open.
    let result = unsafe { libc::flock(file.as_fd().as_raw_fd(), operation) };
    Errno::result(result).map(drop)
}

/// The attributes of a terminal (`TCGETS`).
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn terminal(file: impl AsFd) -> Result<[u8; TERMIOS_BYTES], Errno> {
    let mut termios = [0; TERMIOS_BYTES];
    // SAFETY: TCGETS writes one kernel `struct termios`, which has 36 bytes on x86-64, to the pointer; the
    // array has as many and is borrowed exclusively.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TCGETS, termios.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(termios)
}

/// Sets the attributes of a terminal (`TCSETS`, `TCSETSW`, `TCSETSF`).
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn set_terminal(file: impl AsFd, when: SetTerminal, termios: &[u8; TERMIOS_BYTES]) -> Result<(), Errno> {
    let request = match when {
        SetTerminal::Now => libc::TCSETS,
        SetTerminal::AfterOutput => libc::TCSETSW,
        SetTerminal::AfterOutputFlushInput => libc::TCSETSF,
    };
    // SAFETY: these requests only read one kernel `struct termios` of 36 bytes from the pointer; the array
    // has as many, and any bytes are valid.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, termios.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Rows, columns, and two fields that nobody uses (`TIOCGWINSZ`).
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn window_size(file: impl AsFd) -> Result<[u16; 4], Errno> {
    let mut size = [0_u16; 4];
    // SAFETY: TIOCGWINSZ writes one `struct winsize`, four 16-bit numbers, to the pointer; the array has
    // that size and alignment and is borrowed exclusively.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(size)
}

/// Bytes that can be read at once (`FIONREAD`).
///
/// # Errors
/// `ENOTTY` for what has no such count.
pub fn readable(file: impl AsFd) -> Result<i32, Errno> {
    let mut count = 0_i32;
    // SAFETY: FIONREAD writes one int to the pointer, which is borrowed exclusively from an i32.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(result)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_listing_ends_and_small_buffers_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "").unwrap();
        let file = std::fs::File::open(directory.path()).unwrap();
        let mut buffer = [0; 4096];
        assert_eq!(read_entries(&file, &mut buffer[..8]), Err(Errno::EINVAL));
        assert!(read_entries(&file, &mut buffer).unwrap() > 0);
        assert_eq!(read_entries(&file, &mut buffer), Ok(0));
    }

    #[test]
    fn what_is_no_terminal_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(terminal(&file), Err(Errno::ENOTTY));
        assert_eq!(set_terminal(&file, SetTerminal::Now, &[0; TERMIOS_BYTES]), Err(Errno::ENOTTY));
        assert_eq!(window_size(&file), Err(Errno::ENOTTY));
    }

    #[test]
    fn pipes_count_what_can_be_read() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"abc").unwrap();
        assert_eq!(readable(&reader), Ok(3));
    }
}
