//! What can be mapped, where, and why not.

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;

use crate::guest::app::files::OpenFile;
use crate::kvm::slots::SlotError;
use crate::memory::rights::Rights;

/// Why a mapping can't be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// More memory than the guest has.
    #[error("the guest's memory ({limit} bytes) is used up; give it more with --memory")]
    Memory {
        /// What it has.
        limit: u64,
    },
    /// No gap is long enough.
    #[error("the address space has no gap that is long enough")]
    Full,
    /// Not an address range that a program can have, or nothing is mapped there.
    #[error("the address range is not one that a program can map")]
    Range,
    /// Something is mapped there already, and the request forbids to replace it.
    #[error("something is mapped there already")]
    Taken,
    /// The host's kernel refused.
    #[error("the host refused the mapping")]
    Host(#[source] Errno),
    /// KVM refused.
    #[error(transparent)]
    Slots(#[from] SlotError),
}

impl SpaceError {
    /// What a system call answers.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Memory { .. } | Self::Full | Self::Slots(_) => Errno::ENOMEM,
            Self::Range => Errno::EINVAL,
            Self::Taken => Errno::EEXIST,
            Self::Host(errno) => *errno,
        }
    }
}

/// Where a mapping goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// There, instead of whatever is there (MAP_FIXED).
    Exactly(Range<u64>),
    /// There, if nothing is (MAP_FIXED_NOREPLACE).
    IfFree(Range<u64>),
    /// There if nothing is, else anywhere.
    Near(Range<u64>),
    /// Anywhere: this many bytes.
    Anywhere(u64),
}

impl Place {
    /// Bytes of what goes there.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Exactly(range) | Self::IfFree(range) | Self::Near(range) => {
                range.end.saturating_sub(range.start)
            }
            Self::Anywhere(len) => *len,
        }
    }
}

/// Which file a mapping shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSource {
    /// Its path in the guest.
    pub path: Arc<str>,
    /// The offset of the mapping's first byte, a whole number of pages.
    pub offset: u64,
    /// The program's own file that it is, if so.
    pub own: Option<OwnFile>,
}

/// A file that belongs to the program and may be changed by it, held open by a mapping as Linux does.
#[derive(Clone, Debug)]
pub struct OwnFile(pub Arc<OpenFile>);

/// The same open file.
impl PartialEq for OwnFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OwnFile {}

/// Whose the bytes of a file's mapping are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileBytes {
    /// The file's, until the program stores something (MAP_PRIVATE).
    Private,
    /// The file's (MAP_SHARED).
    Shared,
    /// The program's: it was brought back with them, and the file needn't be there.
    Copied,
}

/// What a mapping shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Private memory, zeroed at first.
    Anonymous,
    /// The heap (brk).
    Heap,
    /// The stack.
    Stack,
    /// The vDSO.
    Vdso,
    /// A file.
    File {
        /// Its path.
        path: Arc<str>,
        /// File offset minus address, so that neighbours of one mapping are equal.
        delta: u64,
        /// Whose its bytes are.
        bytes: FileBytes,
        /// The program's own file that it is, if so.
        own: Option<OwnFile>,
    },
    /// Anonymous memory of MAP_SHARED. With one process it differs from private memory in name, and in that
    /// MADV_DONTNEED leaves its content.
    Shared,
    /// A page of a PCI function's registers.
    Device {
        /// How often it's mapped: always at the same address.
        times: u32,
    },
}

impl Content {
    /// The path of the file that it is; nothing for anything else.
    pub(super) fn path(&self) -> &str {
        match self {
            Self::File { path, .. } => path,
            _ => "",
        }
    }
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// What the program may do.
    pub rights: Rights,
    /// What it shows.
    pub content: Content,
    /// Whether it counts against the guest's memory: private memory that is or was writable.
    pub(super) charged: bool,
}

impl Mapping {
    pub(super) fn new(rights: Rights, content: Content) -> Self {
        let mut mapping = Self { rights, content, charged: false };
        mapping.charged = mapping.is_private() && rights.write;
        mapping
    }

    /// The program's own file, if its bytes are those at any time (MAP_SHARED): a checkpoint has them with the file.
    #[must_use]
    pub fn shows(&self) -> Option<&OwnFile> {
        match &self.content {
            Content::File { bytes: FileBytes::Shared, own, .. } => own.as_ref(),
            _ => None,
        }
    }

    /// Whether its pages are those of a file that the host has mapped, and not the monitor's memory.
    #[must_use]
    pub fn is_of_host_file(&self) -> bool {
        matches!(self.content, Content::File { bytes: FileBytes::Private | FileBytes::Shared, .. })
    }

    pub(super) fn is_memory(&self) -> bool {
        matches!(self.content, Content::Anonymous | Content::Heap | Content::Stack | Content::Shared)
    }

    /// Whether other threads may read and write it by raw pointers.
    pub(super) fn is_plain(&self) -> bool {
        self.is_memory() && self.rights.includes(Rights::DATA)
    }

    /// Whether stores stay the program's own.
    pub(super) fn is_private(&self) -> bool {
        !matches!(self.content, Content::File { bytes: FileBytes::Shared, .. } | Content::Device { .. })
    }

    /// Bytes of `range`, of which this is the mapping, that count against the guest's memory.
    pub(super) fn charge(&self, range: &Range<u64>) -> u64 {
        if self.charged { range.end - range.start } else { 0 }
    }
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = match &self.content {
            Content::Anonymous | Content::Shared => "anonymous memory",
            Content::Heap => "the heap",
            Content::Stack => "the stack",
            Content::Vdso => "the vDSO",
            Content::File { path, .. } => path,
            Content::Device { .. } => "device registers",
        };
        write!(f, "{} {content}", self.rights)
    }
}
