//! Checkpoints on disk: a directory that a program's death, the monitor's and the machine's leave whole.
//!
//! A checkpoint is what a [`Batch`] says: named arrays of pages ([`Object`]), of which it holds those that changed
//! since its parent, and small named sections. The one [`Writer`] of a store appends it to a segment file; one
//! record at its end makes it valid. A [`Store`] reads, any time, also while the writer commits and compacts.
//! `docs/store-format.md` draws the files.
//!
//! Every byte that is read back is a claim: lengths and counts are bounded by the constants in the crate's `format`
//! module, contents by checksums, and what doesn't fit is a [`StoreError`] that names file and offset.

#![forbid(unsafe_code)]

mod error;
mod object;

mod batch;

mod format;

mod disk;

mod lock;

mod group;

mod catalogue;
mod layer;
mod scan;
mod snapshot;
mod store;
mod verify;

mod active;
mod compaction;
mod create;
mod state;
mod writer;

pub mod section;

pub use batch::{Batch, BatchError, Change};
pub use compaction::Progress;
pub use error::{Damage, StoreError};
pub use lock::Lock;
pub use object::{MAX_OBJECT_PAGES, NameError, Object, ObjectIndex, ObjectName};
pub use snapshot::Snapshot;
pub use store::{CheckpointInfo, Store};
pub use verify::{Verified, verify};
pub use writer::{Committed, Level, Options, Writer};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// Bytes in a chunk: the grain in which a page that changed little is stored.
pub const CHUNK_SIZE: usize = 64;
/// A page of zeros.
pub(crate) const ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

const _: () = assert!(PAGE_SIZE as u64 == cairn_abi::PAGE_SIZE);

#[cfg(test)]
mod tests;
