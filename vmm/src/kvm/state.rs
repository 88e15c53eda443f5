//! The registers of a vCPU that starts at CPL 3 in 64-bit mode, with no kernel below it.

use kvm_bindings::{kvm_cpuid_entry2, kvm_segment, kvm_sregs};

use crate::kvm::vcpu::VECTOR_WORDS;

/// Selector of the program's code segment.
pub const USER_CODE: u16 = 0x2b;
/// Selector of the program's stack and data segments.
pub const USER_DATA: u16 = 0x23;
/// Selector of the stubs' code segment.
pub const SYSTEM_CODE: u16 = 0x08;
/// Selector of the task state.
pub const TASK: u16 = 0x30;
/// Offset of the task state's last byte.
pub const TASK_LIMIT: u16 = 0x67;

/// The descriptor table that goes with the selectors: null, system code, system data, null,
/// user data, user code. SYSRET wants the last two in this order, behind 32-bit user code (AMD64 APM
/// volume 2, 6.1.1). There is none, so a program can't leave 64-bit mode: on AMD, SYSCALL would go to
/// MSR_CSTAR from there, at CPL 0.
pub const DESCRIPTORS: [u64; 6] =
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];

/// MSR_STAR: SYSCALL loads system code from bits 47:32, SYSRET user code from bits 63:48 plus 16.
pub const STAR: u64 = (SYSTEM_CODE as u64) << 32 | (USER_CODE as u64 - 16) << 48;
/// MSR_SYSCALL_MASK: SYSCALL clears trap, interrupt, direction, nested task and alignment check.
pub const SYSCALL_MASK: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 1 << 14 | 1 << 18;

/// Protected mode with paging; numeric errors, write protection and alignment mask on.
const CR0: u64 = 0x8005_0033;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
/// SYSCALL, long mode enabled and active, no-execute.
const EFER: u64 = 0xd01;

/// CPUID leaf 1, ECX: XSAVE.
const CPUID_XSAVE: u32 = 1 << 26;
/// CPUID leaf whose subleaf 0 tells the state components that XCR0 can have (EDX:EAX).
const CPUID_COMPONENTS: u32 = 0xd;
/// The components that programs may use without asking (Intel SDM volume 1, 13.1): x87 and SSE, which
/// are always on, AVX, and the three of AVX-512, which go together.
const X87_SSE: u64 = 0b11;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0b111 << 5;

/// Words of an XSAVE area: the control register of x87, MXCSR, and which components are stored (XSTATE_BV).
const X87_CONTROL: usize = 0;
const MXCSR: usize = 6;
const STATES: usize = 128;

/// Where the tables that the special registers name are.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Guest-physical address of the top page table.
    pub page_table: u64,
    /// Guest-virtual address of the interrupt descriptors (256 of 16 bytes).
    pub interrupts: u64,
    /// Guest-virtual address of [`DESCRIPTORS`].
    pub descriptors: u64,
    /// Guest-virtual address of the task state.
    pub task: u64,
}

/// The vector state that a program can have on a CPU with these features, as XCR0's value. None where
/// XSAVE isn't there: then it's SSE.
#[must_use]
pub fn components(features: &[kvm_cpuid_entry2]) -> Option<u64> {
    let leaf = |function| features.iter().find(|leaf| leaf.function == function && leaf.index == 0);
    leaf(1).filter(|leaf| leaf.ecx & CPUID_XSAVE != 0)?;
    let offered = leaf(CPUID_COMPONENTS).map(|leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax))?;
    let has = |wanted| offered & wanted == wanted;
    let mut components = X87_SSE;
    if has(AVX) {
        components |= AVX;
        components |= if has(AVX_512) { AVX_512 } else { 0 };
    }
    has(X87_SSE).then_some(components)
}

