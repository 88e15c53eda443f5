//! The virtual machine monitor as a library.

pub mod guest;
pub mod host;
