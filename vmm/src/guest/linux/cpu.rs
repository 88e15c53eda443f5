//! A Linux guest's vCPUs: the features that each has, and the state in which the first one enters the kernel.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs,
};
use vm_memory::{Bytes, GuestAddress};

use crate::kvm::kernel_vcpu::KernelVcpu;
use crate::kvm::system::{KvmError, refused};
use crate::memory::layout::{LARGE_PAGE, PAGE};
use crate::memory::linux_map::{DESCRIPTORS, PAGE_TABLES, ZERO_PAGE};
use crate::memory::ram::Ram;

/// CPUID leaf 1: ECX.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// CPUID leaf 1, EDX: several logical CPUs in a package.
const HTT: u32 = 1 << 28;
/// CPUID leaf 0x8000_0001, ECX.
const SVM: u32 = 1 << 2;

/// CPUID leaves that tell the topology. KVM gives only their first level.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];

/// IA32_MISC_ENABLE, with fast string operations on.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// IA32_MTRR_DEF_TYPE: on, and all memory is write-back. Device memory gets its type from page tables.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Protected mode, paging and an extension type.
const CR0: u64 = 1 << 31 | 1 << 4 | 1;
const CR4_PAE: u64 = 1 << 5;
/// Long mode, enabled and active.
const EFER: u64 = 1 << 10 | 1 << 8;
/// The only bit of RFLAGS that is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;
/// The selectors that the boot protocol asks for.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// The descriptors behind them: two unused, 64-bit code, data, both flat and at CPL 0.
const TABLE: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Page-table entries: present and writable; a large page.
const PRESENT: u64 = 0b11;
const LARGE: u64 = 1 << 7;
/// Page directories that map 4 GiB.
const DIRECTORIES: u64 = 4;

/// The features of vCPU `index` of `cpus`, made from those that KVM supports.
///
/// # Errors
/// [`KvmError::Refused`] if they are more than KVM takes.
pub fn features(supported: &CpuId, index: u8, cpus: u8) -> Result<CpuId, KvmError> {
    let (index, cpus) = (u32::from(index), u32::from(cpus));
    let is_topology = |leaf: &kvm_cpuid_entry2| TOPOLOGY.contains(&leaf.function);
    let mut features: Vec<_> =
        supported.as_slice().iter().filter(|leaf| !is_topology(leaf)).copied().collect();
    features.iter_mut().for_each(|leaf| adjust(leaf, index, cpus));
    let last = features.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    for function in TOPOLOGY.into_iter().filter(|function| *function <= last) {
        features.extend((0..3).map(|level| topology(function, level, index, cpus)));
    }
    CpuId::from_entries(&features)
        .map_err(|_| refused("the vCPU's features")(kvm_ioctls::Error::new(libc::E2BIG)))
}

/// The width of physical addresses (CPUID 8000_0008h), at least what every 64-bit CPU has.
#[must_use]
pub fn address_bits(features: &CpuId) -> u8 {
    let leaf = features.as_slice().iter().find(|leaf| leaf.function == 0x8000_0008);
    leaf.map_or(36, |leaf| leaf.eax.to_le_bytes()[0])
}

/// What depends on which vCPU it is, and what a guest doesn't get: virtualization of its own.
fn adjust(leaf: &mut kvm_cpuid_entry2, index: u32, cpus: u32) {
    match leaf.function {
        1 => {
            leaf.ebx = leaf.ebx & 0xffff | index << 24 | cpus << 16;
            leaf.ecx = leaf.ecx & !VMX | TSC_DEADLINE | HYPERVISOR;
            leaf.edx = if 1 < cpus { leaf.edx | HTT } else { leaf.edx & !HTT };
        }
        // Caches (Intel): none is shared, and all cores are in one package.
        4 if leaf.eax & 0x1f != 0 => leaf.eax = leaf.eax & 0x3fff | (cpus - 1) << 26,
        0x8000_0001 => leaf.ecx &= !SVM,
        0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | (cpus - 1) | id_bits(cpus) << 12,
        0x8000_000a => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx) = (index, index, 0),
        _ => {}
    }
}

/// A level of the extended topology: level 0 is one thread, level 1 all cores, no others.
fn topology(function: u32, level: u32, index: u32, cpus: u32) -> kvm_cpuid_entry2 {
    let (shift, count, kind) = match level {
        0 => (0, 1, 1),
        1 => (id_bits(cpus), cpus, 2),
        _ => (0, 0, 0),
    };
    kvm_cpuid_entry2 {
        function,
        index: level,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: level | kind << 8,
        edx: index,
        ..Default::default()
    }
}

