//! /dev/kvm: whether it's there, what it can do, and virtual machines from it.

use std::io;
use std::path::Path;

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

/// Parameters of KVM's modules that say whether page-modification logging is in use.
const LOGGING_PARAMETERS: [&str; 2] =
    ["/sys/module/kvm_intel/parameters/pml", "/sys/module/kvm_amd/parameters/pml"];

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
    #[must_use]
    pub fn logs_in_buffer() -> bool {
        LOGGING_PARAMETERS.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|value| is_on(&value)))
    }

    /// What this KVM runs on, from /proc/cpuinfo's flags.
    #[must_use]
    pub fn kind() -> Kind {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
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

/// Whether a module's parameter of type bool is on, as sysfs shows it.
fn is_on(value: &str) -> bool {
    matches!(value.trim_end(), "Y" | "1")
}

#[cfg(test)]
mod tests {
    use super::is_on;

    #[test]
    fn parameters_are_y_or_n() {
        assert!(is_on("Y\n") && is_on("1\n") && is_on("Y"));
        assert!(!is_on("N\n") && !is_on("0\n") && !is_on(""));
    }
}
