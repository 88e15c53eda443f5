//! What a guest has open and what it keeps in memory, as plain data, and back.
//!
//! An image has the descriptors (each by the path, offset and flags of its open file), the working directory,
//! the umask, and the trees that belong to the guest with all their nodes. Bytes of files go beside it, page by
//! page, through [`FilePages`]. Files of the host are not in it: they are opened again and must still be what
//! they were. An image comes from a file and is a claim like everything that does.

mod objects;
mod pipes;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use cairn_abi::CheckpointId;
use nix::{errno::Errno, fcntl::OFlag};
use serde::{Deserialize, Serialize};

use super::{
    At, Caller, Files, MAX_DESCRIPTORS, OpenFile,
    backend::OpenRequest,
    facts::ProcessFacts,
    memory::{MAX_NODES, MemoryFile, MemoryTree, TreeImage},
    open::Object,
    path::GuestPath,
    status::{Status, Time},
};
use crate::host;
use objects::OpenImage;

/// Bytes of a page of a file in an image.
pub const FILE_PAGE: usize = host::PAGE;

/// Most names of a tree that an image may have: its nodes, and as many more that only descriptors hold.
pub(super) const MOST_NODES: usize = 2 * MAX_NODES;

/// Everything of [`Files`] but the bytes of the files in its trees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilesImage {
    umask: u32,
    limit: u64,
    /// Index in `open` of the working directory.
    directory: u32,
    open: Vec<OpenImage>,
    /// The descriptors: index in `open` and `FD_CLOEXEC`.
    slots: Vec<Option<(u32, bool)>>,
    /// Indices in `open` of the files that a mapping shows.
    mapped: Vec<u32>,
    /// The trees, each with the place where it is mounted; the last one has files without names.
    trees: Vec<(Vec<u8>, TreeImage)>,
}

/// Takes the bytes of files for an image.
pub trait FilePages {
    /// Whether the pages of the last image are still there, so that only those that changed since are wanted.
    fn incremental(&self) -> bool;

    /// A file of so many pages, with a name that is its own in all images of a guest. Answers a number for it.
    ///
    /// # Errors
    /// As the taker says.
    fn file(&mut self, name: &str, pages: u64) -> Result<u32, ImageError>;

    /// One page of it, with zeros behind the file's end.
    ///
    /// # Errors
    /// As the taker says.
    fn page(&mut self, file: u32, page: u64, bytes: &[u8; FILE_PAGE]) -> Result<(), ImageError>;
}

/// Has the bytes of files of an image.
pub trait FilePagesSource {
    /// A page of a file by the name under which it was taken; zeros if it was never given.
    ///
    /// # Errors
    /// As the source says.
    fn page(&self, name: &str, page: u64, bytes: &mut [u8; FILE_PAGE]) -> Result<(), ImageError>;
}

/// By what a file of the host is known again: with the same size and time of its last write it counts as the
/// same bytes, also where a copy of the directory gave it another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub inode: u64,
    pub size: i64,
    pub modified: Time,
}

/// Why files can't be put into an image, or not come back from one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The host refused something.
    #[error("{what}: {}", source.desc())]
    Host {
        /// What was tried.
        what: String,
        /// Its answer.
        #[source]
        source: Errno,
    },
    /// The taker or the source of pages failed.
    #[error("the bytes of a file: {0}")]
    Pages(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file of the host that the program had open isn't there any more, or can't be opened.
    #[error("{path}, which the program had open, can't be opened any more: {}", source.desc())]
    Gone {
        /// The file, in the guest.
        path: GuestPath,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A file of the host was changed or replaced.
    #[error(
        "{path}, which the program was using, is not the file that it was: it was changed since the checkpoint"
    )]
    Changed {
        /// The file, in the guest.
        path: GuestPath,
    },
    /// The image needs a directory that this guest doesn't have.
    #[error(
        "the checkpoint has files in {0}, and this guest has no such directory of its own: start it with the same --dir options"
    )]
    NoTree(GuestPath),
    /// The image contradicts itself.
    #[error("the checkpoint's files are damaged: {0}")]
    Invalid(&'static str),
}

impl ImageError {
    /// The host's refusal of something.
    pub(super) fn host(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }
}

impl From<&Status> for Identity {
    fn from(status: &Status) -> Self {
        Self { inode: status.inode, size: status.size, modified: status.modified }
    }
}

impl Identity {
    /// Whether this is the file that `before` was.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        self.size == before.size && self.modified == before.modified
    }

    /// Whether this is the file that `before` was, with more bytes by now.
    fn has_grown(&self, before: &Self) -> bool {
        self.inode == before.inode && before.size < self.size
    }
}

/// The open files of an image, each once.
#[derive(Default)]
struct OpenTable {
    files: Vec<Arc<OpenFile>>,
    numbers: HashMap<*const OpenFile, u32>,
}

