//! What the VMM takes from its own operating system, each with an owner.

pub mod calls;
pub mod copy;
pub mod mapping;
pub mod output;
pub mod pagemap;
pub mod private;
pub mod random;
pub mod signal;
pub mod thread;
pub mod tsc;
pub mod userfault;

/// Bytes of the host's page.
pub const PAGE: usize = 4096;
