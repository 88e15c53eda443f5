//! Memory of the program that the device may ask something about. Unsafe: reads and writes bytes at given
//! addresses, and makes system calls about them.

use std::ffi::c_void;
use std::sync::OnceLock;

use cairn_abi::{PAGE_SIZE, Span};
use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use crate::PAGE;

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

/// A span that was checked to be in a [`RegionMemory`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    span: Span,
    _of: &'a RegionMemory,
}

/// Pages that one call of mincore answers about: as many as the kernel looks at before it takes its locks
/// again anyway.
const SETTLED_AT_ONCE: usize = 4096;

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

    /// The part of it that `span` is; `None` if `span` isn't in this memory, or empty.
    pub(crate) fn part(&self, span: Span) -> Option<Part<'_>> {
        self.0.contains(&span).then_some(Part { span, _of: self })
    }
}

impl Part<'_> {
    /// How many pages it's on.
    pub(crate) fn pages(self) -> u64 {
        self.last_page() - self.first_page() + 1
    }

    /// Makes every page present, and writable if it's to be written.
    ///
    /// # Errors
    /// What the kernel says to a page that can't be: EFAULT or EINVAL if the program may not access it, ENOMEM
    /// if it isn't mapped or there is no memory. (A kernel before 5.14 is not asked, and ends the program.)
    pub(crate) fn touch(self, how: Touch) -> Result<(), Errno> {
        if !kernel_populates() {
            self.touch_bytes(how);
            return Ok(());
        }
        let advice = match how {
            Touch::Read => Advice::LinuxPopulateRead,
            Touch::Write => Advice::LinuxPopulateWrite,
        };
        let (start, len) = self.whole_pages();
        // SAFETY: by the contract of `RegionMemory::new` the pages are the program's, mapped, and no other
        // thread is writing them. The kernel does to them what touching does, and changes no byte.
        unsafe { madvise(start, len, advice) }
    }

    /// Makes a system call about all pages that takes the kernel's locks of the memory map and of the page
    /// tables: what it was doing with a page is done when it returns. What it answers doesn't matter.
    pub(crate) fn settle(self) {
        let mut answers = [0_u8; SETTLED_AT_ONCE];
        let (start, len) = self.whole_pages();
        let at_once = SETTLED_AT_ONCE * PAGE;
        for done in (0..len).step_by(at_once) {
            // SAFETY: mincore reads no memory of the program. It writes a byte for each page to `answers`,
            // which has as many as there are pages in `at_once` bytes.
            unsafe {
                libc::mincore(start.wrapping_byte_add(done), at_once.min(len - done), answers.as_mut_ptr());
            }
        }
    }

    fn touch_bytes(self, how: Touch) {
        // Only the first page may begin before the span.
        for page in self.first_page()..=self.last_page() {
            let address = (page * PAGE_SIZE).max(self.span.address);
            // SAFETY: the address is at least the span's and below its end, and the span is in the memory.
            unsafe { touch_byte(address, how) };
        }
    }

    fn first_page(self) -> u64 {
        self.span.address / PAGE_SIZE
    }

    fn last_page(self) -> u64 {
        // `contains` says that the span has a byte and doesn't wrap.
        (self.span.address + (self.span.len - 1)) / PAGE_SIZE
    }

    /// Where its first page begins, and the bytes of all its pages.
    fn whole_pages(self) -> (*mut c_void, usize) {
        let bytes = |pages: u64| usize::try_from(pages * PAGE_SIZE).unwrap_or(usize::MAX);
        let start = std::ptr::with_exposed_provenance_mut(bytes(self.first_page()));
        (start, bytes(self.pages()))
    }
}

/// Whether the kernel has `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE` (Linux 5.14). Tried on a page that
/// can be read, as it says EINVAL of pages that can't be, too.
fn kernel_populates() -> bool {
    #[repr(align(4096))]
    struct Readable([u8; PAGE]);
    static READABLE: Readable = Readable([0; PAGE]);
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let page = READABLE.0.as_ptr().cast_mut().cast();
        // SAFETY: the page is a static's, all of it, and is only made present.
        unsafe { madvise(page, PAGE, Advice::LinuxPopulateRead) }.is_ok()
    })
}