/// Bits that number `cpus`.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// Sets what is the same for each vCPU. Vector state, APIC and the rest are as KVM resets them.
///
/// # Errors
/// [`KvmError::Refused`].
pub fn prepare(vcpu: &KernelVcpu) -> Result<(), KvmError> {
    vcpu.set_msrs(&[MISC_ENABLE, MTRR_DEF_TYPE])
}

/// Makes the first vCPU enter the kernel at `entry`, in 64-bit mode with the first 4 GiB mapped to
/// themselves, by the tables that [`write_tables`] wrote.
///
/// # Errors
/// [`KvmError::Refused`].
pub fn enter(vcpu: &KernelVcpu, entry: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu.sregs()?;
    enter_long_mode(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: entry, rsi: ZERO_PAGE, rflags: RFLAGS, ..Default::default() })
}

fn enter_long_mode(sregs: &mut kvm_sregs) {
    sregs.cr0 = CR0;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER;
    (sregs.gdt.base, sregs.gdt.limit) = (DESCRIPTORS, 4 * 8 - 1);
    let data = kvm_segment {
        limit: u32::MAX,
        selector: DATA,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: CODE, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
}

/// Writes the descriptor table and the page tables. False if there is no memory for them.
#[must_use]
pub fn write_tables(ram: &Ram) -> bool {
    let directory = |index: u64| PAGE_TABLES + (2 + index) * PAGE;
    let mut words: Vec<(u64, u64)> = (DESCRIPTORS..).step_by(8).zip(TABLE).collect();
    words.push((PAGE_TABLES, (PAGE_TABLES + PAGE) | PRESENT));
    for index in 0..DIRECTORIES {
        words.push((PAGE_TABLES + PAGE + 8 * index, directory(index) | PRESENT));
    }
    for page in 0..DIRECTORIES * 512 {
        words.push((directory(0) + 8 * page, (page * LARGE_PAGE) | PRESENT | LARGE));
    }
    words.into_iter().all(|(address, value)| ram.memory().write_obj(value, GuestAddress(address)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ram::MIN_BYTES;
    use crate::memory::walk::{Entry, Paging, PagingRegisters};

    fn supported() -> CpuId {
        let leaf = |function, eax| kvm_cpuid_entry2 { function, eax, ecx: !0, ..Default::default() };
        let mut extended = leaf(0x8000_0008, 48);
        extended.ecx = 0;
        let leaves = [leaf(0, 0xd), leaf(1, 0), leaf(0xb, 0), leaf(0x8000_0001, 0), extended];
        CpuId::from_entries(&leaves).unwrap()
    }

    fn find(features: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut leaves = features.as_slice().iter();
        *leaves.find(|leaf| (leaf.function, leaf.index) == (function, index)).unwrap()
    }

    #[test]
    fn each_cpu_knows_its_number_and_place() {
        let features = features(&supported(), 5, 6).unwrap();
        let first = find(&features, 1, 0);
        assert_eq!((first.ebx >> 24, first.ebx >> 16 & 0xff, first.edx & HTT), (5, 6, HTT));
        let [thread, core, end] = [0, 1, 2].map(|level| find(&features, 0xb, level));
        assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 0x100, 5));
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
        assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
        assert!(!features.as_slice().iter().any(|leaf| leaf.function == 0x1f), "beyond the last leaf");
        assert_eq!(find(&features, 0x8000_0008, 0).ecx, 5 | 3 << 12);
        assert_eq!(address_bits(&features), 48);
    }

    #[test]
    fn there_is_no_virtualization_inside() {
        let features = features(&supported(), 0, 1).unwrap();
        assert_eq!(find(&features, 1, 0).ecx & (VMX | HYPERVISOR | TSC_DEADLINE), HYPERVISOR | TSC_DEADLINE);
        assert_eq!(find(&features, 0x8000_0001, 0).ecx & SVM, 0);
        assert_eq!(find(&features, 1, 0).edx & HTT, 0);
    }

    #[test]
    fn the_first_tables_map_memory_to_itself() {
        let ram = Ram::new(MIN_BYTES).unwrap();
        assert!(write_tables(&ram));
        let mut sregs = kvm_sregs::default();
        enter_long_mode(&mut sregs);
        let registers = PagingRegisters { cr0: sregs.cr0, cr3: sregs.cr3, cr4: sregs.cr4, efer: sregs.efer };
        let paging = Paging::new(&registers, 48).unwrap();
        for address in [0, 0x100_0123, 0xffff_ffff] {
            let found = paging.walk(&ram, address, 1).unwrap();
            let Entry::Page(page, allowed) = found.leaf else { panic!("{found:?}") };
            assert_eq!((page, found.level, allowed.write), (address & !(LARGE_PAGE - 1), 2, true));
        }
    }
}