impl OpenTable {
    fn number(&mut self, file: &Arc<OpenFile>) -> u32 {
        *self.numbers.entry(Arc::as_ptr(file)).or_insert_with(|| {
            self.files.push(Arc::clone(file));
            u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

impl Files {
    /// Puts everything into an image, and the bytes of files that belong to the guest into `pages`.
    ///
    /// The files `mapped` come back in this order, whether or not a descriptor has them. What can't come back, such as a pipe to another process, is marked in the image and named in the log.
    ///
    /// # Errors
    /// What `pages` says, and the host's refusals. The next image must then be complete: what this one took
    /// no longer counts as changed.
    pub fn image(
        &mut self,
        mapped: &[Arc<OpenFile>],
        pages: &mut dyn FilePages,
    ) -> Result<FilesImage, ImageError> {
        let mut table = OpenTable::default();
        let directory = table.number(&self.directory);
        let slots: Vec<Option<(u32, bool)>> = self
            .descriptors
            .slots()
            .map(|slot| slot.map(|(file, close_on_exec)| (table.number(file), close_on_exec)))
            .collect();
        let mapped = mapped.iter().map(|file| table.number(file)).collect();
        let memory: Vec<Arc<MemoryFile>> =
            table.files.iter().filter_map(|file| memory_of(file)).map(Arc::clone).collect();
        let mut trees = Vec::new();
        for (point, tree) in self.view.trees() {
            let number = trees.len();
            trees.push((point.as_bytes().to_vec(), tree.image(number, &memory, pages)?));
        }
        let open = objects::image(self, &table.files)?;
        for path in open.iter().filter_map(OpenImage::lost) {
            self.tell_lost(path);
        }
        let (umask, limit) = (self.umask, self.descriptors.limit());
        Ok(FilesImage { umask, limit, directory, open, slots, mapped, trees })
    }

    /// Takes everything back from an image, which is that of the checkpoint `from`, into files that were built from
    /// the same grants. Answers the files that were mapped.
    ///
    /// # Errors
    /// [`ImageError`]; these files are of no use then.
    pub fn restore(
        &mut self,
        facts: &dyn ProcessFacts,
        image: FilesImage,
        pages: &dyn FilePagesSource,
        from: CheckpointId,
    ) -> Result<Vec<Option<Arc<OpenFile>>>, ImageError> {
        let files = self.trees(image.trees, pages)?;
        let restored = objects::restore(self, facts, &image.open, &files, from)?;
        let file = |number: u32| {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            restored.get(index).ok_or(ImageError::Invalid("a descriptor of no file"))
        };
        let slots: Vec<Option<(Arc<OpenFile>, bool)>> = image
            .slots
            .iter()
            .map(|slot| match slot {
                Some((number, close_on_exec)) => {
                    Ok(file(*number)?.as_ref().map(|file| (Arc::clone(file), *close_on_exec)))
                }
                None => Ok(None),
            })
            .collect::<Result<_, ImageError>>()?;
        self.descriptors.replace(slots).map_err(|_| ImageError::Invalid("too many descriptors"))?;
        self.descriptors.set_limit(image.limit);
        match file(image.directory)? {
            Some(directory) if directory.directory().is_ok() => self.directory = Arc::clone(directory),
            _ => tracing::warn!("the program's working directory was removed; it has / instead"),
        }
        self.umask = image.umask & 0o777;
        image.mapped.iter().map(|number| Ok(file(*number)?.clone())).collect()
    }

    /// As [`restore`](Self::restore), but for what is open: that is of no interest where no program goes on.
    ///
    /// # Errors
    /// [`ImageError`]; these files are of no use then.
    pub fn restore_trees(
        &mut self,
        image: FilesImage,
        pages: &dyn FilePagesSource,
    ) -> Result<(), ImageError> {
        self.trees(image.trees, pages).map(drop)
    }

    fn trees(
        &self,
        images: Vec<(Vec<u8>, TreeImage)>,
        pages: &dyn FilePagesSource,
    ) -> Result<Vec<TreeFiles>, ImageError> {
        let mut files = Vec::with_capacity(images.len());
        for (number, (point, tree)) in images.into_iter().enumerate() {
            let point = GuestPath::from_image(&point).ok_or(ImageError::Invalid("a tree has no place"))?;
            let known = self.view.trees().find(|(known, _)| **known == point);
            let (_, known) = known.ok_or(ImageError::NoTree(point))?;
            files.push(known.restore(number, tree, pages)?);
        }
        Ok(files)
    }

    /// Tells once of something that can't come back.
    fn tell_lost(&mut self, path: &[u8]) {
        if self.told.len() < MAX_DESCRIPTORS && self.told.insert(path.to_vec()) {
            let path = String::from_utf8_lossy(path);
            tracing::warn!(%path, "the program has this open, and it can't come back from a checkpoint");
        }
    }

    /// Opens something again by its path.
    fn reopen(
        &self,
        facts: &dyn ProcessFacts,
        path: &GuestPath,
        flags: OFlag,
    ) -> Result<Arc<OpenFile>, ImageError> {
        let caller: Caller<'_> = self.caller(facts);
        let request = OpenRequest::new((flags | OFlag::O_NOFOLLOW).bits(), 0);
        self.view
            .open(&caller, &At::new(GuestPath::root(), path.as_bytes()), &request)
            .map_err(|source| ImageError::Gone { path: path.clone(), source })
    }

    /// Which of the standard streams an open file is.
    fn standard(&self, file: &Arc<OpenFile>) -> Option<u8> {
        let known = |stream: &Weak<OpenFile>| std::ptr::eq(stream.as_ptr(), Arc::as_ptr(file));
        self.descriptors.standard_streams().iter().position(known).and_then(|at| u8::try_from(at).ok())
    }
}

/// The memory file of an open file.
fn memory_of(file: &OpenFile) -> Option<&Arc<MemoryFile>> {
    match file.object() {
        Object::Memory(handle) => Some(handle.file()),
        _ => None,
    }
}

/// The tree of a number, and its files by their numbers.
type TreeFiles = HashMap<u64, Arc<MemoryFile>>;

/// Where a memory file is in an image.
fn place_of(files: &Files, file: &MemoryFile) -> Option<(u32, u64)> {
    let number = files.view.trees().position(|(_, tree): (_, &MemoryTree)| tree.number() == file.tree())?;
    Some((u32::try_from(number).ok()?, file.number()))
}
