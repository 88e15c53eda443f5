//! A directory tree in the monitor's memory: /tmp, /dev/shm and the directories around the mounts.
//!
//! Names are maps; each file is a memfd, so that reading, writing, mapping and locking it are the host
//! kernel's own. Directory permissions are kept and shown but not enforced: the guest is one user, and
//! the tree is its own.

mod blocks;
mod budget;
mod directory;
mod file;
mod handle;
mod image;
mod node;
mod tree;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag},
    unistd::{AccessFlags, faccessat, getegid, geteuid},
};

pub use budget::Budget;
pub(super) use file::MemoryFile;
pub use file::{Part, Reserved};
pub use handle::MemoryHandle;
pub(super) use image::TreeImage;

use super::{
    Caller,
    backend::{Answer, Backend, Follow, Look, OpenRequest, Opened, Removal, Renaming, Space, Times},
    host::own_link,
    open::{Object, SynthesizedFile, SynthesizedHandle},
    path::{GuestPath, Inside, NAME_MAX},
    status::Status,
};
use directory::MemoryDirectory;
use node::{Inode, Node};
use tree::Tree;

/// Most directories, files and links in one tree; bounds the monitor's memory for names and its
/// descriptors, one per file.
pub const MAX_NODES: usize = 1 << 16;

/// What a file's size is rounded up to when the budget is charged: a page, which is what a memfd takes.
const BLOCK_BYTES: u64 = 4096;

/// A directory tree in memory.
#[derive(Debug)]
pub(super) struct MemoryTree {
    tree: Arc<Mutex<Tree>>,
    mount_point: GuestPath,
    writable: bool,
}

impl MemoryTree {
    /// An empty tree for the guest to write in. `device` is its file system number in stat; the bytes of
    /// files count on `budget`.
    pub(super) fn new(mount_point: GuestPath, device: u64, mode: u32, budget: Arc<Budget>) -> Self {
        let owner = (geteuid().as_raw(), getegid().as_raw());
        let tree = Tree::new(device, mode, owner, budget);
        Self { tree: Arc::new(Mutex::new(tree)), mount_point, writable: true }
    }

    /// The tree as the guest can't change it. The monitor itself still can.
    pub(super) fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// A tree that nothing is found in, for files that never have names.
    pub(super) fn unnamed_files(device: u64, budget: Arc<Budget>) -> Self {
        Self::new(GuestPath::root(), device, 0, budget)
    }

    /// A file without a name, open for reading and writing: memfd_create.
    pub(super) fn unnamed(&self) -> Answer<MemoryHandle> {
        let file = self.tree().make_unnamed(0o777)?;
        MemoryHandle::open(file, OFlag::O_RDWR | OFlag::O_CLOEXEC)
    }

    pub(super) fn mount_point(&self) -> &GuestPath {
        &self.mount_point
    }

