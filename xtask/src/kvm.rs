//! Whether /dev/kvm is there and usable.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

const DEVICE: &str = "/dev/kvm";
/// `_IO(KVMIO, 0x00)` of linux/kvm.h.
const KVM_GET_API_VERSION: u64 = 0xae00;
/// The only version since Linux 2.6.22; the kernel's API document says to refuse any other.
const API_VERSION: i32 = 12;

/// Why /dev/kvm is of no use here.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// There is no such file.
    Missing,
    /// It exists, and this user may not open it.
    Forbidden,
    /// It could not be opened or asked otherwise.
    Broken(io::Error),
    /// It speaks another version than 12; holds which.
    Version(i32),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(
                f,
                "{DEVICE} does not exist: enable virtualization in the firmware (or nested virtualization \
                 of this machine's own host) and load the module (modprobe kvm_intel or kvm_amd)"
            ),
            Self::Forbidden => write!(
                f,
                "{DEVICE} may not be opened by this user: add yourself to its group \
                 (sudo usermod -aG kvm $USER, then log in again)"
            ),
            Self::Broken(error) => write!(f, "{DEVICE} cannot be used: {error}"),
            Self::Version(version) => {
                write!(f, "{DEVICE} speaks API version {version} and Cairn needs {API_VERSION}")
            }
        }
    }
}

/// Opens /dev/kvm and asks for its version.
///
/// # Errors
/// [`Unusable`] says what is missing.
pub(crate) fn probe() -> Result<(), Unusable> {
    let device =
        OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unusable::Missing,
            io::ErrorKind::PermissionDenied => Unusable::Forbidden,
            _ => Unusable::Broken(error),
        })?;
    match api_version(&device).map_err(Unusable::Broken)? {
        API_VERSION => Ok(()),
        other => Err(Unusable::Version(other)),
    }
}

fn api_version(device: &File) -> io::Result<i32> {
    unsafe extern "C" {
        fn ioctl(fd: i32, request: u64, ...) -> i32;
    }
    // SAFETY: the declaration is that of the C library that std links on x86-64 Linux. The descriptor is open
    // while `device` is borrowed. KVM_GET_API_VERSION takes no argument and touches no memory of ours; on a file
    // that is not KVM's the kernel answers ENOTTY.
    let version = unsafe { ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(version) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_kvm_is_an_error() {
        let file = OpenOptions::new().read(true).open("/dev/null").unwrap();
        assert!(api_version(&file).is_err());
    }

    #[test]
    fn every_reason_names_the_device() {
        let reasons = [
            Unusable::Missing,
            Unusable::Forbidden,
            Unusable::Broken(io::ErrorKind::Other.into()),
            Unusable::Version(11),
        ];
        for reason in reasons {
            assert!(reason.to_string().contains(DEVICE), "{reason:?}");
        }
    }
}
