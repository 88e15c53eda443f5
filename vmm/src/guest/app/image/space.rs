//! What is mapped where.

use serde::{Deserialize, Serialize};

/// A program's mappings, in the order of their addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenSpace {
    /// The mappings.
    pub mappings: Vec<FrozenMapping>,
    /// The heap's start and end (brk).
    pub heap: [u64; 2],
    /// Bytes of private memory that it may have.
    pub limit: u64,
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenMapping {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Whether it can be read, written and executed.
    pub rights: [bool; 3],
    /// Whether it counts against the limit.
    pub charged: bool,
    /// What it shows.
    pub content: FrozenContent,
}

impl FrozenMapping {
    /// Whether there is a device behind it, and no bytes.
    #[must_use]
    pub fn is_device(&self) -> bool {
        matches!(self.content, FrozenContent::Device { .. })
    }
}

/// What a mapping shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FrozenContent {
    /// Private memory.
    Anonymous,
    /// The heap.
    Heap,
    /// The stack.
    Stack,
    /// The vDSO.
    Vdso,
    /// Anonymous memory of MAP_SHARED.
    Shared,
    /// A file, by its path and the offset minus the address. Its bytes are among the pages, so that the file needn't
    /// be there.
    File {
        /// The path in the guest.
        path: String,
        /// File offset minus address.
        delta: u64,
    },
    /// A file of the program's own, mapped shared. Its bytes are with the file.
    OwnFile {
        /// The path in the guest.
        path: String,
        /// File offset minus address.
        delta: u64,
        /// Which one, of those that [`AddressSpace::own_files`](crate::guest::app::space::AddressSpace::own_files)
        /// gave.
        file: u32,
    },
    /// A page of a device's registers.
    Device {
        /// How often it's mapped.
        times: u32,
    },
}
