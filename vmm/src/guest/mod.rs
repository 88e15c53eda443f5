//! What runs in a virtual machine.

pub mod app;
pub mod linux;
