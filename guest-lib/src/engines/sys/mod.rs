//! What the engines ask of the kernel: one file per facility, and all of their unsafe code.

pub(super) mod pagemap;
pub(super) mod process;
pub(super) mod sigsegv;
pub(super) mod uffd;
pub(super) mod usage;
