//! From PCI functions in sysfs to one that is claimed and mapped.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cairn_abi::pci;
use rustix::io::Errno;
use thiserror::Error;

use crate::capabilities::{CONFIG_SIZE, Layout, LayoutError};
use crate::claim::{Claim, Unclaimed};
use crate::mapping::Bar;

/// Where Linux shows the PCI functions. A hypervisor without a guest kernel answers the same paths.
pub const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// Why no function can be used.
#[derive(Debug, Error)]
pub enum FindError {
    /// There is none.
    #[error("there is no checkpoint device (PCI {vendor:04x}:{device:04x}) in {}: is this program in a virtual \
             machine of Cairn?", .root.display(), vendor = pci::VENDOR_ID, device = pci::DEVICE_ID)]
    NoDevice {
        /// The directory that was searched.
        root: PathBuf,
    },
    /// All have an owner.
    #[error("all {count} checkpoint devices of this machine are taken{}", Owners(.owners))]
    AllTaken {
        /// How many there are.
        count: usize,
        /// The processes that have them, as far as this one can see them.
        owners: Vec<u32>,
    },
    /// A file's mode forbids it.
    #[error("no permission to open {}: run as root, or let a udev rule give access: SUBSYSTEM==\"pci\", \
             ATTR{{vendor}}==\"{vendor:#06x}\", ATTR{{device}}==\"{device:#06x}\", \
             RUN+=\"/bin/chmod 0666 /sys%p/resource{bar}\"", .path.display(),
            vendor = pci::VENDOR_ID, device = pci::DEVICE_ID, bar = pci::BAR)]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// The kernel forbids all programs to map devices.
    #[error("the kernel forbids to map {}: it's locked down ({LOCKDOWN} says {}). Boot it without lockdown= on \
             its command line and without Secure Boot", .path.display(), .mode.trim())]
    Lockdown {
        /// The file.
        path: PathBuf,
        /// What the kernel says of it: all modes, the one in force in brackets.
        mode: String,
    },
    /// The kernel keeps the BAR for a driver.
    #[error("the kernel refuses to map {}: a kernel driver holds the device; unbind it", .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A device can't be kept to one owner.
    #[error("{} can't be locked by a record lock (fcntl F_SETLK), without which two programs could take the \
             same device", .path.display())]
    NoRecordLocks {
        /// The file.
        path: PathBuf,
        /// What the lock failed with.
        #[source]
        source: Errno,
    },
    /// The function isn't what it should be.
    #[error("the checkpoint device at {} can't be driven", .function.display())]
    Layout {
        /// The function's directory.
        function: PathBuf,
        /// What is wrong.
        #[source]
        source: LayoutError,
    },
    /// Another failure of a file.
    #[error("{} can't be {action}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What failed: "read", "opened", "mapped".
        action: &'static str,
        /// How.
        #[source]
        source: io::Error,
    },
}

/// A function with its registers in this program's memory.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) bar: Bar,
    pub(crate) layout: Layout,
    /// Last: the function is free when its BAR is no longer mapped.
    pub(crate) claim: Claim,
}

impl Function {
    /// Claims and maps the first free checkpoint device below `root`, a directory like [`PCI_DEVICES`].
    pub(crate) fn first_free(root: &Path) -> Result<Self, FindError> {
        let candidates = checkpoint_devices(root)?;
        let (mut unusable, mut owners) = (None, Vec::new());
        for directory in &candidates {
            match Self::claim(directory) {
                Ok(Ok(function)) => return Ok(function),
                Ok(Err(Taken(owner))) => owners.extend(owner),
                // Another may do; if none does, the first reason is the one to tell.
                Err(error) => unusable = unusable.or(Some(error)),
            }
        }
        Err(match (unusable, candidates.len()) {
            (Some(error), _) => error,
            (None, 0) => FindError::NoDevice { root: root.to_owned() },
            (None, count) => FindError::AllTaken { count, owners },
        })
    }

