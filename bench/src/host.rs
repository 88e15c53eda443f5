//! What the figures were measured on.

use std::arch::x86_64::__cpuid;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::budget::meminfo_mib;

/// Facts about the machine. A text that the system doesn't give is "unknown".
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's model name.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cores: usize,
    /// MiB of memory.
    pub memory_mib: u64,
    /// What stands behind /dev/kvm.
    pub kvm: Kvm,
    /// The signature of the hypervisor under this machine, if it's a virtual one that says so: "KVMKVMKVM",
    /// "TCGTCGTCGTCG" for QEMU's emulation, which is no hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// The setting of transparent huge pages for anonymous memory.
    pub transparent_huge_pages: String,
    /// Hz of the time-stamp counter, as measured.
    pub ticks_per_second: u64,
    /// This benchmark's version.
    pub version: String,
    /// Whether it was built with optimisation.
    pub optimized: bool,
}

/// What the CPU offers to KVM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kvm {
    /// Intel's extension.
    Vmx,
    /// AMD's extension.
    Svm,
    /// Neither, and yet there is a /dev/kvm.
    Other,
    /// There is no /dev/kvm.
    Absent,
}

impl Host {
    /// Asks the system.
    #[must_use]
    pub fn look(ticks_per_second: u64) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            kernel: line_of("/proc/sys/kernel/osrelease"),
            cpu: cpu_field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: meminfo_mib(&meminfo, "MemTotal").unwrap_or(0),
            kvm: kvm_kind(&cpuinfo, Path::new("/dev/kvm").exists()),
            hypervisor: hypervisor(),
            transparent_huge_pages: chosen(&line_of("/sys/kernel/mm/transparent_hugepage/enabled")),
            ticks_per_second,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimized: !cfg!(debug_assertions),
        }
    }
}

/// What QEMU's emulation calls itself.
const EMULATION: &str = "TCGTCGTCGTCG";
/// The leaf and the bit of CPUID by which a virtual machine is known to be one, and the leaf with the signature (see
/// Linux, Documentation/virt/kvm/x86/cpuid.rst).
const FEATURES: u32 = 1;
const IS_VIRTUAL: u32 = 1 << 31;
const SIGNATURE: u32 = 0x4000_0000;

impl Host {
    /// The machine in a few words: its KVM, and what it runs on itself.
    #[must_use]
    pub fn platform(&self) -> String {
        let kvm = match self.kvm {
            Kvm::Vmx => "KVM on VT-x",
            Kvm::Svm => "KVM on AMD-V",
            Kvm::Other => "a software KVM",
            Kvm::Absent => "no KVM",
        };
        match self.hypervisor.as_deref() {
            None => kvm.to_owned(),
            Some(EMULATION) => {
                format!("{kvm}, all of it emulated by QEMU (TCG): times are not those of hardware")
            }
            Some(under) => format!("{kvm}, nested in a virtual machine ({under})"),
        }
    }
}

fn hypervisor() -> Option<String> {
    if __cpuid(FEATURES).ecx & IS_VIRTUAL == 0 {
        return None;
    }
    let leaf = __cpuid(SIGNATURE);
    let bytes: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    let signature: String =
        bytes.iter().map(|&byte| char::from(byte)).filter(char::is_ascii_graphic).collect();
    (!signature.is_empty()).then_some(signature)
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The first CPU's value of a field of /proc/cpuinfo.
fn cpu_field<'t>(cpuinfo: &'t str, field: &str) -> Option<&'t str> {
    let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find_map(|(name, value)| (name.trim() == field).then(|| value.trim()))
}

fn kvm_kind(cpuinfo: &str, present: bool) -> Kvm {
    let has = |flag| cpu_field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == flag));
    match present {
        false => Kvm::Absent,
        true if has("vmx") => Kvm::Vmx,
        true if has("svm") => Kvm::Svm,
        true => Kvm::Other,
    }
}

/// The chosen one of a sysfs list, which stands in brackets.
fn chosen(list: &str) -> String {
    let inside = list.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(list, |(choice, _)| choice).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t\t: fpu vmx sse2\n";

    #[test]
    fn the_kind_of_kvm_is_read_off_the_flags() {
        assert_eq!(kvm_kind(CPUINFO, true), Kvm::Vmx);
        assert_eq!(kvm_kind(&CPUINFO.replace("vmx", "svm"), true), Kvm::Svm);
        assert_eq!(kvm_kind(&CPUINFO.replace("vmx", "vmxnot"), true), Kvm::Other);
        assert_eq!(kvm_kind(CPUINFO, false), Kvm::Absent);
    }

    #[test]
    fn fields_and_choices() {
        assert_eq!(cpu_field(CPUINFO, "model name"), Some("Some CPU @ 2.0GHz"));
        assert_eq!(cpu_field("", "model name"), None);
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("unknown"), "unknown");
    }

    #[test]
    fn an_emulated_machine_is_said_to_be_one() {
        let mut host = Host::look(1);
        (host.kvm, host.hypervisor) = (Kvm::Svm, Some(EMULATION.to_owned()));
        assert!(host.platform().contains("AMD-V") && host.platform().contains("TCG"), "{}", host.platform());
        host.hypervisor = None;
        assert_eq!(host.platform(), "KVM on AMD-V");
        host.hypervisor = Some("KVMKVMKVM".to_owned());
        assert!(host.platform().contains("nested"), "{}", host.platform());
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let host = Host::look(1);
        assert!(host.memory_mib > 0 && host.cores > 0 && host.kernel != "unknown");
    }
}
