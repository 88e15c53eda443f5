//! The monitor that runs a program in a virtual machine and keeps its checkpoints.
//!
//! The modules are listed from the bottom up: each names only those above it in this list
//! (`tests/tidy.rs` checks that).

// They panic where nobody can be told: see `host::output`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod host;
pub mod memory;

pub mod kvm;

pub mod virtio;

pub mod devices;

pub mod checkpoint;

pub mod store;

pub mod guest;

pub mod machine;
