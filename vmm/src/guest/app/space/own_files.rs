//! Mappings of files that belong to the program: what it keeps in private directories and in overlays.
//!
//! A shared mapping is the file: what write(2) puts there shows in it at once. So a checkpoint has the file and not
//! the mapping's pages, and maps the file again. A private mapping has the file's bytes where nothing was stored into
//! it, and a checkpoint has its pages.

use std::sync::Arc;

use nix::errno::Errno;

use super::AddressSpace;
use crate::guest::app::files::{Object, OpenFile};
use crate::guest::app::image::{FrozenContent, FrozenSpace, ThawError};
use crate::guest::app::mapping::{Content, FileBytes, FileSource, OwnFile, Place, SpaceError};
use crate::memory::rights::Rights;

impl AddressSpace {
    /// The program's own files that are mapped shared, each once, in the order of their first mapping.
    #[must_use]
    pub fn own_files(&self) -> Vec<Arc<OpenFile>> {
        let mut files: Vec<Arc<OpenFile>> = Vec::new();
        for OwnFile(file) in self.mappings.iter().filter_map(|(_, mapping)| mapping.shows()) {
            if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
                files.push(Arc::clone(file));
            }
        }
        files
    }

    /// Maps the program's own files, which it has again, where `frozen` says. Their order is that of
    /// [`own_files`](Self::own_files) when it was frozen.
    ///
    /// # Errors
    /// [`ThawError`]; the address space is of no use then.
    pub fn show_own_files(
        &mut self,
        frozen: &FrozenSpace,
        files: &[Option<Arc<OpenFile>>],
    ) -> Result<(), ThawError> {
        const BAD: ThawError = ThawError::Impossible("mapping of a file");
        for mapping in &frozen.mappings {
            let FrozenContent::OwnFile { path, delta, file } = &mapping.content else { continue };
            let file = usize::try_from(*file).ok().and_then(|file| files.get(file)?.as_ref()).ok_or(BAD)?;
            let offset = delta.wrapping_add(mapping.start);
            let [read, write, execute] = mapping.rights;
            let source =
                FileSource { path: path.as_str().into(), offset, own: Some(OwnFile(Arc::clone(file))) };
            let place = Place::Exactly(mapping.start..mapping.end);
            let mapped = self.map_own_file(place, Rights { read, write, execute }, true, file, source);
            mapped.map_err(|source| ThawError::Space { start: mapping.start, source })?;
        }
        self.thaws = false;
        Ok(())
    }

    /// Maps a file of the program's own.
    ///
    /// # Errors
    /// [`SpaceError`], and in it ENODEV for another kind of file.
    pub fn map_own_file(
        &mut self,
        place: Place,
        rights: Rights,
        shared: bool,
        file: &OpenFile,
        source: FileSource,
    ) -> Result<std::ops::Range<u64>, SpaceError> {
        let Object::Memory(handle) = file.object() else { return Err(SpaceError::Host(Errno::ENODEV)) };
        let bytes = source.offset..source.offset.saturating_add(place.length());
        let mapped = handle.map(&bytes, shared, |fd| self.map_file(place, rights, shared, fd, source));
        // Linux mmap has no ENOSPC.
        mapped
            .map_err(|errno| SpaceError::Host(if errno == Errno::ENOSPC { Errno::ENOMEM } else { errno }))?
    }

    /// Counts as changed what private mappings show of files whose bytes changed since they were last given to an
    /// image: stores that the program made elsewhere.
    ///
    /// # Errors
    /// The host's.
    pub fn mark_changed_files(&self) -> Result<(), Errno> {
        for (range, mapping) in self.mappings.iter() {
            let Content::File { delta, bytes: FileBytes::Private, own: Some(OwnFile(file)), .. } =
                &mapping.content
            else {
                continue;
            };
            let Object::Memory(handle) = file.object() else { continue };
            let shown = delta.wrapping_add(range.start)..delta.wrapping_add(range.end);
            for changed in handle.changed()? {
                let (start, end) = (changed.start.max(shown.start), changed.end.min(shown.end));
                if start < end {
                    self.memory.renew(&(start.wrapping_sub(*delta)..end.wrapping_sub(*delta)));
                }
            }
        }
        Ok(())
    }
}
