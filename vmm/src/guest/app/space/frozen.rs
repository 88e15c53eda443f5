//! The address space as values and back.

use std::ops::Range;
use std::sync::Arc;

use nix::sys::mman::MmapAdvise;

use super::{AddressSpace, MAX_MAPPINGS};
use crate::guest::app::files::OpenFile;
use crate::guest::app::image::{FrozenContent, FrozenMapping, FrozenSpace, ThawError};
use crate::guest::app::mapping::{Content, FileBytes, Mapping, OwnFile, SpaceError};
use crate::memory::layout::{LARGE_PAGE, PAGE, is_program};
use crate::memory::rights::Rights;

/// Mappings that one change may have made beyond the most.
const LAST_CHANGE: usize = 8;

/// A mapping that can't be part of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnfreezableError {
    /// Others may write to it, and what the program writes is theirs at once.
    #[error(
        "the program has mapped {path} shared and writable, and what it stores there can't be taken back"
    )]
    SharedFile {
        /// The file's path.
        path: String,
    },
}

impl AddressSpace {
    /// As values.
    ///
    /// # Errors
    /// [`UnfreezableError`].
    pub fn freeze(&self) -> Result<FrozenSpace, UnfreezableError> {
        let own = self.own_files();
        let mappings = self.mappings.iter().map(|(range, mapping)| frozen(range, mapping, &own));
        Ok(FrozenSpace {
            mappings: mappings.collect::<Result<_, _>>()?,
            heap: [self.heap.start, self.heap.end],
            limit: self.limit,
        })
    }

    /// Makes the mappings of `frozen` in an address space without any. They have no content yet, and those of the
    /// program's own files wait for [`show_own_files`](Self::show_own_files).
    ///
    /// # Errors
    /// [`ThawError`]; the address space is of no use then.
    pub fn thaw(&mut self, frozen: &FrozenSpace) -> Result<(), ThawError> {
        const BAD: ThawError = ThawError::Impossible("list of mappings");
        if MAX_MAPPINGS + LAST_CHANGE < frozen.mappings.len() || frozen.heap[1] < frozen.heap[0] {
            return Err(BAD);
        }
        self.thaws = true;
        let mut last = 0;
        for mapping in &frozen.mappings {
            let range = mapping.start..mapping.end;
            if let FrozenContent::Device { times } = mapping.content {
                self.thaw_device(&range, mapping.rights, times)?;
                last = range.end;
                continue;
            }
            let is_whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
            if !is_program(&range) || !is_whole || range.start < last {
                return Err(BAD);
            }
            last = range.end;
            let start = range.start;
            self.thaw_mapping(range, mapping).map_err(|source| ThawError::Space { start, source })?;
        }
        self.heap = frozen.heap[0]..frozen.heap[1];
        Ok(())
    }

    fn thaw_device(&mut self, range: &Range<u64>, rights: [bool; 3], times: u32) -> Result<(), ThawError> {
        let [read, write, execute] = rights;
        let is_whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
        if range.end <= range.start || !is_whole || times == 0 || self.mappings.overlaps(range) {
            return Err(ThawError::Impossible("list of mappings"));
        }
        let start = range.start;
        let rights = Rights { read, write, execute };
        let mapped = self.map_device(range.clone(), rights);
        mapped.map_err(|source| ThawError::Space { start, source })?;
        self.mappings.insert(range.clone(), Mapping::new(rights, Content::Device { times }));
        Ok(())
    }

    fn thaw_mapping(&mut self, range: Range<u64>, frozen: &FrozenMapping) -> Result<(), SpaceError> {
        let [read, write, execute] = frozen.rights;
        let rights = Rights { read, write, execute };
        let content = match &frozen.content {
            FrozenContent::Anonymous => Content::Anonymous,
            FrozenContent::Heap => Content::Heap,
            FrozenContent::Stack => Content::Stack,
            FrozenContent::Vdso => Content::Vdso,
            FrozenContent::Shared => Content::Shared,
            FrozenContent::File { path, delta } | FrozenContent::OwnFile { path, delta, .. } => {
                Content::File {
                    path: path.as_str().into(),
                    delta: *delta,
                    bytes: FileBytes::Copied,
                    own: None,
                }
            }
            FrozenContent::Device { times } => Content::Device { times: *times },
        };
        let mut mapping = Mapping::new(rights, content);
        // What a file of the program's own will replace is only a place.
        mapping.charged =
            mapping.charged && !matches!(frozen.content, FrozenContent::OwnFile { .. }) || frozen.charged;
        self.admit(&range, &mapping)?;
        let window = self.memory.window();
        window.place_anonymous(range.clone(), rights.host()).map_err(SpaceError::Host)?;
        if LARGE_PAGE <= range.end - range.start {
            // Advice only, as when it was mapped first.
            let _ = window.advise(&range, MmapAdvise::MADV_HUGEPAGE);
        }
        self.enter(range, mapping).map(drop)
    }
}

fn frozen(
    range: &Range<u64>,
    mapping: &Mapping,
    own: &[Arc<OpenFile>],
) -> Result<FrozenMapping, UnfreezableError> {
    let Rights { read, write, execute } = mapping.rights;
    let content = match &mapping.content {
        Content::Anonymous => FrozenContent::Anonymous,
        Content::Heap => FrozenContent::Heap,
        Content::Stack => FrozenContent::Stack,
        Content::Vdso => FrozenContent::Vdso,
        Content::Shared => FrozenContent::Shared,
        Content::File { path, delta, bytes: FileBytes::Shared, own: Some(OwnFile(file)) } => {
            let number = own.iter().position(|known| Arc::ptr_eq(known, file)).unwrap_or(usize::MAX);
            let file = u32::try_from(number).unwrap_or(u32::MAX);
            FrozenContent::OwnFile { path: path.to_string(), delta: *delta, file }
        }
        Content::File { path, bytes: FileBytes::Shared, .. } if write => {
            return Err(UnfreezableError::SharedFile { path: path.to_string() });
        }
        Content::File { path, delta, .. } => FrozenContent::File { path: path.to_string(), delta: *delta },
        Content::Device { times } => FrozenContent::Device { times: *times },
    };
    let charged = mapping.charged;
    Ok(FrozenMapping { start: range.start, end: range.end, rights: [read, write, execute], charged, content })
}
