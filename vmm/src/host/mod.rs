//! What the VMM takes from its own operating system, each with an owner.

pub mod copy;
pub mod directory;
pub mod mapping;
