//! The auxiliary vector: what Linux tells a program about itself and its CPU at the start.

use std::arch::x86_64::__cpuid;

use crate::guest::app::elf::Loaded;
use crate::memory::layout::PAGE;

const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_SYSINFO_EHDR: u64 = 33;

/// Bytes of an ELF program header.
const HEADER_SIZE: u64 = 56;
/// Clock ticks a second (USER_HZ).
const TICKS: u64 = 100;

/// The pairs for `program`, with the interpreter that it asked for and the vDSO at this address.
#[must_use]
pub(super) fn vector(program: &Loaded, interpreter: Option<&Loaded>, vdso: u64) -> Vec<(u64, u64)> {
    let user = u64::from(nix::unistd::geteuid().as_raw());
    let group = u64::from(nix::unistd::getegid().as_raw());
    vec![
        (AT_HWCAP, u64::from(__cpuid(1).edx)),
        (AT_PAGESZ, PAGE),
        (AT_CLKTCK, TICKS),
        (AT_PHDR, program.headers),
        (AT_PHENT, HEADER_SIZE),
        (AT_PHNUM, program.header_count),
        (AT_BASE, interpreter.map_or(0, |interpreter| interpreter.bias)),
        (AT_FLAGS, 0),
        (AT_ENTRY, program.entry),
        (AT_UID, user),
        (AT_EUID, user),
        (AT_GID, group),
        (AT_EGID, group),
        (AT_SECURE, 0),
        (AT_SYSINFO_EHDR, vdso),
    ]
}
