//! KVM's file descriptors, one file each, and the memslots.

pub mod dirty_log;
pub mod dirty_ring;
#[cfg(test)]
mod dirty_ring_tests;
pub mod kernel_vcpu;
pub mod ram_slots;
pub mod slots;
pub mod state;
pub mod system;
pub mod vcpu;
pub mod vm;
