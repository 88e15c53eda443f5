//! A BAR in this program's address space. Unsafe: maps the resource file and accesses device registers.

use std::fs::File;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::origin::Origin;
use crate::registers::Registers;

/// A mapped BAR, unmapped on drop. A forked child doesn't have the mapping and must not use the registers:
/// [`Transport`](crate::Transport) sees to that.
#[derive(Debug)]
pub(crate) struct Bar {
    base: NonNull<u8>,
    len: usize,
    origin: Origin,
}

impl Bar {
    /// Maps the first `len` bytes of `resource`, which must be its size in whole or less.
    pub(crate) fn map(resource: &File, len: usize) -> Result<Self, Errno> {
        // SAFETY: a null address lets the kernel choose free address space, so no memory of this program is
        // replaced. What is mapped is only ever accessed by this type's volatile accesses.
        let base = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, resource, 0)
        }?;
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        let bar = Self { base: base.cast(), len, origin: Origin::here() };
        // SAFETY: this is the mapping just made. The transport uses registers only in the process that opened
        // it, and so does `drop`.
        unsafe { bar.origin.keep(base, len) }?;
        Ok(bar)
    }

    /// The register at `offset`.
    ///
    /// # Panics
    /// If the access isn't aligned or not inside the BAR: places are checked before a BAR is mapped.
    fn register<T>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "register {offset:#x} outside of the BAR");
        assert!(offset.is_multiple_of(align_of::<T>()), "register {offset:#x} is not aligned");
        // SAFETY: `offset` was just checked to be inside the mapping of `len` bytes at `base`.
        unsafe { self.base.add(offset).cast() }
    }
}

impl Registers for Bar {
    fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: `register` gives an aligned address inside the mapping, which lives as long as `self`.
        // Volatile: the device may change it at any time, and any bytes are a u8.
        unsafe { self.register(offset).read_volatile() }
    }

    fn read_u16(&self, offset: usize) -> u16 {
        // SAFETY: as in `read_u8`.
        unsafe { self.register(offset).read_volatile() }
    }

    fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: as in `read_u8`.
        unsafe { self.register(offset).read_volatile() }
    }

    fn write_u8(&self, offset: usize, value: u8) {
        // SAFETY: `register` gives an aligned address inside the writable mapping, to which no reference
        // exists.
        unsafe { self.register(offset).write_volatile(value) }
    }

    fn write_u16(&self, offset: usize, value: u16) {
        // SAFETY: as in `write_u8`.
        unsafe { self.register(offset).write_volatile(value) }
    }

    fn write_u32(&self, offset: usize, value: u32) {
        // SAFETY: as in `write_u8`.
        unsafe { self.register(offset).write_volatile(value) }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            // What is at that address in a child, if anything, isn't ours.
            return;
        }
        // SAFETY: `base` and `len` are of the mapping that `map` made and this type alone owns; no pointer
        // into it leaves the type.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping that exists can be unmapped");
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and the type has no other state.
unsafe impl Send for Bar {}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn file(len: usize) -> File {
        let path = std::env::temp_dir().join(format!("cairn-bar-{}-{len}", std::process::id()));
        let options = || File::options().read(true).write(true).create_new(true).open(&path);
        let mut file = options().expect("a temporary file");
        std::fs::remove_file(&path).expect("the file just made");
        file.write_all(&vec![0; len]).expect("room for a page");
        file
    }

    #[test]
    fn registers_are_little_endian_bytes_of_the_resource() {
        let mut resource = file(0x1000);
        let bar = Bar::map(&resource, 0x1000).expect("a page to map");
        bar.write_u8(0, 0x11);
        bar.write_u16(2, 0x3322);
        bar.write_u32(0xffc, 0x7766_5544);
        assert_eq!((bar.read_u8(0), bar.read_u16(2), bar.read_u32(0xffc)), (0x11, 0x3322, 0x7766_5544));
        drop(bar);
        let mut bytes = Vec::new();
        resource.rewind().and_then(|()| resource.read_to_end(&mut bytes)).expect("the file's bytes");
        assert_eq!(bytes[..4], [0x11, 0, 0x22, 0x33]);
        assert_eq!(bytes[0xffc..], [0x44, 0x55, 0x66, 0x77]);
    }

    #[test]
    #[should_panic(expected = "outside of the BAR")]
    fn a_register_behind_the_end_is_never_accessed() {
        let bar = Bar::map(&file(0x2000), 0x2000).expect("two pages to map");
        bar.read_u32(0x1ffe);
    }

    #[test]
    fn a_resource_without_bytes_cannot_be_mapped() {
        assert_eq!(Bar::map(&file(0), 0).err(), Some(Errno::INVAL));
    }
}
