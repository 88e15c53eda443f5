//! mmap and its kin.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::MapFlags;

use crate::guest::app::files::Object;
use crate::guest::app::mapping::{FileSource, OwnFile, Place, SpaceError};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::{Answer, Arguments, int};
use crate::memory::layout::{PAGE, WINDOW_SIZE, round_up};
use crate::memory::rights::Rights;

const MREMAP_MAYMOVE: u64 = 1;
const MREMAP_FIXED: u64 = 2;

pub(super) fn mmap(process: &mut Process, &[address, len, prot, flags, fd, offset]: &Arguments) -> Answer {
    let rights = Rights::from_prot(prot).ok_or(Errno::EINVAL)?;
    let flags = MapFlags::from_bits_truncate(i32::try_from(flags).map_err(|_| Errno::EINVAL)?);
    let place = place(address, len, flags)?;
    let kind = flags & (MapFlags::MAP_SHARED | MapFlags::MAP_PRIVATE);
    if kind.is_empty() {
        return Err(Errno::EINVAL);
    }
    let shared = kind != MapFlags::MAP_PRIVATE;
    let mapped = if !flags.contains(MapFlags::MAP_ANONYMOUS) {
        return map_file(process, place, rights, shared, (fd, offset));
    } else if shared {
        process.space.map_shared(place, rights)
    } else {
        process.space.map_anonymous(place, rights)
    };
    let range = mapped.map_err(|error| told(&error))?;
    if flags.contains(MapFlags::MAP_POPULATE) && rights.write {
        // As on Linux, mmap succeeds whether or not it could populate.
        let _ = process.memory().window().populate(&range);
    }
    Ok(range.start)
}

fn map_file(process: &mut Process, place: Place, rights: Rights, shared: bool, from: (u64, u64)) -> Answer {
    let (fd, offset) = from;
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let file = process.files.descriptors().get(int(fd))?;
    let path = || String::from_utf8_lossy(file.path().as_bytes()).into();
    let source = |own| FileSource { path: path(), offset, own };
    let range = match file.object() {
        Object::Host(fd) => {
            let source = source(None);
            process.space.map_file(place, rights, shared, fd.as_fd(), source)
        }
        Object::Memory(handle) => {
            // The mapping will hold the file open when its descriptors are closed.
            handle.check_descriptors()?;
            let source = source(Some(OwnFile(Arc::clone(&file))));
            process.space.map_own_file(place, rights, shared, &file, source)
        }
        Object::PciBar(handle) if shared => {
            let len = place.length();
            let start = handle.bar.address.checked_add(offset).ok_or(Errno::EINVAL)?;
            let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
            if handle.bar.address + round_up(handle.bar.size, PAGE).ok_or(Errno::EINVAL)? < end {
                return Err(Errno::EINVAL);
            }
            process.space.map_device(start..end, rights)
        }
        Object::PciBar(_) => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENODEV),
    };
    range.map(|range| range.start).map_err(|error| told(&error))
}

pub(super) fn munmap(process: &mut Process, &[address, len, ..]: &Arguments) -> Answer {
    let range = pages(address, len).ok_or(Errno::EINVAL)?;
    process.space.unmap(&range).map(|()| 0).map_err(|error| told(&error))
}

pub(super) fn mprotect(process: &mut Process, &[address, len, prot, ..]: &Arguments) -> Answer {
    let rights = Rights::from_prot(prot).ok_or(Errno::EINVAL)?;
    if len == 0 && address.is_multiple_of(PAGE) {
        return Ok(0);
    }
    let range = pages(address, len).ok_or(Errno::EINVAL)?;
    process.space.protect(&range, rights).map(|()| 0).map_err(|error| told(&error))
}

pub(super) fn mremap(
    process: &mut Process,
    &[address, len, new_len, flags, new_address, _]: &Arguments,
) -> Answer {
    let (may_move, fixed) = (flags & MREMAP_MAYMOVE != 0, flags & MREMAP_FIXED != 0);
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0 || fixed && !may_move || new_len == 0 {
        return Err(Errno::EINVAL);
    }
    let old = pages(address, len).ok_or(Errno::EINVAL)?;
    let new_len = round_up(new_len, PAGE).ok_or(Errno::EINVAL)?;
    if fixed && !new_address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let answer = process.space.remap(&old, new_len, may_move, fixed.then_some(new_address));
    answer.map_err(|error| told(&error))
}

pub(super) fn madvise(process: &mut Process, &[address, len, advice, ..]: &Arguments) -> Answer {
    if len == 0 && address.is_multiple_of(PAGE) {
        return Ok(0);
    }
    let range = pages(address, len).ok_or(Errno::EINVAL)?;
    match i32::try_from(advice).map_err(|_| Errno::EINVAL)? {
        libc::MADV_DONTNEED => process.space.discard(&range).map(|()| 0).map_err(|error| told(&error)),
        // Advice, which may be ignored: what is mapped stays as it is.
        libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL
        | libc::MADV_WILLNEED
        | libc::MADV_FREE
        | libc::MADV_HUGEPAGE
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_MERGEABLE
        | libc::MADV_UNMERGEABLE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_DONTFORK
        | libc::MADV_DOFORK
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT => Ok(0),
        // What must have an effect, and can't have it here, says so.
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn msync(process: &mut Process, &[address, len, ..]: &Arguments) -> Answer {
    let range = pages(address, len.max(1)).ok_or(Errno::EINVAL)?;
    process.memory().window().sync(&range).map(|()| 0)
}

fn place(address: u64, len: u64, flags: MapFlags) -> Result<Place, Errno> {
    let len = round_up(len, PAGE).filter(|len| *len != 0).ok_or(Errno::EINVAL)?;
    if WINDOW_SIZE < len {
        return Err(Errno::ENOMEM);
    }
    let fixed = flags.contains(MapFlags::MAP_FIXED);
    let no_replace = flags.contains(MapFlags::MAP_FIXED_NOREPLACE);
    if (fixed || no_replace) && !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let start = address & !(PAGE - 1);
    let range = start..start.checked_add(len).ok_or(Errno::ENOMEM)?;
    Ok(match (no_replace, fixed, address) {
        (true, ..) => Place::IfFree(range),
        (false, true, _) => Place::Exactly(range),
        (false, false, 0) => Place::Anywhere(len),
        (false, false, _) => Place::Near(range),
    })
}

/// The pages of an address, which must be a page's, and a length, which is rounded up.
fn pages(address: u64, len: u64) -> Option<Range<u64>> {
    let end = round_up(address.checked_add(len)?, PAGE)?;
    (address.is_multiple_of(PAGE) && address < end).then_some(address..end)
}

fn told(error: &SpaceError) -> Errno {
    if matches!(error, SpaceError::Memory { .. } | SpaceError::Slots(_)) {
        tracing::debug!(%error, "a mapping was refused");
    }
    error.errno()
}