/// Changes a fresh vCPU's special registers to those of the program, which may use the vector state
/// `components`, when there are any, by XSAVE and with instructions that need it.
pub fn enter_user(sregs: &mut kvm_sregs, tables: &Tables, components: Option<u64>) {
    sregs.cr0 = CR0;
    sregs.cr3 = tables.page_table;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if components.is_some() {
        sregs.cr4 |= CR4_OSXSAVE;
    }
    sregs.efer = EFER;
    user_segments(sregs);
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    sregs.tr = kvm_segment {
        base: tables.task,
        limit: u32::from(TASK_LIMIT),
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    (sregs.idt.base, sregs.idt.limit) = (tables.interrupts, 256 * 16 - 1);
    (sregs.gdt.base, sregs.gdt.limit) = (tables.descriptors, 8 * 8 - 1);
}

/// Makes the code and stack segments the program's, as a return from an exception would.
pub fn return_to_user(sregs: &mut kvm_sregs) {
    (sregs.cs, sregs.ss) = (user_code(), user_data());
}

fn user_segments(sregs: &mut kvm_sregs) {
    return_to_user(sregs);
    reset_data_segments(sregs);
}

/// Makes the segments that a program may load by itself what they are at its start.
pub fn reset_data_segments(sregs: &mut kvm_sregs) {
    (sregs.ds, sregs.es) = (user_data(), user_data());
    (sregs.fs, sregs.gs) = (user_data(), user_data());
}

/// The vector state at a program's start, as XSAVE stores it (Intel SDM volume 1, 13.4 and 10.5.1): registers of zeros,
/// all exceptions masked.
#[must_use]
pub fn first_vectors() -> [u32; VECTOR_WORDS] {
    let mut words = [0; VECTOR_WORDS];
    (words[X87_CONTROL], words[MXCSR], words[STATES]) = (0x37f, 0x1f80, 0b11);
    words
}

fn user_code() -> kvm_segment {
    kvm_segment { selector: USER_CODE, type_: 11, l: 1, db: 0, ..user_data() }
}

fn user_data() -> kvm_segment {
    kvm_segment {
        limit: 0xf_ffff,
        selector: USER_DATA,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(ecx: u32, offered: u64) -> Vec<kvm_cpuid_entry2> {
        let [eax, edx] =
            [offered & u64::from(u32::MAX), offered >> 32].map(|half| u32::try_from(half).unwrap());
        let other = kvm_cpuid_entry2 { function: CPUID_COMPONENTS, index: 1, eax: !0, ..Default::default() };
        let first = kvm_cpuid_entry2 { function: 1, ecx, ..Default::default() };
        let last = kvm_cpuid_entry2 { function: CPUID_COMPONENTS, eax, edx, ..Default::default() };
        vec![other, first, last]
    }

    #[test]
    fn vector_state_is_what_the_cpu_has_and_programs_know() {
        let cases = [
            (0, AVX | X87_SSE, None),
            (CPUID_XSAVE, 0, None),
            (CPUID_XSAVE, X87_SSE, Some(X87_SSE)),
            (CPUID_XSAVE, X87_SSE | AVX, Some(X87_SSE | AVX)),
            // Half of AVX-512, bound registers, protection keys and tiles.
            (CPUID_XSAVE, X87_SSE | AVX | 1 << 5 | 3 << 3 | 1 << 9 | 3 << 17, Some(X87_SSE | AVX)),
            (CPUID_XSAVE, X87_SSE | AVX_512, Some(X87_SSE)),
            (CPUID_XSAVE, u64::MAX, Some(X87_SSE | AVX | AVX_512)),
        ];
        for (ecx, offered, expected) in cases {
            assert_eq!(components(&features(ecx, offered)), expected, "{ecx:#x} {offered:#x}");
        }
        assert_eq!(components(&[]), None);
    }

    #[test]
    fn xsave_is_on_only_with_components() {
        let tables = Tables { page_table: 0, interrupts: 0, descriptors: 0, task: 0 };
        for components in [None, Some(X87_SSE)] {
            let mut sregs = kvm_sregs::default();
            enter_user(&mut sregs, &tables, components);
            assert_eq!(sregs.cr4 & CR4_OSXSAVE != 0, components.is_some());
        }
    }
}
