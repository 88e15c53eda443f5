//! The address map of an app guest: one table of what is where.
//!
//! Guest-virtual equals guest-physical below [`WINDOW_SIZE`]:
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 64 KiB | never mapped, so that null pointers fault |
//! | 64 KiB | [`DEVICES`] | programs linked at a fixed address, and their heap |
//! | [`DEVICES`] | | the hole without memory: stores there leave the guest |
//! | [`MMAP_BOTTOM`] | [`STACK_TOP`] | position-independent programs and their heap, mappings (from the top down), the stack |
//! | [`WINDOW_SIZE`] | | the system span: page tables, descriptor tables, stubs; seen by the program only as the stub |

use std::ops::Range;

use crate::host;

/// Bytes of a page: a guest address is one of the host's, so that it's the host's page.
pub const PAGE: u64 = host::PAGE as u64;
/// Bytes of a large page, the size of a page directory's entry.
pub const LARGE_PAGE: u64 = 2 << 20;
/// The lowest address that a program may map (Linux: vm.mmap_min_addr).
pub const LOWEST: u64 = 64 << 10;
/// Bytes of the program's address space.
pub const WINDOW_SIZE: u64 = 64 << 30;
/// The span without memory, for the ports and the PCI functions' registers.
pub const DEVICES: Range<u64> = 0x7000_0000..0x8000_0000;
/// Where PCI functions' registers are, within [`DEVICES`].
pub const PCI_REGISTERS: Range<u64> = 0x7400_0000..0x8000_0000;
/// A store to this page is a system call (the stub makes it).
pub const SYSCALL_PORT: u64 = 0x7000_3000;
/// A store here is a system call that was posted in shared memory first and not answered in time.
pub const SYSCALL_GAVE_UP: u64 = SYSCALL_PORT + 8;
/// A store to this page is an exception: the byte is the vector (the stubs make it).
pub const EXCEPTION_PORT: u64 = 0x7000_4000;
/// The lowest address of mappings whose place the program leaves to us.
pub const MMAP_BOTTOM: u64 = DEVICES.end;
/// Where position-independent programs are loaded; their heap follows.
pub const PROGRAM_BASE: u64 = 32 << 30;
/// The end of the stack.
pub const STACK_TOP: u64 = WINDOW_SIZE - LARGE_PAGE;
/// Bytes of the stack, all mapped at the start (they cost memory when touched).
pub const STACK_SIZE: u64 = 8 << 20;

/// Whether `range` is one that a program may map.
#[must_use]
pub fn is_program(range: &Range<u64>) -> bool {
    LOWEST <= range.start
        && range.start < range.end
        && range.end <= WINDOW_SIZE
        && (range.end <= DEVICES.start || DEVICES.end <= range.start)
}

/// `value` rounded up to a whole number of `unit`s, a power of two; None on overflow.
#[must_use]
pub fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

/// A number of bytes as the host counts them; the same number on the 64-bit hosts that there are.
#[must_use]
pub fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// `value` rounded down to a whole number of `unit`s, a power of two.
#[must_use]
pub fn round_down(value: u64, unit: u64) -> u64 {
    value & !(unit - 1)
}
