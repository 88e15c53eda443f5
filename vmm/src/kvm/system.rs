//! /dev/kvm: whether it's there, what it can do, and virtual machines from it.

use std::path::Path;
use std::{fs, io};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
};
use kvm_ioctls::{Cap, Kvm};

use crate::kvm::dirty_ring::{FEWEST_ENTRIES, MOST_ENTRIES};
use crate::kvm::vcpu::Exit;
use crate::kvm::vm::{Vm, WriteLog};

/// The device file.
pub const DEVICE: &str = "/dev/kvm";
/// The only API version that ever was; KVM's documentation says to refuse any other.
const API_VERSION: i32 = 12;

/// Why there is no KVM to work with.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No such device.
    #[error(
        "there is no {DEVICE}: this host offers no KVM. On hardware, enable virtualization in the firmware and \
         load kvm_intel or kvm_amd; in a virtual machine, ask for nested virtualization"
    )]
    Missing,
    /// The device can't be opened by this user.
    #[error(
        "no permission to open {DEVICE}: run as root, or add this user to the group that owns it (usually kvm)"
    )]
    NoPermission,
    /// Opening failed otherwise.
    #[error("{DEVICE} could not be opened")]
    Open(#[source] io::Error),
    /// Not the API that everybody has.
    #[error("{DEVICE} speaks API version {0}, {API_VERSION} is needed: is it really KVM?")]
    Version(i32),
    /// Something that the monitor can't do without.
    #[error("this host's KVM lacks {0}, which cairn needs; a kernel of version 5.15 or later has it")]
    Lacks(&'static str),
    /// A request that should work didn't.
    #[error("KVM refused {what}")]
    Refused {
        /// Which request.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A vCPU doesn't get through its first instructions, which are the monitor's.
    #[error("this host's KVM can't run a program: its first instructions ended with {0:?}")]
    Unfit(Exit),
}

/// Makes an error of a refused request.
pub(crate) fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Refused { what, source }
}

/// Where the kernel shows its modules and their parameters.
const MODULES: &str = "/sys/module";

/// An open /dev/kvm that has what the monitor needs.
#[derive(Debug)]
pub struct System {
    kvm: Kvm,
}

/// What a KVM runs on, as far as it matters to the guests that it can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
    /// Neither: a software KVM, where code at CPL 0 is emulated and only app guests run at speed.
    Software,
}

impl System {
    /// Opens the device and checks what it can do.
    ///
    /// # Errors
    /// [`KvmError`]: what is missing, and what to do.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO if !Path::new(DEVICE).exists() => KvmError::Missing,
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::NoPermission,
            errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
        })?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(KvmError::Version(version));
        }
        let needed = [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        ];
        if let Some((_, name)) = needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmError::Lacks(name));
        }
        let protect = u64::from(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
        let wanted =
            i32::try_from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET).unwrap_or(0);
        if kvm.check_extension_raw(protect) & wanted != wanted {
            return Err(KvmError::Lacks("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"));
        }
        Ok(Self { kvm })
    }

    /// A new virtual machine for an app guest, whose writes are told by `log`.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn create_vm(&self, log: WriteLog) -> Result<Vm, KvmError> {
        let vm = Vm::new(&self.kvm, log)?;
        vm.tell_emulation_failures(&self.kvm)?;
        Ok(vm)
    }

    /// A new virtual machine for a guest with a kernel, with interrupt controllers.
    ///
    /// An instruction on device registers that KVM can't emulate is an invalid one to a program in it: were
    /// it an exit, any program could end the machine.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn create_kernel_vm(&self) -> Result<Vm, KvmError> {
        let vm = Vm::new(&self.kvm, WriteLog::Bitmap)?;
        vm.create_interrupt_controllers()?;
        Ok(vm)
    }

    /// The value of a capability; 0 when it isn't there.
    #[must_use]
    pub fn capability(&self, cap: Cap) -> i32 {
        self.kvm.check_extension_int(cap)
    }

    /// The most entries that a dirty ring can have here. None where there are no rings, or none of a useful size.
    #[must_use]
    pub fn ring_entries(&self) -> Option<u32> {
        let bytes = self.kvm.check_extension_raw(u64::from(KVM_CAP_DIRTY_LOG_RING_ACQ_REL));
        let entries = u32::try_from(bytes).unwrap_or(0) / 16;
        (FEWEST_ENTRIES <= entries).then_some(entries.min(MOST_ENTRIES))
    }

    /// The CPU features that a guest can have.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn supported_cpuid(&self) -> Result<kvm_bindings::CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("the list of CPU features"))
    }

    /// Whether the CPU keeps the dirty log in a buffer of its own (page-modification logging).
    ///
    /// KVM takes the buffer over at each exit. Reading the log while the vCPU runs makes it exit too, but
    /// doesn't wait for that (`kvm_arch_sync_dirty_log` in Linux arch/x86/kvm/x86.c): the latest writes
    /// may be missing. So the log is complete only while the vCPU is outside.
    ///
    /// What can't be told counts as yes: then nothing is polled for, and no write is missed.
    #[must_use]
    pub fn logs_in_buffer() -> bool {
        may_log_in_buffer(Path::new(MODULES))
    }

    /// What this KVM runs on, from /proc/cpuinfo's flags.
    #[must_use]
    pub fn kind() -> Kind {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
        if has("vmx") {
            Kind::Vmx
        } else if has("svm") {
            Kind::Svm
        } else {
            Kind::Software
        }
    }
}

