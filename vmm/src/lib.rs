//! The virtual machine monitor as a library.

pub mod devices;
pub mod virtio;
