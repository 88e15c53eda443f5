//! The address map of a Linux guest: what is where in guest-physical memory before its kernel runs, and in the
//! hole without memory.
//!
//! | from | what |
//! |---|---|
//! | [`DESCRIPTORS`] | the descriptor table of the 64-bit boot protocol |
//! | [`ZERO_PAGE`] | the boot parameters |
//! | [`PAGE_TABLES`] | tables that map the first 4 GiB to themselves |
//! | [`COMMAND_LINE`] | the kernel's command line |
//! | [`FIRMWARE`] | ACPI tables; reserved, so the kernel leaves them alone |
//! | [`KERNEL`] | the kernel, where it would put itself |
//! | below the hole | the initial file system, as far up as the kernel can take it |
//! | [`PCI_WINDOW`] | PCI functions' registers |
//! | [`IO_APIC`], [`KVM_PRIVATE`], [`LOCAL_APIC`] | the interrupt controllers, and pages that Intel's KVM uses |

use std::ops::Range;

use crate::memory::ram::DEVICE_HOLE;

/// Three descriptors of 8 bytes and one that is unused.
pub const DESCRIPTORS: u64 = 0x500;
/// One page (Linux Documentation/arch/x86/zero-page.rst).
pub const ZERO_PAGE: u64 = 0x7000;
/// Six pages: one of each upper level and four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// The text and a zero byte.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Where conventional memory ends, as a PC's firmware says it.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Where a PC has its firmware.
pub const FIRMWARE: Range<u64> = 0xe_0000..HIGH;
/// The first byte above the first MiB.
pub const HIGH: u64 = 0x10_0000;
/// Where a kernel that can be moved prefers to be (CONFIG_PHYSICAL_START).
pub const KERNEL: u64 = 0x100_0000;
/// Where PCI functions' registers may be, in the hole.
pub const PCI_WINDOW: Range<u64> = 0xc000_0000..0xfc00_0000;
/// The I/O APIC's registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Four pages that KVM takes on Intel CPUs without unrestricted guests: a page table and three of task state.
pub const KVM_PRIVATE: u32 = 0xfeff_c000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

const _: () = {
    assert!(DEVICE_HOLE.start <= PCI_WINDOW.start && PCI_WINDOW.end <= IO_APIC as u64);
    assert!(LOCAL_APIC < KVM_PRIVATE && (KVM_PRIVATE as u64) + 0x4000 <= DEVICE_HOLE.end);
};
