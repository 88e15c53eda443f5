//! PAGEMAP_SCAN: which pages of a process are there, and which were written.
//!
//! Kernel documentation: `admin-guide/mm/pagemap.rst`; there since Linux 6.7.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use linux_raw_sys::general::{
    PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING,
    page_region, pm_scan_arg,
};

use crate::memory::PAGE;

/// `_IOWR('f', 16, struct pm_scan_arg)`, which linux-raw-sys has not.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// Ranges that one call can answer: 24 KiB of them.
const RANGES: usize = 1024;

/// The pagemap of one process.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
    ranges: Vec<page_region>,
}

/// Which pages to find, and whether to write-protect them in the same walk.
#[derive(Clone, Copy, Debug)]
enum Query {
    Resident,
    Written,
    WrittenAndProtect,
}

impl Pagemap {
    /// This process's.
    ///
    /// # Errors
    /// There is none, or the kernel doesn't know PAGEMAP_SCAN: the file is older than the call.
    pub(crate) fn own() -> io::Result<Self> {
        let mut pagemap = Self::open("/proc/self/pagemap")?;
        pagemap.resident(0..PAGE, |_| ())?;
        Ok(pagemap)
    }

    /// That of a child.
    pub(crate) fn of(pid: libc::pid_t) -> io::Result<Self> {
        Self::open(&format!("/proc/{pid}/pagemap"))
    }

    /// Finds pages that have memory, in it or swapped out. All others of an anonymous mapping are zeros.
    pub(crate) fn resident(&mut self, span: Range<usize>, found: impl FnMut(Range<usize>)) -> io::Result<()> {
        self.scan(span, Query::Resident, found)
    }

    /// Finds pages that are not write-protected by userfaultfd. Where a whole page table (2 MiB) is
    /// missing there are none; single missing pages are found.
    pub(crate) fn written(&mut self, span: Range<usize>, found: impl FnMut(Range<usize>)) -> io::Result<()> {
        self.scan(span, Query::Written, found)
    }

    /// Like [`Pagemap::written`], and protects what is found in the same step.
    pub(crate) fn take_written(
        &mut self,
        span: Range<usize>,
        found: impl FnMut(Range<usize>),
    ) -> io::Result<()> {
        self.scan(span, Query::WrittenAndProtect, found)
    }

    /// Write-protects what is not, in a span registered with userfaultfd.
    pub(crate) fn protect(&self, span: Range<usize>) -> io::Result<()> {
        // Without room for an answer the kernel takes its shortest way through the page tables.
        let mut arg = Query::WrittenAndProtect.arg(&span);
        self.call(&mut arg).map(|_| ())
    }

    fn open(path: &str) -> io::Result<Self> {
        let none = page_region { start: 0, end: 0, categories: 0 };
        Ok(Self { file: File::open(path)?, ranges: vec![none; RANGES] })
    }

    fn scan(
        &mut self,
        span: Range<usize>,
        query: Query,
        mut found: impl FnMut(Range<usize>),
    ) -> io::Result<()> {
        let mut arg = query.arg(&span);
        while arg.start < arg.end {
            arg.vec = self.ranges.as_mut_ptr().addr() as u64;
            arg.vec_len = self.ranges.len() as u64;
            let count = self.call(&mut arg)?;
            for range in self.ranges.iter().take(count) {
                found(address(range.start)..address(range.end));
            }
            // Only a full vector ends a walk early. `walk_end` may be older than the last range then: the
            // kernel fills the vector in steps and doesn't set it at the end of the last.
            match self.ranges.get(count.wrapping_sub(1)) {
                Some(last) if count == self.ranges.len() => arg.start = last.end,
                _ => break,
            }
        }
        Ok(())
    }

    /// One ioctl. Returns how many ranges it filled in.
    fn call(&self, arg: &mut pm_scan_arg) -> io::Result<usize> {
        // SAFETY: `arg` is a valid `pm_scan_arg` with its own size; its vector is either none or
        // `self.ranges` with that length, which `scan` borrows exclusively. The kernel writes only
        // there and into `arg`. Write-protecting pages changes no content, and their next write
        // lifts it again.
        let count = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, std::ptr::from_mut(arg)) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

impl Query {
    fn arg(self, span: &Range<usize>) -> pm_scan_arg {
        // The kernel has a shortcut for exactly these masks (WRITTEN asked, WRITTEN returned).
        let (flags, all_of, any_of) = match self {
            Self::Resident => (0, 0, PAGE_IS_PRESENT | PAGE_IS_SWAPPED),
            Self::Written => (PM_SCAN_CHECK_WPASYNC, PAGE_IS_WRITTEN, 0),
            Self::WrittenAndProtect => (PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, PAGE_IS_WRITTEN, 0),
        };
        pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: u64::from(flags),
            start: span.start as u64,
            end: span.end as u64,
            walk_end: 0,
            vec: 0,
            vec_len: 0,
            max_pages: 0,
            category_inverted: 0,
            category_mask: u64::from(all_of),
            category_anyof_mask: u64::from(any_of),
            return_mask: u64::from(all_of | any_of),
        }
    }
}

/// An address of this process, or of a child with the same layout.
#[expect(clippy::cast_possible_truncation, reason = "an address has the size of usize")]
fn address(raw: u64) -> usize {
    raw as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Block;

    #[test]
    fn finds_the_pages_that_were_touched() -> io::Result<()> {
        let Ok(mut pagemap) = Pagemap::own() else { return Ok(()) };
        let mut block = Block::map(4096 * PAGE)?;
        for page in (0..4096).step_by(2) {
            block.bytes_mut()[page * PAGE] = 1;
        }
        let start = block.address();
        let mut pages = Vec::new();
        pagemap.resident(start..start + block.len(), |range| {
            pages.extend(range.step_by(PAGE).map(|address| (address - start) / PAGE));
        })?;
        assert!(pages.into_iter().eq((0..4096).step_by(2)));
        Ok(())
    }
}
