//! Whether /dev/kvm is there and usable.

use std::fmt;
use std::io;

use kvm_ioctls::Kvm;

const DEVICE: &str = "/dev/kvm";
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
    let device = Kvm::new().map_err(|error| {
        let error = io::Error::from_raw_os_error(error.errno());
        match error.kind() {
            io::ErrorKind::NotFound => Unusable::Missing,
            io::ErrorKind::PermissionDenied => Unusable::Forbidden,
            _ => Unusable::Broken(error),
        }
    })?;
    match device.get_api_version() {
        API_VERSION => Ok(()),
        // A file that isn't KVM's answers with an error.
        version if version < 0 => Err(Unusable::Broken(io::Error::last_os_error())),
        other => Err(Unusable::Version(other)),
    }
}

/// Whether the CPU virtualizes by itself, so that a guest can have a kernel. A KVM in software runs programs only.
pub(crate) fn runs_kernels() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_virtualization(&text))
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualization_is_a_flag_of_its_own() {
        assert!(has_virtualization("processor\t: 0\nflags\t\t: fpu svm lm\n"));
        assert!(has_virtualization("flags\t\t: vmx"));
        assert!(!has_virtualization("flags\t\t: fpu svm_lock lm\nbugs\t\t: vmx\n"));
        assert!(!has_virtualization(""));
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
