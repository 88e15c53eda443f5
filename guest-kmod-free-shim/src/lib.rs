//! A virtio driver in user space for the checkpoint device of `cairn-abi`: no kernel module, no privileged
//! code.
//!
//! # The way of a request
//!
//! ```text
//!  Client::checkpoint()                          the device
//!    |  encode into the request buffer               |
//!    |  available index + 1, fence                   |
//!    |  used flags say NO_NOTIFY?                    |
//!    |    yes: look at the used index, bounded  <----|  polls, serves, used index + 1
//!    |    no, or nothing came, or not for polling:  |
//!    |  16-bit store to the notification address --->|  serves before the store returns
//!    |  used index, id and length checked            |
//!    |  copy and decode the reply                    |
//!    |  Again: touch or settle what it lists, repeat |
//!    v  Ok, or ShimError
//! ```
//!
//! There is no interrupt, an unprivileged program could take none, and nothing sleeps but who waits for the disk.
//!
//! # Finding the device
//!
//! PCI functions are looked up in sysfs; the first one with the device's id whose `resource0` can be locked
//! by a record lock is ours. That file is the BAR, and mapping it is all the access that is needed. In a
//! guest without a kernel the hypervisor answers the same files, so that this is the only way.
//!
//! The capabilities in `config` say where the structures are; a program without rights sees only the header
//! of that file, and takes the places that belong to the device's revision.
//!
//! # What is trusted
//!
//! The hypervisor can read and write everything in the guest, so that checks here are not against malice.
//! They turn a hypervisor that is broken, of another version or gone into an error of this library, where the
//! program could otherwise read a wrong reply, touch memory that isn't its own, or hang.
//!
//! # Forks
//!
//! A forked child has its parent's session object and nothing of what is behind it: neither the BAR nor the
//! ring is mapped in it. It's told so by an error, and can open a session of its own.
//!
//! `unsafe` is in `mapping` (the BAR), `ring` (the page shared with the device), `origin` (the page that tells
//! a child from its parent), `lock` (a system call) and `touch` (pages of regions).

mod capabilities;
mod claim;
mod client;
mod error;
mod find;
mod hints;
mod lock;
mod mapping;
mod origin;
mod registers;
mod ring;
mod start;
mod touch;
mod transport;

pub use capabilities::LayoutError;
pub use client::Client;
pub use error::ShimError;
pub use find::{FindError, PCI_DEVICES};
pub use start::StartError;
pub use touch::RegionMemory;
pub use transport::{CallError, Transport};

/// [`cairn_abi::PAGE_SIZE`] as a length of memory.
const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == cairn_abi::PAGE_SIZE);

#[cfg(test)]
mod fake;
