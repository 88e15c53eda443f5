//! What a program can ask of its kernel about memory.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};

/// Advice that leaves every byte as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advice {
    /// To swap, now.
    PageOut,
    /// Into huge pages, now.
    Collapse,
    /// Huge pages are welcome.
    HugePages,
    /// Pages that hold the same may be one page.
    Mergeable,
}

impl Advice {
    fn number(self) -> i32 {
        match self {
            Self::PageOut => libc::MADV_PAGEOUT,
            Self::Collapse => libc::MADV_COLLAPSE,
            Self::HugePages => libc::MADV_HUGEPAGE,
            Self::Mergeable => libc::MADV_MERGEABLE,
        }
    }
}

/// Gives advice on this process's own memory.
pub(crate) fn advise(address: usize, len: usize, advice: Advice) -> io::Result<()> {
    let at = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: none of these changes what is in memory.
    match unsafe { libc::madvise(at, len, advice.number()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives advice on the memory of another process.
pub(crate) fn advise_of(process: &OwnedFd, spans: &[(usize, usize)], advice: Advice) -> io::Result<()> {
    let vectors: Vec<libc::iovec> = spans
        .iter()
        .map(|(address, len)| libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(*address),
            iov_len: *len,
        })
        .collect();
    // SAFETY: none of these changes what is in memory; the vectors live.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len(),
            advice.number(),
            0,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives whole pages back to the kernel: they hold zeros afterwards.
pub(crate) fn discard(pages: &mut [u8]) -> io::Result<()> {
    give_back(pages, libc::MADV_DONTNEED)
}

/// Lets the kernel take whole pages whenever it likes: until they are written, each holds what it does or zeros.
pub(crate) fn free(pages: &mut [u8]) -> io::Result<()> {
    give_back(pages, libc::MADV_FREE)
}

/// Has whole pages moved to other frames, as if those that they are in were about to fail. A kernel that doesn't is
/// as good: it's asked in addition to what else moves pages.
pub(crate) fn relocate(pages: &mut [u8]) -> io::Result<()> {
    const MADV_SOFT_OFFLINE: i32 = 101;
    let (at, len) = (pages.as_mut_ptr().cast(), pages.len());
    // SAFETY: what is in the pages stays.
    let _ = unsafe { libc::madvise(at, len, MADV_SOFT_OFFLINE) };
    Ok(())
}

fn give_back(pages: &mut [u8], advice: i32) -> io::Result<()> {
    // SAFETY: private anonymous memory that the caller may write, and bytes may be anything; the caller has no
    // reference to it but this one.
    match unsafe { libc::madvise(pages.as_mut_ptr().cast(), pages.len(), advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forbids to write to whole pages, and allows it again: the kernel splits what is huge there.
pub(crate) fn forbid_and_allow_writes(pages: &mut [u8]) -> io::Result<()> {
    for protection in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
        // SAFETY: the caller has the only reference and doesn't write meanwhile.
        if unsafe { libc::mprotect(pages.as_mut_ptr().cast(), pages.len(), protection) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The spans of a process's private anonymous memory that it may write.
pub(crate) fn anonymous_spans(pid: u32) -> Result<Vec<(usize, usize)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading a process's mappings")?;
    Ok(text.lines().filter_map(anonymous_span).collect())
}

/// `START-END rw-p OFFSET DEVICE INODE [NAME]`
fn anonymous_span(line: &str) -> Option<(usize, usize)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (start, end) = fields.first()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (fields.get(1) == Some(&"rw-p") && fields.get(4) == Some(&"0")).then_some((start, end - start))
}

/// Where a process has the mapping of this name, such as `[vvar]`.
pub(crate) fn mapping(name: &str) -> Result<usize> {
    let text = fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    let line = text.lines().find(|line| line.ends_with(name)).with_context(|| format!("no {name} here"))?;
    let start = line.split('-').next().unwrap_or_default();
    usize::from_str_radix(start, 16).with_context(|| format!("{line:?} makes no sense"))
}
