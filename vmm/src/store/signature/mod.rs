//! Signatures of checkpoints: by whose `cairn` one was made, and that it is what was made.
//!
//! A checkpoint has a section `signature`, and beside each object `NAME` whose pages are read one by one, when they are
//! needed, an object `tags:NAME`:
//!
//! ```text
//!   page, 4 KiB        ──keyed hash──> its tag, 16 bytes; zeros for a page of zeros
//!   256 tags, a group  ──keyed hash──> the group's tag     (the 256 tags are a page of `tags:NAME`)
//!   the checkpoint's id, its sections, its objects with the groups' tags
//!                      ──keyed hash──> the code in `signature`
//! ```
//!
//! All this depends on what the checkpoint holds and not on which records it's spread over, so that compaction changes
//! nothing; and a page can be checked when it comes, by its group alone.

mod checked;
mod form;
mod key;
mod signer;
#[cfg(test)]
mod tests;

pub use checked::{CheckedSnapshot, ReadError, Unsigned};
pub use key::{Key, KeyError};
pub use signer::{SignError, Signer, Staged};