    /// Its file system number, which no other tree has.
    pub(super) fn device(&self) -> u64 {
        self.tree().device()
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_writable(&self) -> Answer<()> {
        if self.writable { Ok(()) } else { Err(Errno::EROFS) }
    }

    fn open_node(&self, inode: Inode, request: &OpenRequest) -> Answer<Opened> {
        if request.creates_only() {
            return Err(Errno::EEXIST);
        }
        let tree = self.tree();
        let file = match tree.node(inode)? {
            Node::Directory(_) => {
                drop(tree);
                return self.open_directory(inode, request);
            }
            Node::Symlink(_) if request.has(OFlag::O_PATH | OFlag::O_NOFOLLOW) => {
                let status = tree.status(inode)?;
                let handle = SynthesizedHandle::new(Box::new(NamedLink), status, request);
                return Ok(Opened::New(Object::Synthesized(handle)));
            }
            Node::Symlink(_) => return Err(Errno::ELOOP),
            Node::File(_) if request.has(OFlag::O_DIRECTORY) => return Err(Errno::ENOTDIR),
            Node::File(file) => Arc::clone(file),
        };
        drop(tree);
        if request.writes() {
            self.check_writable()?;
        }
        Ok(Opened::New(Object::Memory(MemoryHandle::open(file, request.reopening())?)))
    }

    fn open_directory(&self, inode: Inode, request: &OpenRequest) -> Answer<Opened> {
        if request.unnamed() {
            if request.flags() & OFlag::O_ACCMODE == OFlag::O_RDONLY {
                return Err(Errno::EINVAL);
            }
            self.check_writable()?;
            let file = self.tree().make_unnamed(request.mode())?;
            let flags = request.reopening() - OFlag::O_TMPFILE;
            return Ok(Opened::New(Object::Memory(MemoryHandle::open(file, flags)?)));
        }
        if request.creates() || request.writes() {
            return Err(Errno::EISDIR);
        }
        let directory = MemoryDirectory::new(Arc::clone(&self.tree), self.mount_point.clone(), inode);
        Ok(Opened::Directory(Box::new(directory)))
    }

    fn create_file(&self, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened> {
        if at.directory {
            return Err(Errno::EISDIR);
        }
        if request.has(OFlag::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let mut tree = self.tree();
        if !self.writable {
            // A missing directory counts before a read-only file system.
            tree.find(at.split_last().ok_or(Errno::EISDIR)?.0)?;
            return Err(Errno::EROFS);
        }
        // Read-only or not, its maker may write through the descriptor that made it.
        let file = tree.make_file(at, 0o600)?;
        let handle = MemoryHandle::open(Arc::clone(&file), request.reopening())?;
        file.set_mode(request.mode())?;
        Ok(Opened::New(Object::Memory(handle)))
    }

    fn find_followed(tree: &Tree, at: Inside<'_>, follow: Follow) -> Answer<Inode> {
        let inode = tree.find(at)?;
        match tree.node(inode)? {
            Node::Symlink(_) if follow == Follow::Yes => Err(Errno::ELOOP),
            _ => Ok(inode),
        }
    }
}

impl Backend for MemoryTree {
    fn writable(&self) -> bool {
        self.writable
    }

    fn tree(&self) -> Option<&MemoryTree> {
        self.writable.then_some(self)
    }

    fn look(&self, _caller: &Caller<'_>, at: Inside<'_>) -> Answer<Look> {
        let tree = self.tree();
        Ok(match tree.node(tree.find(Inside::new(at.path))?)? {
            Node::Directory(_) => Look::Directory,
            Node::Symlink(node) => Look::Symlink(node.target.clone()),
            Node::File(_) => Look::Other,
        })
    }

    fn status(&self, _caller: &Caller<'_>, at: Inside<'_>, follow: Follow) -> Answer<Status> {
        let tree = self.tree();
        tree.status(Self::find_followed(&tree, at, follow)?)
    }

    fn open(&self, _caller: &Caller<'_>, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened> {
        let found = self.tree().find(at);
        match found {
            Ok(inode) => self.open_node(inode, request),
            Err(Errno::ENOENT) if request.creates() => self.create_file(at, request),
            Err(error) => Err(error),
        }
    }

    fn access(&self, _caller: &Caller<'_>, at: Inside<'_>, follow: Follow, mode: u32) -> Answer<()> {
        let tree = self.tree();
        match tree.node(Self::find_followed(&tree, at, follow)?)? {
            Node::File(file) => {
                let mode = AccessFlags::from_bits_truncate(i32::try_from(mode).map_err(|_| Errno::EINVAL)?);
                faccessat(AT_FDCWD, &*own_link(file.memfd()), mode, AtFlags::empty())
            }
            Node::Directory(node) if node.mode >> 6 & mode != mode && !geteuid().is_root() => {
                Err(Errno::EACCES)
            }
            Node::Directory(_) | Node::Symlink(_) => Ok(()),
        }
    }

    fn space(&self) -> Answer<Space> {
        Ok(space(self.tree().budget()))
    }

    fn make_mount_point(&self, at: Inside<'_>, _last: bool) -> Answer<()> {
        self.tree().make_directory(at, 0o755)
    }

    fn make_directory(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        self.tree().make_directory(at, mode)
    }

    fn make_symlink(&self, target: &[u8], at: Inside<'_>) -> Answer<()> {
        self.tree().make_symlink(target, at)
    }

    fn remove(&self, at: Inside<'_>, what: Removal) -> Answer<()> {
        self.tree().remove(at, what)
    }

    fn rename(&self, from: Inside<'_>, to: Inside<'_>, how: Renaming) -> Answer<()> {
        self.tree().rename(from, to, how)
    }

    fn link(&self, from: Inside<'_>, to: Inside<'_>) -> Answer<()> {
        self.tree().link(from, to)
    }

    fn change_mode(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        let mut tree = self.tree();
        let inode = tree.find(at)?;
        tree.change_mode(inode, mode)
    }

    fn change_times(&self, at: Inside<'_>, follow: Follow, times: &Times) -> Answer<()> {
        let mut tree = self.tree();
        let inode = Self::find_followed(&tree, at, follow)?;
        tree.change_times(inode, times)
    }
}

/// The space of a tree whose files count on a budget, shown as tmpfs.
fn space(budget: &Budget) -> Space {
    let free = budget.limit().saturating_sub(budget.used()) / BLOCK_BYTES;
    Space {
        kind: libc::TMPFS_MAGIC,
        block_size: i64::try_from(BLOCK_BYTES).unwrap_or(0),
        blocks: budget.limit() / BLOCK_BYTES,
        blocks_free: free,
        blocks_available: free,
        files: u64::try_from(MAX_NODES).unwrap_or(0),
        files_free: u64::try_from(MAX_NODES).unwrap_or(0),
        name_length: i64::try_from(NAME_MAX).unwrap_or(0),
        flags: 0,
    }
}

/// A symbolic link opened with `O_PATH`: there is nothing to read.
#[derive(Debug)]
struct NamedLink;

impl SynthesizedFile for NamedLink {
    fn read(&self, _offset: u64, _length: usize) -> Answer<Vec<u8>> {
        Err(Errno::EBADF)
    }

    fn size(&self) -> u64 {
        0
    }
}