/// Touches the byte at `address`.
///
/// # Safety
/// `address` is in a [`RegionMemory`].
unsafe fn touch_byte(address: u64, how: Touch) {
    let byte = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(usize::MAX));
    // SAFETY: by this function's contract and that of `RegionMemory::new`, the address is mapped readable and no
    // other thread writes it now. Volatile: the access itself is what is wanted.
    let value = unsafe { byte.read_volatile() };
    if how == Touch::Write {
        // SAFETY: as above; it's mapped writable too, and the value stays what it was. A plain store, as an
        // atomic operation that changes nothing may be compiled to a load.
        unsafe { byte.write_volatile(value) };
    }
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
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::*;

    /// Fresh pages, unmapped on drop.
    struct Pages {
        start: *mut c_void,
        memory: RegionMemory,
    }

    const COUNT: usize = 16;

    impl Pages {
        fn new() -> Self {
            let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            // SAFETY: a mapping of its own that replaces nothing.
            let start = unsafe { mmap_anonymous(std::ptr::null_mut(), COUNT * PAGE, prot, flags) };
            let start = start.expect("some pages");
            let span = Span { address: start.expose_provenance() as u64, len: (COUNT * PAGE) as u64 };
            // SAFETY: the pages are mapped as long as the value lives, and only used through it.
            Self { start, memory: unsafe { RegionMemory::new(span) } }
        }

        fn part(&self, offset: u64, len: u64) -> Part<'_> {
            let span = Span { address: self.memory.span().address + offset, len };
            self.memory.part(span).expect("inside")
        }

        /// Which pages are present.
        fn present(&self) -> Vec<usize> {
            let mut answers = [0; COUNT];
            // SAFETY: `answers` has a byte for each page.
            let answer = unsafe { libc::mincore(self.start, COUNT * PAGE, answers.as_mut_ptr()) };
            assert_eq!(answer, 0);
            (0..COUNT).filter(|&page| answers[page] & 1 != 0).collect()
        }

        fn protect(&self, page: usize, flags: MprotectFlags) {
            // SAFETY: a page of this mapping, which nobody accesses meanwhile.
            unsafe { mprotect(self.start.wrapping_byte_add(page * PAGE), PAGE, flags) }
                .expect("other rights");
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping that `new` made.
            unsafe { munmap(self.start, COUNT * PAGE) }.expect("it's there");
        }
    }

    #[test]
    fn every_page_of_a_span_is_touched_and_no_other() {
        for (offset, len, count) in
            [(0, 3 * PAGE_SIZE, 3), (4095, 2, 2), (4096, 4096, 1), (2 * 4096 + 5, 2 * 4096, 3)]
        {
            for how in [Touch::Read, Touch::Write] {
                for bytewise in [false, true] {
                    let pages = Pages::new();
                    let part = pages.part(offset, len);
                    assert_eq!(part.pages(), count);
                    if bytewise {
                        part.touch_bytes(how);
                    } else {
                        part.touch(how).expect("ordinary memory");
                    }
                    let first = usize::try_from(offset / PAGE_SIZE).expect("small");
                    let touched: Vec<usize> =
                        (first..).take(usize::try_from(count).expect("small")).collect();
                    assert_eq!(pages.present(), touched, "{offset} {len} {how:?} {bytewise}");
                }
            }
        }
    }

    #[test]
    fn touching_changes_no_byte() {
        #[repr(align(4096))]
        struct Bytes([u8; 3 * PAGE]);
        let mut bytes = Box::new(Bytes([7; 3 * PAGE]));
        let address = bytes.0.as_mut_ptr().expose_provenance() as u64;
        let span = Span { address, len: 3 * PAGE_SIZE };
        // SAFETY: the box lives as long as the test uses the memory, in one thread, and the bytes stay the
        // same.
        let memory = unsafe { RegionMemory::new(span) };
        let part = memory.part(span).expect("all of it");
        part.touch_bytes(Touch::Write);
        part.touch(Touch::Write).expect("ordinary memory");
        part.settle();
        assert!(bytes.0.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn settling_touches_nothing() {
        let pages = Pages::new();
        pages.part(0, (COUNT * PAGE) as u64).settle();
        pages.part(5, 1).settle();
        assert_eq!(pages.present(), []);
    }

    #[test]
    fn a_page_that_cannot_be_touched_is_an_error() {
        assert!(kernel_populates(), "this test needs Linux 5.14");
        let pages = Pages::new();
        pages.protect(2, MprotectFlags::READ);
        assert_eq!(pages.part(0, 3 * PAGE_SIZE).touch(Touch::Read), Ok(()));
        assert!(pages.part(0, 3 * PAGE_SIZE).touch(Touch::Write).is_err());
        assert!(pages.part(2 * PAGE_SIZE + 1, 1).touch(Touch::Write).is_err());
        assert_eq!(pages.part(0, 2 * PAGE_SIZE).touch(Touch::Write), Ok(()));
        pages.protect(2, MprotectFlags::empty());
        assert!(pages.part(2 * PAGE_SIZE, PAGE_SIZE).touch(Touch::Read).is_err());
        pages.part(0, 3 * PAGE_SIZE).settle();
    }

    #[test]
    fn nothing_outside_is_a_part() {
        let pages = Pages::new();
        let Span { address, len } = pages.memory.span();
        for (address, len) in [
            (address - 1, 1),
            (address, len + 1),
            (address + len, 1),
            (address, 0),
            (address, u64::MAX),
            (u64::MAX, 1),
            (0, 4096),
        ] {
            assert!(pages.memory.part(Span { address, len }).is_none());
        }
    }
}