    /// Claims and maps one function, if it's free.
    fn claim(directory: &Path) -> Result<Result<Self, Taken>, FindError> {
        let unfit = |source| FindError::Layout { function: directory.to_owned(), source };
        let layout = Layout::from_config(&read(&directory.join("config"), CONFIG_SIZE)?).map_err(unfit)?;
        let resources = read(&directory.join("resource"), MAX_TEXT)?;
        let len = layout.bar_len(&String::from_utf8_lossy(&resources)).map_err(unfit)?;
        let path = directory.join(format!("resource{}", layout.bar));
        let claim = match Claim::new(&path) {
            Ok(claim) => claim,
            Err(Unclaimed::Taken { owner }) => return Ok(Err(Taken(owner))),
            Err(Unclaimed::Open(source)) => return Err(cannot_open(path, source)),
            Err(Unclaimed::Lock(source)) => return Err(FindError::NoRecordLocks { path, source }),
        };
        let bar = Bar::map(claim.file(), len)
            .map_err(|errno| cannot_map(path, errno, fs::read_to_string(LOCKDOWN).ok()))?;
        Ok(Ok(Self { bar, layout, claim }))
    }
}

/// A function that is somebody's, and the process that has it.
struct Taken(Option<u32>);

/// Where Linux says whether it's locked down.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Bytes of a text file of sysfs that are read: one page is the kernel's own bound.
const MAX_TEXT: usize = 4096;

/// The directories of all checkpoint devices, in the order of their addresses.
fn checkpoint_devices(root: &Path) -> Result<Vec<PathBuf>, FindError> {
    let unreadable = |source| FindError::File { path: root.to_owned(), action: "read", source };
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        // No PCI at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let directory = entry.map_err(unreadable)?.path();
        if has_id(&directory.join("vendor"), pci::VENDOR_ID)?
            && has_id(&directory.join("device"), pci::DEVICE_ID)?
        {
            found.push(directory);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the file holds this id, as `0x1af4` and a line's end. A file that vanished (the function was
/// unplugged) holds none.
fn has_id(path: &Path, id: u16) -> Result<bool, FindError> {
    let bytes = match read(path, MAX_TEXT) {
        Ok(bytes) => bytes,
        Err(FindError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let digits = str::from_utf8(&bytes).ok().and_then(|text| text.trim().strip_prefix("0x"));
    Ok(digits.is_some_and(|digits| u16::from_str_radix(digits, 16) == Ok(id)))
}

/// At most the first `limit` bytes of a file.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, FindError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64).read_to_end(&mut bytes))
        .map_err(|source| FindError::File { path: path.to_owned(), action: "read", source })?;
    Ok(bytes)
}

fn cannot_open(path: PathBuf, source: io::Error) -> FindError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => FindError::Permission { path },
        _ => FindError::File { path, action: "opened", source },
    }
}

/// `pci_mmap_resource` of Linux answers EPERM if it's locked down and EINVAL if a driver holds the BAR
/// exclusively. `lockdown` is what the file of that name says, if it can be read.
fn cannot_map(path: PathBuf, errno: Errno, lockdown: Option<String>) -> FindError {
    match (errno, lockdown) {
        // Not by lockdown, so by a rule of a security module.
        (Errno::PERM, Some(mode)) if mode.contains("[none]") => {
            FindError::File { path, action: "mapped", source: errno.into() }
        }
        (Errno::PERM, mode) => {
            FindError::Lockdown { path, mode: mode.unwrap_or_else(|| "nothing, it can't be read".to_owned()) }
        }
        (Errno::INVAL, _) => FindError::Busy { path },
        _ => FindError::File { path, action: "mapped", source: errno.into() },
    }
}

/// The processes that have all devices, and what helps, for a message.
struct Owners<'a>(&'a [u32]);

impl fmt::Display for Owners<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.iter().all(|owner| *owner == std::process::id()) {
            return f.write_str(
                " by this program itself: use the session that it has, or CAIRN_ENGINE=user-compare for another \
                 (a Linux guest can have more devices: cairn boot --sessions)",
            );
        }
        f.write_str(" by other sessions")?;
        if let Some((first, others)) = self.0.split_first() {
            let noun = if others.is_empty() { "process" } else { "processes" };
            write!(f, " (of {noun} {first}")?;
            others.iter().try_for_each(|owner| write!(f, ", {owner}"))?;
            f.write_str(")")?;
        }
        f.write_str(": end one, or give the machine more (cairn boot --sessions)")
    }
}

#[cfg(test)]
mod tests;
