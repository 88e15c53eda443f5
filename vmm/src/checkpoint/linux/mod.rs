//! Checkpoints of programs in a Linux guest, whose kernel gives their pages frames and takes them away.
//!
//! [`frames`] knows who depends on which frame, `tracked` what is known of one region's pages, [`tracker`]
//! keeps that true by the page tables and the dirty log, and tells the engine what was written. [`LinuxKeeper`] does a
//! session's effects.

pub mod frames;
mod keeper;
mod kvm_log;
mod tracked;
pub mod tracker;

pub use keeper::LinuxKeeper;
pub use kvm_log::KvmLog;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
pub(crate) mod testing;
