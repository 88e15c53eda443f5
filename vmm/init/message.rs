//! What the init says: lines on the console and to the monitor, with the names of errors.

use core::ffi::CStr;

use crate::sys::{self, Errno, STANDARD};

/// Bytes of a line. What is longer, by the name of a file, is cut off.
const LONGEST: usize = 512;

/// A line that is put together.
pub struct Line {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Line {
    pub fn new() -> Self {
        Self { bytes: [0; LONGEST], len: 0 }
    }

    pub fn text(&mut self, text: &[u8]) -> &mut Self {
        // One byte is kept for the line's end.
        let keep = if text == b"\n" { 0 } else { 1 };
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.len).filter(|_| self.len + keep < LONGEST) {
                *place = byte;
                self.len += 1;
            }
        }
        self
    }

    pub fn number(&mut self, number: u32) -> &mut Self {
        let mut digits = [0; 10];
        let (mut left, mut used) = (number, 0);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
            used += 1;
            if left == 0 {
                break;
            }
        }
        self.text(digits.get(digits.len() - used..).unwrap_or_default())
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Something that didn't work.
#[derive(Clone, Copy)]
pub struct Failure {
    doing: &'static str,
    /// The file, cut off where it's longer.
    with: [u8; 128],
    with_len: usize,
    errno: Errno,
}

impl Failure {
    /// `doing` something `with` a file failed.
    pub fn new(doing: &'static str, with: &CStr, errno: Errno) -> Self {
        let mut failure = Self { doing, with: [0; 128], with_len: 0, errno };
        for (place, &byte) in failure.with.iter_mut().zip(with.to_bytes()) {
            *place = byte;
            failure.with_len += 1;
        }
        failure
    }

    /// Writes it as words.
    pub fn write_to<'a>(&self, line: &'a mut Line) -> &'a mut Line {
        line.text(self.doing.as_bytes()).text(b" ").text(self.with.get(..self.with_len).unwrap_or_default());
        line.text(b": ");
        match name(self.errno) {
            Some(name) => line.text(name.as_bytes()),
            None => line.text(b"error ").number(self.errno.0.unsigned_abs()),
        }
    }
}

/// Says a failure on the console. Nobody is left to be told if that fails too.
pub fn say(failure: &Failure) {
    let mut line = Line::new();
    failure.write_to(line.text(b"cairn-init: ")).text(b"\n");
    let _ = sys::write(STANDARD[2], line.bytes());
}

/// The name of an error that the calls of the init can have, and what it means.
fn name(errno: Errno) -> Option<&'static str> {
    Some(match errno.0 {
        1 => "EPERM (not permitted)",
        2 => "ENOENT (not there)",
        5 => "EIO (input/output error)",
        6 => "ENXIO (no such device)",
        7 => "E2BIG (the arguments are too long)",
        8 => "ENOEXEC (not of a form that this kernel takes)",
        10 => "ECHILD (no child)",
        11 => "EAGAIN (a limit of the kernel)",
        12 => "ENOMEM (no memory left)",
        13 => "EACCES (permission denied)",
        14 => "EFAULT (a bad address)",
        15 => "ENOTBLK (no block device)",
        16 => "EBUSY (in use)",
        17 => "EEXIST (already there)",
        19 => "ENODEV (this kernel has it not)",
        20 => "ENOTDIR (no directory)",
        21 => "EISDIR (a directory)",
        22 => "EINVAL (refused by this kernel)",
        24 => "EMFILE (too many open files)",
        25 => "ENOTTY (no terminal)",
        26 => "ETXTBSY (open for writing)",
        27 => "EFBIG (too big)",
        28 => "ENOSPC (no space left)",
        30 => "EROFS (read-only)",
        36 => "ENAMETOOLONG (name too long)",
        38 => "ENOSYS (this kernel hasn't the call)",
        40 => "ELOOP (too many links)",
        95 => "EOPNOTSUPP (not supported by this kernel)",
        126 => "ENOKEY (the module isn't signed)",
        129 => "EKEYREJECTED (the module's signature isn't accepted)",
        _ => return None,
    })
}
