//! The checkpoint device's registers, for programs that misuse them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cairn_abi::pci;

use crate::random::Random;

/// Where the functions are.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

// The common configuration (virtio 1.2, 4.1.4.3).
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const STATUS: usize = 0x14;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_DESC: usize = 0x20;
/// Bit of the status: the device gave up.
pub const NEEDS_RESET: u8 = 64;

/// The directories of all checkpoint functions, in the order of their addresses.
///
/// # Errors
/// When there is no such directory.
pub fn functions() -> io::Result<Vec<PathBuf>> {
    let id = |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let mut found = Vec::new();
    for entry in fs::read_dir(FUNCTIONS)? {
        let path = entry?.path();
        if id(&path, "vendor").trim() == format!("{:#06x}", pci::VENDOR_ID)
            && id(&path, "device").trim() == format!("{:#06x}", pci::DEVICE_ID)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The file that is the registers of a function.
#[must_use]
pub fn resource(function: &Path) -> PathBuf {
    function.join(format!("resource{}", pci::BAR))
}

/// The BAR.
#[derive(Debug)]
pub struct Registers {
    base: *mut u8,
    /// Holds the record lock, if there is one.
    _file: File,
}

impl Registers {
    /// The first function that no other process has locked, locked.
    ///
    /// # Errors
    /// When there is none that can be opened and mapped.
    pub fn claim() -> io::Result<Self> {
        for function in functions()? {
            let file = open(&function)?;
            if lock(&file) {
                return Self::map(file);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "no checkpoint device is free"))
    }

    /// A function's registers whoever has them: a program that doesn't care for locks.
    ///
    /// # Errors
    /// When they can't be opened or mapped.
    pub fn of(function: &Path) -> io::Result<Self> {
        Self::map(open(function)?)
    }

    fn map(file: File) -> io::Result<Self> {
        let (len, protection) = (pci::BAR_SIZE as usize, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), _file: file })
    }

    /// Where they are in the program.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.expose_provenance() as u64
    }

    /// Stores to a register, of any width at any offset.
    ///
    /// # Panics
    /// If it isn't in the BAR.
    pub fn write<T>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= pci::BAR_SIZE as usize);
        // SAFETY: inside the mapping; device registers take any width at any offset.
        unsafe { self.base.add(offset).cast::<T>().write_unaligned(value) }
    }

    /// Loads from a register.
    ///
    /// # Panics
    /// If it isn't in the BAR.
    #[must_use]
    pub fn read<T>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= pci::BAR_SIZE as usize);
        // SAFETY: as for `write`.
        unsafe { self.base.add(offset).cast::<T>().read_unaligned() }
    }

    /// Garbage into registers: `writes` accesses of any width, half of them to the common configuration.
    #[expect(clippy::cast_possible_truncation, reason = "garbage is as good when it is cut")]
    pub fn scribble(&self, random: &mut Random, writes: u64) {
        for _ in 0..writes {
            let inside = if random.below(2) == 0 { 0x40 } else { u64::from(pci::BAR_SIZE) - 8 };
            let (offset, value) = (random.below(inside) as usize, random.bits());
            match random.below(8) {
                0 => self.write(offset, value as u8),
                1 => self.write(offset, value as u16),
                2 => self.write(offset, value as u32),
                3 => self.write(offset, value),
                4 => drop(self.read::<u8>(offset)),
                5 => drop(self.read::<u16>(offset)),
                6 => drop(self.read::<u32>(offset)),
                _ => drop(self.read::<[u8; 8]>(offset)),
            }
        }
    }

    /// The honest way up to DRIVER_OK, with these addresses of descriptors, available and used ring.
    pub fn bring_up(&self, size: u16, addresses: [u64; 3]) {
        self.reset();
        self.write::<u8>(STATUS, 3);
        for half in 0..2_u32 {
            self.write(DRIVER_FEATURE_SELECT, half);
            self.write(DRIVER_FEATURE, half);
        }
        self.write::<u8>(STATUS, 11);
        self.write::<u16>(QUEUE_SELECT, 0);
        self.write(QUEUE_SIZE, size);
        for (index, address) in addresses.into_iter().enumerate() {
            let [low, high] = [address & 0xffff_ffff, address >> 32];
            self.write(QUEUE_DESC + index * 8, u32::try_from(low).unwrap_or_default());
            self.write(QUEUE_DESC + index * 8 + 4, u32::try_from(high).unwrap_or_default());
        }
        self.write::<u16>(QUEUE_ENABLE, 1);
        self.write::<u8>(STATUS, 15);
    }

    /// Ends the session, if there is one.
    pub fn reset(&self) {
        self.write::<u8>(STATUS, 0);
    }

    /// The device status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.read(STATUS)
    }

    /// The doorbell.
    pub fn notify(&self) {
        self.write(pci::NOTIFY_OFFSET as usize, pci::REQUEST_QUEUE);
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`; nothing refers to it.
        unsafe { libc::munmap(self.base.cast(), pci::BAR_SIZE as usize) };
    }
}

fn open(function: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_SYNC).open(resource(function))
}

fn lock(file: &File) -> bool {
    // SAFETY: all zeros is a valid lock of the whole file.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = i16::try_from(libc::F_WRLCK).unwrap_or_default();
    // SAFETY: the kernel reads the structure, which lives.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const whole) == 0 }
}
