//! What can go wrong with a store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::batch::BatchError;

/// Bytes of a file that are not what they should be.
#[derive(Clone, PartialEq, Eq, Error, Debug)]
#[error("{}: byte {offset}: {what}", path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The byte of the file where it shows.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// Why a store can't do what it was asked to.
#[derive(Error, Debug)]
pub enum StoreError {
    /// The host refused an operation on a file.
    #[error("{}: can't {doing} it", path.display())]
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// Another writer has the store.
    #[error("{}: in use by {owner}; readers may go on, a second writer may not", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
        /// Who has it: process, host and since when, as the owner wrote it.
        owner: String,
    },
    /// The directory is no store.
    #[error("{}: not a store: {why}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or too much.
        why: &'static str,
    },
    /// Bytes of the store are not what was written. The damage is told here, so it isn't the source too.
    #[error("{0}; `cairn store verify` names all damage, older checkpoints may be whole")]
    Damaged(Damage),
    /// The store was written by a version of Cairn that this one doesn't know.
    #[error("{}: format version {found}, but this cairn reads version {known}; use the cairn that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is known.
        known: u32,
    },
    /// There is no such checkpoint, or there is none any more.
    #[error("no checkpoint {id} in {}; `cairn store ls` names those there are", path.display())]
    Unknown {
        /// The store.
        path: PathBuf,
        /// The id.
        id: u64,
    },
    /// The checkpoint has no such page.
    #[error("no page {page} in object number {object} of the checkpoint")]
    NoSuchPage {
        /// The object's place.
        object: u32,
        /// The page.
        page: u64,
    },
    /// The batch can't be committed as it is.
    #[error("checkpoint {id} can't be committed")]
    Batch {
        /// Its id.
        id: u64,
        /// Why.
        source: BatchError,
    },
    /// The store's files were deleted under its writer.
    #[error("{}: the store was deleted while in use; a checkpoint that is complete in itself begins it anew", path.display())]
    Deleted {
        /// The directory.
        path: PathBuf,
    },
    /// A chain of deltas is too long; compaction didn't get through.
    #[error("{}: checkpoint {id} is {length} deltas away from a complete one, and compaction can't go on", path.display())]
    Chain {
        /// The store.
        path: PathBuf,
        /// The checkpoint.
        id: u64,
        /// Deltas.
        length: usize,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn damage(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged(Damage { path: path.to_owned(), offset, what: what.into() })
    }
}
