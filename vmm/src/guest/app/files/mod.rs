//! The files of the guest: what it sees, what it has open, and how its paths are found.
//!
//! The program in the guest is hostile. It reaches the host's files only through [`view::FileView`], which
//! holds a mount table of the guest's own: directories of the host that were granted (`host`), trees in
//! memory (`memory`) and files that the monitor makes up (`synthetic`). Symbolic links are followed in
//! that tree, by the monitor, and never by the host's kernel.

mod backend;
mod descriptors;
mod facts;
mod hidden;
mod host;
mod image;
mod layout;
mod listing;
mod memory;
mod open;
mod operations;
mod path;
mod publish;
mod status;
mod synthetic;
mod view;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use nix::{errno::Errno, fcntl::OFlag};

pub use backend::{Follow, OpenRequest, PERMISSIONS, Removal, Renaming, Space, Times};
pub use descriptors::{Descriptors, MAX_DESCRIPTORS};

pub use facts::{MappingFacts, ProcessFacts, Usage};
pub use image::{FILE_PAGE, FilePages, FilePagesSource, FilesImage, ImageError};
pub use layout::{Grant, Layout, LayoutError};
pub use listing::LISTING_BYTES;
pub use memory::{Budget, MAX_NODES, MemoryHandle, Part, Reserved};
pub use open::{DirectoryHandle, Object, OpenFile, PciBarHandle, StreamHandle, SynthesizedHandle};
pub use operations::check_owner;
pub use path::{GuestPath, NAME_MAX, PATH_MAX};
pub use publish::{Conflict, Left, PublishError, Published, resume};
pub use status::{STAT_BYTES, STATX_BYTES, Status, Time};
pub use synthetic::{Bar, PciIds, PciSysfs, Request, SharedPci, WholeCheckpoints, random_uuid};
pub use view::{At, FileView, MAX_LINKS};

/// The mode creation mask that a guest starts with.
const FIRST_UMASK: u32 = 0o022;

/// All that a process has to do with files.
#[derive(Debug)]
pub struct Files {
    view: FileView,
    descriptors: Descriptors,
    directory: Arc<OpenFile>,
    umask: u32,
    /// Paths that the log named because they can't come back from a checkpoint.
    told: BTreeSet<Vec<u8>>,
}

/// The process on whose behalf something is looked up: /proc/self means it.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    view: &'a FileView,
    descriptors: &'a Descriptors,
    directory: &'a OpenFile,
    umask: u32,
    facts: &'a dyn ProcessFacts,
}

impl Files {
    /// The files of a process that starts in a directory of the guest.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` or `EACCES` when it can't start there.
    pub fn new(view: FileView, descriptors: Descriptors, start: &GuestPath) -> Result<Self, Errno> {
        let request = OpenRequest::new((OFlag::O_PATH | OFlag::O_DIRECTORY).bits(), 0);
        let at = At::new(GuestPath::root(), start.as_bytes());
        let directory = view.as_nobody(|caller| view.open(caller, &at, &request))?;
        Ok(Self { view, descriptors, directory, umask: FIRST_UMASK, told: BTreeSet::new() })
    }

    /// The tree.
    #[must_use]
    pub fn view(&self) -> &FileView {
        &self.view
    }

    /// The descriptor table.
    #[must_use]
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// The descriptor table, to change it.
    pub fn descriptors_mut(&mut self) -> &mut Descriptors {
        &mut self.descriptors
    }

    /// Who asks, for the view's operations.
    #[must_use]
    pub fn caller<'a>(&'a self, facts: &'a dyn ProcessFacts) -> Caller<'a> {
        Caller {
            view: &self.view,
            descriptors: &self.descriptors,
            directory: &self.directory,
            umask: self.umask,
            facts,
        }
    }

    /// A path of a system call that ends in `at`: relative to a directory's descriptor or to `AT_FDCWD`.
    ///
    /// # Errors
    /// `EBADF` and `ENOTDIR` for the descriptor, `ENOENT` when its directory was removed.
    pub fn at<'a>(&self, directory: i32, path: &'a [u8]) -> Result<At<'a>, Errno> {
        let base = if path.first() == Some(&b'/') {
            GuestPath::root()
        } else if directory == libc::AT_FDCWD {
            self.directory.current_path()?
        } else {
            let file = self.descriptors.get(directory)?;
            file.directory()?;
            file.current_path()?
        };
        Ok(At::new(base, path))
    }

    /// Opens a file and gives it the lowest free descriptor: openat.
    ///
    /// # Errors
    /// As [`FileView::open`], and `EMFILE`.
    pub fn open(
        &mut self,
        facts: &dyn ProcessFacts,
        at: &At<'_>,
        request: OpenRequest,
        close_on_exec: bool,
    ) -> Result<i32, Errno> {
        // Before the file is made or cut: with no number left for it, nothing may happen.
        self.descriptors.check_room()?;
        let file = self.view.open(&self.caller(facts), at, &request.masked(self.umask))?;
        self.descriptors.insert(file, close_on_exec)
    }

    /// The directory that relative paths start from: getcwd.
    ///
    /// # Errors
    /// `ENOENT` when it was removed.
    pub fn directory(&self) -> Result<GuestPath, Errno> {
        self.directory.current_path()
    }

    /// The open directory that relative paths start from.
    #[must_use]
    pub fn directory_file(&self) -> &Arc<OpenFile> {
        &self.directory
    }

    /// chdir.
    ///
    /// # Errors
    /// Those of the lookup, `ENOTDIR`, `EACCES`.
    pub fn change_directory(&mut self, facts: &dyn ProcessFacts, at: &At<'_>) -> Result<(), Errno> {
        let request = OpenRequest::new((OFlag::O_PATH | OFlag::O_DIRECTORY).bits(), 0);
        let directory = self.view.open(&self.caller(facts), at, &request)?;
        directory.directory()?;
        // X_OK
        self.view.access(&self.caller(facts), at, Follow::Yes, 1)?;
        self.directory = directory;
        Ok(())
    }

    /// fchdir.
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`.
    pub fn change_directory_to(&mut self, number: i32) -> Result<(), Errno> {
        let file = self.descriptors.get(number)?;
        file.directory()?;
        self.directory = file;
        Ok(())
    }

    /// The mode creation mask.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.umask
    }

    /// Sets the mode creation mask and gives the one before. Only permission bits count.
    pub fn set_umask(&mut self, umask: u32) -> u32 {
        std::mem::replace(&mut self.umask, umask & 0o777)
    }
}

impl std::fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("id", &self.facts.id()).finish_non_exhaustive()
    }
}
