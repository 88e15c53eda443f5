//! Copies between the VMM's own memory and memory that may not be there.
//!
//! process_vm_readv and process_vm_writev on the own process answer EFAULT where a plain access would
//! kill the VMM: a page without rights, a hole, a file that was cut short under its mapping.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

use nix::errno::Errno;
use nix::sys::uio::{self, RemoteIoVec};
use nix::unistd::Pid;

use crate::host::mapping::Reservation;

/// Most spans of one copy (Linux: UIO_MAXIOV).
pub const MAX_SPANS: usize = 1024;

impl Reservation {
    /// Fills `into` from `offset` on; answers how many bytes were there (fewer at the first bad page).
    ///
    /// # Errors
    /// EFAULT when not even the first byte can be read, or the span isn't inside.
    pub fn copy_out(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let Some(remote) = self.remote(offset, into.len())? else { return Ok(0) };
        uio::process_vm_readv(Pid::this(), &mut [IoSliceMut::new(into)], &[remote])
    }

    /// Fills `into`, spans of the VMM's own memory, with the spans `from` one after the other; answers how many bytes
    /// were there (fewer at the first bad page). At most [`MAX_SPANS`] of each.
    ///
    /// # Errors
    /// EFAULT when not even the first byte can be read, or a span isn't inside.
    pub fn gather(&self, from: &[Range<u64>], into: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        let mut remote = Vec::with_capacity(from.len());
        for span in from {
            let start = self.pointer(span).ok_or(Errno::EFAULT)?;
            let len = usize::try_from(span.end - span.start).map_err(|_| Errno::EFAULT)?;
            remote.push(RemoteIoVec { base: start.as_ptr().addr(), len });
        }
        uio::process_vm_readv(Pid::this(), into, &remote)
    }

    /// Writes `from` to `offset` on; answers how many bytes could be written.
    ///
    /// # Errors
    /// EFAULT when not even the first byte can be written, or the span isn't inside.
    pub fn copy_in(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let Some(remote) = self.remote(offset, from.len())? else { return Ok(0) };
        uio::process_vm_writev(Pid::this(), &[IoSlice::new(from)], &[remote])
    }

    fn remote(&self, offset: u64, len: usize) -> Result<Option<RemoteIoVec>, Errno> {
        if len == 0 {
            return Ok(None);
        }
        let end = offset.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        let start = self.pointer(&(offset..end)).ok_or(Errno::EFAULT)?;
        Ok(Some(RemoteIoVec { base: start.as_ptr().addr(), len }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::mman::ProtFlags;

    #[test]
    fn a_hole_is_an_error_and_not_a_crash() {
        let memory = Reservation::new(0x3000, 0x1000).unwrap();
        memory.place_anonymous(0..0x1000, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).unwrap();
        let mut bytes = [1; 16];
        assert_eq!(memory.copy_in(0xff8, &bytes), Ok(8));
        assert_eq!(memory.copy_out(0xff8, &mut bytes), Ok(8));
        assert_eq!(memory.copy_out(0x1000, &mut bytes), Err(Errno::EFAULT));
        assert_eq!(memory.copy_in(0x2ff8, &bytes), Err(Errno::EFAULT));
        assert_eq!(memory.copy_in(u64::MAX, &bytes), Err(Errno::EFAULT));
    }
}
