//! The memory of a program in a Linux guest as the program itself sees it, at one of its exits: what a
//! virtqueue in virtual addresses is read through.
//!
//! `vm-memory`'s `IommuMemory` is the same idea for translations that are set up beforehand; here each access
//! walks the guest kernel's tables, which may be others at the next exit.

use std::iter::FusedIterator;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{
    Address, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, Permissions, VolatileSlice,
};

use crate::memory::layout::{PAGE, to_usize};
use crate::memory::marks::FrameMarks;
use crate::memory::ram::Ram;
use crate::memory::walk::{Entry, Paging, Path, set_written};

/// A program's memory through the page tables in force. Reading needs pages that a program may read, writing
/// such that it may write; what isn't so, or isn't there now, is no memory.
///
/// Good while no vCPU runs: between the walk and the access, a kernel that runs could give the frame to
/// somebody else.
#[derive(Clone, Copy, Debug)]
pub struct CallerMemory<'a> {
    ram: &'a Ram,
    paging: Paging,
}

impl<'a> CallerMemory<'a> {
    /// The memory of the program whose addresses `paging` translates.
    #[must_use]
    pub fn new(ram: &'a Ram, paging: Paging) -> Self {
        Self { ram, paging }
    }

    /// How its addresses are translated.
    #[must_use]
    pub fn paging(&self) -> &Paging {
        &self.paging
    }

    /// Where the byte at `address` is in guest-physical memory, if a program may access it so, and by which
    /// entries.
    fn translate(&self, address: u64, access: Permissions) -> Option<(u64, Path)> {
        let found = self.paging.walk(self.ram, address, 1)?;
        let Entry::Page(page, allowed) = found.leaf else { return None };
        let permitted = allowed.user && (allowed.write || !access.has_write());
        let physical = page + address % Paging::reach(found.level);
        (permitted && self.ram.word(physical & !7).is_some()).then_some((physical, found.path))
    }

    /// The part of `address..address + count` that lies in its first page, ready for the access.
    fn slice(
        &self,
        address: u64,
        count: usize,
        access: Permissions,
    ) -> Result<VolatileSlice<'a, BS<'a, FrameMarks>>> {
        let none = Error::InvalidGuestAddress(GuestAddress(address));
        let (physical, path) = self.translate(address, access).ok_or(none)?;
        if access.has_write() {
            for table in set_written(self.ram, &path) {
                self.ram.mark(table);
            }
        }
        let count = count.min(to_usize(PAGE - address % PAGE));
        GuestMemoryBackend::get_slice(self.ram.memory(), GuestAddress(physical), count)
    }
}

impl GuestMemory for CallerMemory<'_> {
    type PhysicalMemory = GuestMemoryMmap<FrameMarks>;
    type Bitmap = FrameMarks;

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        let Some(last) = (count as u64).checked_sub(1) else { return true };
        let first = address.raw_value();
        let Some(last) = first.checked_add(last) else { return false };
        // The first byte, and that of each further page.
        let pages = (first / PAGE + 1..=last / PAGE).map(|page| page * PAGE);
        std::iter::once(first).chain(pages).all(|address| self.translate(address, access).is_some())
    }

    fn get_slices<'b>(
        &'b self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'b, BS<'b, FrameMarks>>> {
        address.checked_add(count as u64).ok_or(Error::GuestAddressOverflow)?;
        Ok(Slices { memory: self, address: address.raw_value(), left: count, access })
    }
}

/// The slices of a range, a page at a time.
struct Slices<'a> {
    memory: &'a CallerMemory<'a>,
    address: u64,
    left: usize,
    access: Permissions,
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a, BS<'a, FrameMarks>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let slice = self.memory.slice(self.address, self.left, self.access);
        match &slice {
            Ok(slice) => {
                self.address += slice.len() as u64;
                self.left -= slice.len();
            }
            // Nothing after an error.
            Err(_) => self.left = 0,
        }
        Some(slice)
    }
}

impl FusedIterator for Slices<'_> {}
impl<'a> GuestMemorySliceIterator<'a, BS<'a, FrameMarks>> for Slices<'a> {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::ram::MIN_BYTES;
    use crate::memory::walk::testing::{READ_ONLY, Tables, WRITABLE_PAGE};
    use vm_memory::Bytes;

    const BASE: u64 = 0x7f00_0000_0000;

    /// Three pages at `BASE`, in frames that don't follow each other; the third is read-only.
    fn program(ram: &Arc<Ram>) -> Paging {
        let mut tables = Tables::new(Arc::clone(ram), 0x10000);
        tables.map(BASE, 0x90_0000, WRITABLE_PAGE);
        tables.map(BASE + PAGE, 0x80_0000, WRITABLE_PAGE);
        tables.map(BASE + 2 * PAGE, 0xa0_0000, READ_ONLY);
        tables.paging()
    }

    #[test]
    fn accesses_follow_the_tables_across_pages() {
        let ram = Arc::new(Ram::new(MIN_BYTES).unwrap());
        let memory = CallerMemory::new(&ram, program(&ram));
        memory.write_slice(b"abcdefgh", GuestAddress(BASE + PAGE - 3)).unwrap();
        let mut bytes = [0; 5];
        ram.memory().read_slice(&mut bytes, GuestAddress(0x80_0000)).unwrap();
        assert_eq!(&bytes, b"defgh");
        let mut back = [0; 8];
        memory.read_slice(&mut back, GuestAddress(BASE + PAGE - 3)).unwrap();
        assert_eq!(&back, b"abcdefgh");
        // What was written is marked, and so is the table whose entry is dirty now.
        assert_eq!(ram.marks(0x80_0000) & 1, 1);
        assert_ne!(ram.marks(0), 0);
    }

    #[test]
    fn what_the_program_may_not_do_is_no_memory() {
        let ram = Arc::new(Ram::new(MIN_BYTES).unwrap());
        let memory = CallerMemory::new(&ram, program(&ram));
        assert!(memory.read_obj::<u8>(GuestAddress(BASE + 2 * PAGE)).is_ok());
        assert!(memory.write_obj(1_u8, GuestAddress(BASE + 2 * PAGE)).is_err());
        assert!(memory.check_range(GuestAddress(BASE), 3 * 4096, Permissions::Read));
        assert!(!memory.check_range(GuestAddress(BASE), 3 * 4096, Permissions::Write));
        assert!(!memory.check_range(GuestAddress(BASE), 3 * 4096 + 1, Permissions::Read));
        for address in [0, BASE + 3 * PAGE, 0xffff_8880_0000_0000, u64::MAX] {
            assert!(memory.read_obj::<u8>(GuestAddress(address)).is_err(), "{address:#x}");
            assert!(!memory.check_range(GuestAddress(address), 2, Permissions::Read), "{address:#x}");
        }
    }
}
