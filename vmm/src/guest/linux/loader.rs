//! Loading a kernel, its initial file system and its command line, by the 64-bit boot protocol (Linux
//! Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::{XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Error as LoaderError, KernelLoader, bzimage};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::layout::{PAGE, round_down};
use crate::memory::linux_map::{COMMAND_LINE, CONVENTIONAL_END, FIRMWARE, HIGH, KERNEL, ZERO_PAGE};
use crate::memory::ram::Ram;

/// The first protocol version that says whether a kernel has a 64-bit entry.
const OLDEST_PROTOCOL: u16 = 0x020c;
/// Where the 64-bit entry is, from the kernel's start.
const ENTRY_64: u64 = 0x200;
/// The loader's identity for one that has none assigned.
const UNKNOWN_LOADER: u8 = 0xff;
/// Kinds of memory in the firmware's map.
const MEMORY: u32 = 1;
const RESERVED: u32 = 2;

/// What a guest boots from.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The kernel's file, a bzImage.
    pub kernel: &'a Path,
    /// The initial file system.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// What is to be in [`FIRMWARE`].
    pub firmware: &'a [u8],
}

/// Why a kernel can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be opened.
    #[error("the kernel {kernel} can't be opened")]
    Open {
        /// The file.
        kernel: PathBuf,
        /// How opening it ended.
        #[source]
        source: io::Error,
    },
    /// Not a kernel, or not of the kind that can be booted.
    #[error("{kernel} is no kernel that can be booted here: {why}")]
    Kernel {
        /// The file.
        kernel: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The command line is too long.
    #[error("the kernel's command line has {bytes} bytes, {kernel} takes {most}: shorten --append")]
    CommandLine {
        /// The file.
        kernel: PathBuf,
        /// Its length.
        bytes: usize,
        /// What the kernel takes.
        most: usize,
    },
    /// The command line has a byte that ends it.
    #[error("the kernel's command line contains a zero byte")]
    CommandLineZero,
    /// Kernel and initial file system need more than there is.
    #[error(
        "the guest's memory is too small: the kernel needs {kernel_bytes} bytes from {KERNEL:#x} on and the initial \
         file system {initrd_bytes}, and {end:#x} is the end; give it more with --memory"
    )]
    TooSmall {
        /// What the kernel needs while it starts.
        kernel_bytes: u64,
        /// The initial file system's length.
        initrd_bytes: usize,
        /// The end of the memory that both can be in.
        end: u64,
    },
    /// The tables don't fit: a fault of the monitor's own.
    #[error("the machine's tables don't fit into {what}")]
    Tables {
        /// Where they should be.
        what: &'static str,
    },
}

/// Puts everything into `ram` and answers the address of the kernel's first instruction.
///
/// # Errors
/// [`LoadError`].
pub fn load(ram: &Ram, boot: &Boot<'_>) -> Result<u64, LoadError> {
    let header = load_kernel(ram, boot.kernel)?;
    let end = low_end(ram);
    let kernel_end = KERNEL + u64::from(header.init_size);
    let initrd = place_initrd(&header, boot.initrd, end)?;
    write_command_line(ram, &header, boot)?;
    if FIRMWARE.end - FIRMWARE.start < boot.firmware.len() as u64 {
        return Err(LoadError::Tables { what: "the firmware's memory" });
    }
    write(ram, FIRMWARE.start, boot.firmware)?;
    debug_assert!(kernel_end <= initrd);
    if let Some(bytes) = boot.initrd {
        write(ram, initrd, bytes)?;
    }
    let parameters = parameters(ram, header, initrd, boot);
    ram.memory()
        .write_obj(parameters, GuestAddress(ZERO_PAGE))
        .map_err(|_| LoadError::Tables { what: "the boot parameters' page" })?;
    Ok(KERNEL + ENTRY_64)
}

/// Loads the kernel at [`KERNEL`] and answers its header, of which the rest can rely on: a 64-bit entry, and
/// that it can run from there.
fn load_kernel(ram: &Ram, path: &Path) -> Result<setup_header, LoadError> {
    let open = |source| LoadError::Open { kernel: path.to_owned(), source };
    let refuse = |why: String| LoadError::Kernel { kernel: path.to_owned(), why };
    let mut file = File::open(path).map_err(open)?;
    if !file.metadata().map_err(open)?.is_file() {
        return Err(refuse("it is no regular file".to_owned()));
    }
    let loaded = BzImage::load(ram.memory(), Some(GuestAddress(KERNEL)), &mut file, None)
        .map_err(|error| refuse(reason(&error)))?;
    let header = loaded.setup_header.ok_or_else(|| refuse("it has no header".to_owned()))?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < OLDEST_PROTOCOL || flags & XLF_KERNEL_64 == 0 {
        return Err(refuse("it has no 64-bit entry".to_owned()));
    }
    let (preferred, alignment) = (header.pref_address, u64::from(header.kernel_alignment));
    let fits = header.relocatable_kernel != 0 && alignment != 0 && KERNEL.is_multiple_of(alignment);
    if !fits && preferred != KERNEL {
        return Err(refuse(format!(
            "it must be at {preferred:#x}, and this machine loads kernels at {KERNEL:#x}"
        )));
    }
    Ok(header)
}

