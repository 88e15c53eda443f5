//! KVM's file descriptors, one file each, and the memslots.

pub mod dirty_log;
pub mod slots;
pub mod state;
pub mod system;
pub mod vcpu;
pub mod vm;
