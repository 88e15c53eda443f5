//! The program's plain memory as `vm-memory`'s `GuestMemory`: what a virtqueue is read through.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::RwLockReadGuard;

use rangemap::RangeSet;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use crate::memory::program::ProgramMemory;

/// The plain memory, which can't go away while this value lives. What is written through it counts as written by the
/// VMM. Addresses are the program's virtual
/// ones; memory that isn't plain (files, read-only pages) isn't there.
#[derive(Debug)]
pub struct View<'a> {
    memory: &'a ProgramMemory,
    plain: RwLockReadGuard<'a, RangeSet<u64>>,
}

impl ProgramMemory {
    /// The plain memory, held in place.
    pub fn view(&self) -> View<'_> {
        View { memory: self, plain: self.plain() }
    }
}

impl View<'_> {
    /// A pointer to `range` if all of it is plain memory. It stays good until the range is taken from
    /// the plain spans.
    #[must_use]
    pub fn pointer(&self, range: &Range<u64>) -> Option<NonNull<u8>> {
        let inside = self.plain.get(&range.start).is_some_and(|span| range.end <= span.end);
        if inside { self.memory.window().pointer(range) } else { None }
    }

    fn range(&self, address: GuestAddress, count: usize) -> Result<Range<u64>> {
        let start = address.raw_value();
        let end = start.checked_add(count as u64).ok_or(Error::GuestAddressOverflow)?;
        let inside = self.plain.get(&start).is_some_and(|span| end <= span.end);
        if inside { Ok(start..end) } else { Err(Error::InvalidGuestAddress(address)) }
    }
}

impl GuestMemory for View<'_> {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, _access: Permissions) -> bool {
        count == 0 || self.range(address, count).is_ok()
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, ()>> {
        if count == 0 {
            return Ok(Slices(None));
        }
        let range = self.range(address, count)?;
        if matches!(access, Permissions::Write | Permissions::ReadWrite) {
            self.memory.touch(&range);
        }
        let start = self.memory.window().pointer(&range).ok_or(Error::InvalidGuestAddress(address))?;
        // SAFETY: `range` is plain memory: mapped, readable and writable, and it stays so while
        // `self.plain`, which the slice's lifetime borrows through `self`, holds the lock.
        Ok(Slices(Some(unsafe { VolatileSlice::new(start.as_ptr(), count) })))
    }
}

/// At most one slice: the window is contiguous.
struct Slices<'a>(Option<VolatileSlice<'a, ()>>);

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a, ()>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl std::iter::FusedIterator for Slices<'_> {}
impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::PAGE;
    use crate::memory::rights::Rights;
    use vm_memory::Bytes;

    #[test]
    fn only_plain_memory_is_there() {
        let memory = ProgramMemory::new().unwrap();
        let span = 0x10_0000..0x10_0000 + 4 * PAGE;
        memory.window().place_anonymous(span.clone(), Rights::DATA.host()).unwrap();
        memory.plain_mut().insert(span.start..span.start + 2 * PAGE);
        let view = memory.view();
        view.write_obj(7_u64, GuestAddress(span.start + PAGE)).unwrap();
        assert_eq!(view.read_obj::<u64>(GuestAddress(span.start + PAGE)).unwrap(), 7);
        for bad in [0, span.start - 4, span.start + 2 * PAGE - 4, span.start + 2 * PAGE, u64::MAX - 3] {
            assert!(view.read_obj::<u64>(GuestAddress(bad)).is_err(), "{bad:#x}");
        }
    }
}
