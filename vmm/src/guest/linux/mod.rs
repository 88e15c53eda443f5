//! The Linux guest: a stock distribution's kernel in the memory that it finds at boot.

pub mod acpi;
pub mod cpio;
pub mod cpu;
pub mod firmware;
pub mod initramfs;
pub mod loader;
