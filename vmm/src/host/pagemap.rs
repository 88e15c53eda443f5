//! Which pages of the VMM's own memory exist, and the way to bytes that it has no right to read.
//!
//! Kernel documentation: `admin-guide/mm/pagemap.rst`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::host::PAGE;

/// Bytes of a page's entry.
const ENTRY: usize = 8;
/// Bits of an entry: swapped out, and present.
const EXISTS: u64 = 0b11 << 62;

/// This process's page map and memory, as files.
#[derive(Debug)]
pub struct Pagemap {
    entries: File,
    memory: File,
}

impl Pagemap {
    /// Opens them; they stay good for a thread that may open nothing.
    ///
    /// # Errors
    /// Without /proc.
    pub fn open() -> io::Result<Self> {
        Ok(Self { entries: File::open("/proc/self/pagemap")?, memory: File::open("/proc/self/mem")? })
    }

    /// Of the pages from `address` on, those that exist: memory of their own, or a file's page that was touched.
    ///
    /// # Errors
    /// What reading says.
    pub fn existing(&self, address: usize, exists: &mut [bool]) -> io::Result<()> {
        let mut bytes = [0; ENTRY * 512];
        let mut first = address / PAGE;
        for part in exists.chunks_mut(512) {
            let read = &mut bytes[..part.len() * ENTRY];
            self.entries.read_exact_at(read, (first * ENTRY) as u64)?;
            for (exists, entry) in part.iter_mut().zip(read.chunks_exact(ENTRY)) {
                let entry = entry.try_into().map_or(0, u64::from_le_bytes);
                *exists = entry & EXISTS != 0;
            }
            first += part.len();
        }
        Ok(())
    }

    /// Reads memory whatever the rights on it.
    ///
    /// # Errors
    /// EIO where there is none.
    pub fn read(&self, address: usize, into: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(into, address as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mapping::Reservation;
    use nix::sys::mman::ProtFlags;
    use std::sync::atomic::Ordering;

    #[test]
    fn pages_exist_once_they_were_written_and_can_be_read_without_rights() {
        let memory = Reservation::anonymous(1024 * PAGE, PAGE).unwrap();
        memory.word(3 * 4096).store(7, Ordering::Relaxed);
        memory.word(700 * 4096).store(8, Ordering::Relaxed);
        let pages = Pagemap::open().unwrap();
        let mut exists = [false; 1024];
        pages.existing(memory.address(0), &mut exists).unwrap();
        let existing: Vec<usize> = (0..1024).filter(|page| exists[*page]).collect();
        assert_eq!(existing, [3, 700]);
        memory.protect(&(3 * 4096..4 * 4096), ProtFlags::PROT_NONE).unwrap();
        let mut bytes = [0; 8];
        pages.read(memory.address(3 * 4096), &mut bytes).unwrap();
        assert_eq!(bytes, 7_u64.to_le_bytes());
    }
}
