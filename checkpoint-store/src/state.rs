//! What the writer and its compaction share.

use std::collections::BTreeMap;

use crate::format::manifest::{Entry, Manifest};

/// What the store holds, by the writer's knowledge.
#[derive(Debug)]
pub(crate) struct State {
    /// The manifest on the disk.
    pub(crate) manifest: Manifest,
    /// All checkpoints by id.
    pub(crate) entries: BTreeMap<u64, Entry>,
}