/// What is wrong with a file, in words for a person.
fn reason(error: &LoaderError) -> String {
    match error {
        LoaderError::Bzimage(bzimage::Error::InvalidBzImage | bzimage::Error::ReadBzImageHeader) => {
            "it is no bzImage, as a distribution's /boot/vmlinuz is".to_owned()
        }
        LoaderError::Bzimage(bzimage::Error::Underflow) => "it is cut short".to_owned(),
        LoaderError::Bzimage(bzimage::Error::ReadBzImageCompressedKernel) => {
            "it can't be read to its end, or the guest's memory is too small for it".to_owned()
        }
        other => other.to_string(),
    }
}

/// Where the initial file system goes: as far up as it fits below `end` and what the kernel can take, so
/// that the kernel has room to move. Without one, that end.
fn place_initrd(header: &setup_header, initrd: Option<&[u8]>, end: u64) -> Result<u64, LoadError> {
    let kernel_bytes = u64::from(header.init_size);
    let initrd_bytes = initrd.map_or(0, <[u8]>::len);
    let end = end.min(u64::from(header.initrd_addr_max) + 1);
    let start = end.checked_sub(initrd_bytes as u64).map(|start| round_down(start, PAGE));
    start.filter(|start| KERNEL + kernel_bytes <= *start).ok_or(LoadError::TooSmall {
        kernel_bytes,
        initrd_bytes,
        end,
    })
}

fn write_command_line(ram: &Ram, header: &setup_header, boot: &Boot<'_>) -> Result<(), LoadError> {
    let text = boot.command_line.as_bytes();
    let room = usize::try_from(CONVENTIONAL_END - COMMAND_LINE - 1).unwrap_or(0);
    let most = usize::try_from(header.cmdline_size).unwrap_or(room).min(room);
    if most < text.len() {
        return Err(LoadError::CommandLine { kernel: boot.kernel.to_owned(), bytes: text.len(), most });
    }
    if text.contains(&0) {
        return Err(LoadError::CommandLineZero);
    }
    // Fresh memory is zero, so the text is terminated.
    write(ram, COMMAND_LINE, text)
}

fn parameters(ram: &Ram, mut header: setup_header, initrd: u64, boot: &Boot<'_>) -> boot_params {
    header.type_of_loader = UNKNOWN_LOADER;
    header.cmd_line_ptr = address_32(COMMAND_LINE);
    if let Some(bytes) = boot.initrd {
        (header.ramdisk_image, header.ramdisk_size) = (address_32(initrd), address_32(bytes.len() as u64));
    }
    let mut parameters = boot_params { hdr: header, acpi_rsdp_addr: FIRMWARE.start, ..Default::default() };
    let mut table = parameters.e820_table;
    let map = memory_map(ram);
    parameters.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    for (entry, piece) in table.iter_mut().zip(map) {
        *entry = piece;
    }
    parameters.e820_table = table;
    parameters
}

/// What the firmware says of the memory.
fn memory_map(ram: &Ram) -> Vec<boot_e820_entry> {
    let entry = |start, end, kind| boot_e820_entry { addr: start, size: end - start, r#type: kind };
    let mut map = vec![entry(0, CONVENTIONAL_END, MEMORY), entry(FIRMWARE.start, FIRMWARE.end, RESERVED)];
    for (span, _) in ram.spans() {
        map.push(entry(span.start.max(HIGH), span.end, MEMORY));
    }
    map
}

/// Where the memory that begins at 0 ends.
fn low_end(ram: &Ram) -> u64 {
    ram.spans().next().map_or(0, |(span, _)| span.end)
}

/// An address or a length below 4 GiB; the callers' are.
fn address_32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn write(ram: &Ram, address: u64, bytes: &[u8]) -> Result<(), LoadError> {
    let written = ram.memory().write_slice(bytes, GuestAddress(address));
    written.map_err(|_| LoadError::Tables { what: "the guest's memory" })
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
