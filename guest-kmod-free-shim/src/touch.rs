//! Memory of the program that the device may ask to touch. Unsafe: reads and writes bytes at given addresses.

use cairn_abi::{PAGE_SIZE, Span};

/// A span of the program's memory that is, or becomes, a region.
#[derive(Debug, PartialEq, Eq)]
pub struct RegionMemory(Span);

/// How pages are touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// Read a byte: the page becomes present.
    Read,
    /// Read a byte and write it back: the page becomes the program's own and writable.
    Write,
}

impl RegionMemory {
    /// Vouches for `span`.
    ///
    /// # Safety
    /// As long as this value lives; a [`Client`](crate::Client) that gets it drops it when the region is
    /// unregistered or the client itself is dropped:
    /// - `span` is memory of this program that is mapped readable and writable, and stays so; its address is
    ///   of a pointer whose provenance was exposed;
    /// - while a method of the client runs, no other thread writes it, and nobody holds a reference into it
    ///   that the program uses afterwards and that a change of the memory would make wrong. `rollback`
    ///   changes it.
    #[must_use]
    pub const unsafe fn new(span: Span) -> Self {
        Self(span)
    }

    /// The span.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.0
    }

    /// Touches every page of `span`. Returns how many, or `None` and touches nothing if `span` isn't in this
    /// memory.
    pub(crate) fn touch(&self, span: Span, how: Touch) -> Option<u64> {
        if !self.0.contains(&span) {
            return None;
        }
        // Neither sum overflows: `contains` says that the span doesn't wrap.
        let end = span.address + span.len;
        let mut touched = 0;
        let mut address = span.address;
        while address < end {
            // SAFETY: `address` is at least the span's and below its end, and the span is in this memory.
            unsafe { touch_byte(address, how) }?;
            touched += 1;
            match (address - address % PAGE_SIZE).checked_add(PAGE_SIZE) {
                Some(next) => address = next,
                None => break,
            }
        }
        Some(touched)
    }
}

/// Touches the byte at `address`. Returns `None` for what is no address on this machine.
///
/// # Safety
/// `address` is in a [`RegionMemory`].
unsafe fn touch_byte(address: u64, how: Touch) -> Option<()> {
    let byte = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).ok()?);
    // SAFETY: by this function's contract and that of `RegionMemory::new`, the address is mapped readable and no
    // other thread writes it now. Volatile: the access itself is what is wanted.
    let value = unsafe { byte.read_volatile() };
    if how == Touch::Write {
        // SAFETY: as above; it's mapped writable too, and the value stays what it was. A plain store, as an
        // atomic operation that changes nothing may be compiled to a load.
        unsafe { byte.write_volatile(value) };
    }
    Some(())
}

#[cfg(test)]
impl RegionMemory {
    /// Memory that tests only use through this.
    pub(crate) fn of_static(bytes: &'static mut [u8]) -> Self {
        let span = Span { address: bytes.as_mut_ptr().expose_provenance() as u64, len: bytes.len() as u64 };
        // SAFETY: the borrow is for good, so the memory stays mapped and writable and nobody else has access
        // to it.
        unsafe { Self::new(span) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Pages([u8; 3 * 4096]);

    fn pages() -> (Box<Pages>, RegionMemory, u64) {
        let mut pages = Box::new(Pages([7; 3 * 4096]));
        let address = pages.0.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the box lives as long as the test uses the memory, in one thread, and the bytes stay the
        // same.
        let memory = unsafe { RegionMemory::new(Span { address, len: 3 * 4096 }) };
        (pages, memory, address)
    }

    #[test]
    fn every_page_of_a_span_is_touched_once() {
        let (pages, memory, address) = pages();
        for how in [Touch::Read, Touch::Write] {
            let touch = |offset, len| memory.touch(Span { address: address + offset, len }, how);
            assert_eq!(touch(0, 3 * 4096), Some(3));
            assert_eq!(touch(4095, 2), Some(2));
            assert_eq!(touch(4096, 4096), Some(1));
            assert_eq!(touch(3 * 4096 - 1, 1), Some(1));
        }
        assert!(pages.0.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn nothing_outside_is_touched() {
        let (_pages, memory, address) = pages();
        for (at, len) in [
            (address - 1, 1),
            (address, 3 * 4096 + 1),
            (address + 3 * 4096, 1),
            (address, 0),
            (address, u64::MAX),
            (u64::MAX, 1),
            (0, 4096),
        ] {
            assert_eq!(memory.touch(Span { address: at, len }, Touch::Write), None);
        }
    }
}
