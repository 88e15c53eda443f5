//! Memory that moves before all of it has come back, and as many mappings as a program can have.

use std::ptr;

use anyhow::{Result, ensure};
use cairn_guest::{ForkPoint, fork_point};
use cairn_tests::pages::PAGE;

/// Bytes that come back before the pieces: so long most of these are still to come.
const BEFORE: usize = 64 << 20;
const PIECES: usize = 64;
/// Pages of a piece.
const PAGES: usize = 9;
/// Which page of a piece is written before the fork point, and which ones after it: one before it, and one behind.
const OLD: usize = 4;
const NEW: [usize; 2] = [2, 7];

/// Writes to pieces of memory before and after the fork point, moves them, and looks at what they hold.
pub(super) fn run() -> Result<()> {
    let pieces: Vec<usize> = (0..PIECES).map(|_| piece()).collect::<Result<_>>()?;
    // The lowest comes back first.
    let before = map(BEFORE)?;
    ensure!(pieces.iter().all(|piece| before < *piece), "memory isn't mapped from the top down");
    (before..before + BEFORE).step_by(PAGE).for_each(|address| write(address, address));
    for piece in &pieces {
        write(piece + OLD * PAGE, piece + OLD);
    }
    if let ForkPoint::Taken(_) = fork_point()? {
        super::say("taken");
        return Ok(());
    }
    for piece in pieces {
        for page in NEW {
            write(piece + page * PAGE, piece + page);
        }
        let moved = grow(piece)?;
        for page in 0..2 * PAGES {
            let expected = if page == OLD || NEW.contains(&page) { piece + page } else { 0 };
            let found = read(moved + page * PAGE);
            ensure!(found == expected, "page {page} of {piece:#x} is {found:#x} at {moved:#x}");
        }
    }
    super::say("resumed");
    Ok(())
}

/// Has as many mappings as it can, and two more by its last change.
pub(super) fn full() -> Result<()> {
    const FIRST: usize = 20 << 30;
    const STRIDE: usize = 4 * PAGE;
    const BYTES: usize = 3 * PAGE;
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let place = |index: usize| ptr::with_exposed_provenance_mut(FIRST + index * STRIDE);
    let mapped = |index: &usize| {
        // SAFETY: a new mapping where nothing is.
        let mapping =
            unsafe { libc::mmap(place(*index), BYTES, rights, flags | libc::MAP_FIXED_NOREPLACE, -1, 0) };
        mapping != libc::MAP_FAILED
    };
    let count = (0..100_000).take_while(mapped).count();
    ensure!((20_000..70_000).contains(&count), "{count} mappings");
    (0..count).for_each(|index| write(FIRST + index * STRIDE, index));
    // SAFETY: mappings that were just made, to which there is no reference.
    let changed = unsafe {
        libc::munmap(place(count - 1), BYTES) == 0
            && libc::mprotect(place(0).cast::<u8>().wrapping_add(PAGE).cast(), PAGE, libc::PROT_READ) == 0
    };
    ensure!(changed, "{}", std::io::Error::last_os_error());
    let side = match fork_point()? {
        ForkPoint::Taken(_) => "taken",
        ForkPoint::Resumed { .. } => "resumed",
    };
    let wrong = (0..count - 1).find(|index| read(FIRST + index * STRIDE) != *index);
    ensure!(wrong.is_none(), "{side}: mapping {wrong:?} has something else");
    super::say(side);
    Ok(())
}

fn map(bytes: usize) -> Result<usize> {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel likes.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
    ensure!(mapping != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    Ok(mapping.expose_provenance())
}

/// A mapping of its own: nothing is right behind it.
fn piece() -> Result<usize> {
    let start = map((PAGES + 1) * PAGE)?;
    // SAFETY: a page of a mapping that was just made.
    let unmapped = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start + PAGES * PAGE), PAGE) };
    ensure!(unmapped == 0, "{}", std::io::Error::last_os_error());
    Ok(start)
}

/// Makes a piece twice as long; where it is then: elsewhere, as the next one is in the way.
fn grow(piece: usize) -> Result<usize> {
    let place = ptr::with_exposed_provenance_mut(piece);
    // SAFETY: a mapping of this program's, to which there is no reference.
    let moved = unsafe { libc::mremap(place, PAGES * PAGE, 2 * PAGES * PAGE, libc::MREMAP_MAYMOVE) };
    ensure!(moved != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    Ok(moved.expose_provenance())
}

fn write(address: usize, value: usize) {
    // SAFETY: a word of a mapping of this program's.
    unsafe { ptr::with_exposed_provenance_mut::<usize>(address).write_volatile(value) };
}

fn read(address: usize) -> usize {
    // SAFETY: as for `write`.
    unsafe { ptr::with_exposed_provenance::<usize>(address).read_volatile() }
}