/// Whether page-modification logging is in use, or may be, by the kernel's directory of modules.
///
/// kvm_intel always says so (since Linux 4.0), kvm_amd only where it has such a buffer, and a KVM that is neither has
/// none. `kvm` itself is there with each of them: a directory without it is masked, or another thing.
fn may_log_in_buffer(modules: &Path) -> bool {
    let vendors = ["kvm_intel", "kvm_amd"];
    let parameters = vendors.map(|vendor| fs::read_to_string(modules.join(vendor).join("parameters/pml")));
    let is_possible = |parameter: &io::Result<String>| match parameter {
        Ok(value) => !is_off(value),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if parameters.iter().any(is_possible) {
        return true;
    }
    let is_there = |module| modules.join(module).try_exists().ok();
    let has_none = || is_there("kvm") == Some(true) && is_there("kvm_intel") == Some(false);
    !parameters.iter().any(Result::is_ok) && !has_none()
}

/// Whether a module's parameter of type bool is off, as sysfs shows it.
fn is_off(value: &str) -> bool {
    matches!(value.trim_end(), "N" | "0")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::may_log_in_buffer;

    /// A directory of these modules, some with the parameter.
    fn modules(list: &[(&str, Option<&str>)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (module, value) in list {
            let parameters = root.path().join(module).join("parameters");
            fs::create_dir_all(&parameters).unwrap();
            if let Some(value) = value {
                fs::write(parameters.join("pml"), value).unwrap();
            }
        }
        root
    }

    fn buffered(list: &[(&str, Option<&str>)]) -> bool {
        may_log_in_buffer(modules(list).path())
    }

    #[test]
    fn the_log_is_no_buffer_where_the_kernel_says_so() {
        for off in ["N\n", "0\n", "N"] {
            assert!(!buffered(&[("kvm", None), ("kvm_intel", Some(off))]));
            assert!(!buffered(&[("kvm", None), ("kvm_amd", Some(off))]));
        }
        assert!(!buffered(&[("kvm", None), ("kvm_amd", None)]), "one that can't");
        assert!(!buffered(&[("kvm", None), ("kvm_other", None)]), "a software KVM");
    }

    #[test]
    fn what_is_on_or_unknown_counts_as_a_buffer() {
        for on in ["Y\n", "1\n", "", "maybe\n"] {
            assert!(buffered(&[("kvm", None), ("kvm_intel", Some(on))]));
            assert!(buffered(&[("kvm", None), ("kvm_amd", Some(on))]));
        }
        assert!(buffered(&[("kvm", None), ("kvm_intel", Some("N\n")), ("kvm_amd", Some("Y\n"))]));
        assert!(buffered(&[]), "masked by an empty directory");
        assert!(buffered(&[("unix", None)]), "no KVM that one could see");
        assert!(buffered(&[("kvm", None), ("kvm_intel", None)]), "its parameters are masked");
        assert!(may_log_in_buffer(&modules(&[]).path().join("absent")));
        // What can't be read: a parameter that is a directory, modules that are a file.
        let root = modules(&[("kvm", None)]);
        fs::create_dir_all(root.path().join("kvm_amd/parameters/pml")).unwrap();
        assert!(may_log_in_buffer(root.path()));
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(may_log_in_buffer(&file));
    }
}
