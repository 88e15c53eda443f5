//! Objects of the host operating system, each with an owner.

pub mod directory;
