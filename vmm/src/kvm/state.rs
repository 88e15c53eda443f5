//! The registers of a vCPU that starts at CPL 3 in 64-bit mode, with no kernel below it.

use kvm_bindings::{kvm_segment, kvm_sregs};

/// Selector of the program's code segment.
pub const USER_CODE: u16 = 0x2b;
/// Selector of the program's stack and data segments.
pub const USER_DATA: u16 = 0x23;
/// Selector of the stubs' code segment.
pub const SYSTEM_CODE: u16 = 0x08;
/// Selector of the task state.
pub const TASK: u16 = 0x30;

/// The descriptor table that goes with the selectors: null, system code, system data, unused user
/// code, user data, user code. SYSRET wants the last two in this order (AMD64 APM volume 2, 6.1.1).
pub const DESCRIPTORS: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// MSR_STAR: SYSCALL loads system code from bits 47:32, SYSRET user code from bits 63:48 plus 16.
pub const STAR: u64 = (SYSTEM_CODE as u64) << 32 | (USER_CODE as u64 - 16) << 48;
/// MSR_SYSCALL_MASK: SYSCALL clears trap, interrupt, direction, nested task and alignment check.
pub const SYSCALL_MASK: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 1 << 14 | 1 << 18;

/// Protected mode with paging; numeric errors, write protection and alignment mask on.
const CR0: u64 = 0x8005_0033;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// SYSCALL, long mode enabled and active, no-execute.
const EFER: u64 = 0xd01;

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

/// Changes a fresh vCPU's special registers to those of the program.
pub fn enter_user(sregs: &mut kvm_sregs, tables: &Tables) {
    sregs.cr0 = CR0;
    sregs.cr3 = tables.page_table;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.efer = EFER;
    user_segments(sregs);
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    sregs.tr = kvm_segment {
        base: tables.task,
        limit: 0x67,
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
    (sregs.ds, sregs.es) = (user_data(), user_data());
    (sregs.fs, sregs.gs) = (user_data(), user_data());
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
