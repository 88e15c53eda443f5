//! A directory tree in the monitor's memory: /tmp, /dev/shm and the directories around the mounts.
//!
//! Names are maps; each file is a memfd, so that reading, writing, mapping and locking it are the host
//! kernel's own. Directory permissions are kept and shown but not enforced: the guest is one user, and
//! the tree is its own.

mod blocks;
mod budget;
mod changes;
mod directory;
mod file;
mod handle;
mod image;
mod lower;
mod names_image;
mod node;
mod plan;
mod tree;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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
    host::{HostTree, own_link},
    open::{Object, SynthesizedFile, SynthesizedHandle},
    path::{GuestPath, Inside, NAME_MAX},
    publish::Plan,
    status::Status,
};
use crate::memory::layout::PAGE;
use directory::MemoryDirectory;
use file::Home;
use lower::{Lower, is_owner};
use node::{Inode, Node};
use tree::{Found, Tree};

/// Most directories, files and links in one tree; bounds the monitor's memory for names and its
/// descriptors, one per file.
pub const MAX_NODES: usize = 1 << 16;

/// What a file's size is rounded up to when the budget is charged: a page, which is what a memfd takes.
const BLOCK_BYTES: u64 = PAGE;

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
        let tree = Tree::new(Home { tree: device, device, budget }, mode, owner());
        Self { tree: Arc::new(Mutex::new(tree)), mount_point, writable: true }
    }

    /// A tree that shows a directory of the host, which is never written to.
    pub(super) fn over(
        host: HostTree,
        mount_point: GuestPath,
        number: u64,
        budget: Arc<Budget>,
    ) -> Answer<Self> {
        let lower = Lower::new(host);
        let status = lower.status(Inside::new(b""))?;
        let tree = Tree::over(Home { tree: number, device: status.device, budget }, lower, &status, owner());
        Ok(Self { tree: Arc::new(Mutex::new(tree)), mount_point, writable: true })
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

    /// The host's directory that it shows.
    pub(super) fn host_path(&self) -> Option<PathBuf> {
        self.tree().lower().ok().map(|lower| lower.host().host_path().to_owned())
    }

    /// What must be done to that directory to make it what the tree shows.
    pub(super) fn plan(&self) -> Answer<Plan> {
        self.tree().plan()
    }

    /// Its number, which no other tree has.
    pub(super) fn number(&self) -> u64 {
        self.tree().home().tree
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree, for an operation that takes names of the host.
    fn roomy_tree(&self) -> MutexGuard<'_, Tree> {
        let mut tree = self.tree();
        tree.make_room();
        tree
    }

    fn check_writable(&self) -> Answer<()> {
        if self.writable { Ok(()) } else { Err(Errno::EROFS) }
    }

    fn open_node(&self, caller: &Caller<'_>, inode: Inode, request: &OpenRequest) -> Answer<Opened> {
        if request.creates_only() {
            return Err(Errno::EEXIST);
        }
        let mut tree = self.tree();
        let status = tree.status(inode)?;
        match status.kind() {
            libc::S_IFDIR => {
                drop(tree);
                return self.open_directory(caller, inode, request);
            }
            libc::S_IFLNK if request.has(OFlag::O_PATH | OFlag::O_NOFOLLOW) => {
                let handle = SynthesizedHandle::new(Box::new(NamedLink), status, request);
                return Ok(Opened::New(Object::Synthesized(handle)));
            }
            libc::S_IFLNK => return Err(Errno::ELOOP),
            _ if request.has(OFlag::O_DIRECTORY) => return Err(Errno::ENOTDIR),
            libc::S_IFREG => {}
            libc::S_IFSOCK => return Err(Errno::ENXIO),
            // A named pipe of the host leads to other processes, which an overlay must not.
            _ => return Err(Errno::EACCES),
        }
        if request.writes() {
            self.check_writable()?;
        }
        if !is_owner(status.user) && !request.has(OFlag::O_PATH) {
            check_rights(&tree, inode, request)?;
        }
        let file = tree.file(inode)?;
        drop(tree);
        Ok(Opened::New(Object::Memory(MemoryHandle::open(file, request.reopening())?)))
    }

    fn open_directory(&self, caller: &Caller<'_>, inode: Inode, request: &OpenRequest) -> Answer<Opened> {
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
        let tree = self.tree();
        let node = tree.directory(inode)?;
        let open = Arc::clone(&node.open);
        let lower = match &node.origin {
            Some(origin) if !request.has(OFlag::O_PATH) => Some(tree.lower()?.list(caller, &origin.path)?),
            _ => None,
        };
        drop(tree);
        let point = self.mount_point.clone();
        let directory = MemoryDirectory::new(Arc::clone(&self.tree), point, inode, lower, open);
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
            let _ = tree.find(at.split_last().ok_or(Errno::EISDIR)?.0)?;
            return Err(Errno::EROFS);
        }
        // Read-only or not, its maker may write through the descriptor that made it.
        let file = tree.make_file(at, 0o600)?;
        let handle = MemoryHandle::open(Arc::clone(&file), request.reopening())?;
        file.set_mode(request.mode())?;
        Ok(Opened::New(Object::Memory(handle)))
    }

    fn find_followed(tree: &Tree, at: Inside<'_>, follow: Follow) -> Answer<(Found, Status)> {
        let found = tree.find(at)?;
        let status = match &found {
            Found::Node(inode) => tree.status(*inode)?,
            Found::Lower(_, status) => *status,
        };
        if status.is_symlink() && follow == Follow::Yes { Err(Errno::ELOOP) } else { Ok((found, status)) }
    }

    /// The node at a place that is to be changed.
    fn take_followed(tree: &mut Tree, at: Inside<'_>, follow: Follow) -> Answer<Inode> {
        Self::find_followed(tree, at, follow)?;
        tree.take(at)
    }
}

/// Refuses to open somebody else's file for what the host's kernel would refuse.
fn check_rights(tree: &Tree, inode: Inode, request: &OpenRequest) -> Answer<()> {
    let path = match tree.node(inode)? {
        Node::Lower(node) => node.path.clone(),
        Node::File(file) => match &file.blocks().base {
            Some(base) => base.path.clone(),
            None => return Ok(()),
        },
        Node::Directory(_) | Node::Symlink(_) => return Ok(()),
    };
    let mut rights = AccessFlags::empty();
    let mode = request.flags() & OFlag::O_ACCMODE;
    rights.set(AccessFlags::R_OK, mode != OFlag::O_WRONLY);
    rights.set(AccessFlags::W_OK, request.writes());
    tree.lower()?.check_access(&path, rights)
}

fn owner() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

impl Backend for MemoryTree {
    fn writable(&self) -> bool {
        self.writable
    }

    fn tree(&self) -> Option<&MemoryTree> {
        self.writable.then_some(self)
    }

    fn shows(&self) -> Option<PathBuf> {
        self.host_path()
    }

    fn look(&self, caller: &Caller<'_>, at: Inside<'_>) -> Answer<Look> {
        let tree = self.tree();
        let inode = match tree.find(Inside::new(at.path))? {
            Found::Node(inode) => inode,
            Found::Lower(path, _) => return tree.lower()?.look(caller, &path),
        };
        Ok(match tree.node(inode)? {
            Node::Directory(_) => Look::Directory,
            Node::Symlink(node) => Look::Symlink(node.target.clone()),
            Node::File(_) => Look::Other,
            Node::Lower(node) => return tree.lower()?.look(caller, &node.path),
        })
    }

    fn status(&self, _caller: &Caller<'_>, at: Inside<'_>, follow: Follow) -> Answer<Status> {
        Ok(Self::find_followed(&self.tree(), at, follow)?.1)
    }

    fn open(&self, caller: &Caller<'_>, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened> {
        let taken = self.roomy_tree().take(at);
        match taken {
            Ok(inode) => self.open_node(caller, inode, request),
            Err(Errno::ENOENT) if request.creates() => self.create_file(at, request),
            Err(error) => Err(error),
        }
    }

    fn access(&self, caller: &Caller<'_>, at: Inside<'_>, follow: Follow, mode: u32) -> Answer<()> {
        let tree = self.tree();
        let inode = match Self::find_followed(&tree, at, follow)?.0 {
            Found::Node(inode) => inode,
            Found::Lower(path, _) => return tree.lower()?.access(caller, &path, follow, mode),
        };
        match tree.node(inode)? {
            Node::File(file) => {
                let mode = AccessFlags::from_bits_truncate(i32::try_from(mode).map_err(|_| Errno::EINVAL)?);
                faccessat(AT_FDCWD, &*own_link(file.memfd()), mode, AtFlags::empty())
            }
            Node::Lower(node) => tree.lower()?.access(caller, &node.path, follow, mode),
            Node::Directory(node) => match &node.origin {
                Some(origin) if !origin.new_mode => tree.lower()?.access(caller, &origin.path, follow, mode),
                _ if node.mode >> 6 & mode != mode && !geteuid().is_root() => Err(Errno::EACCES),
                _ => Ok(()),
            },
            Node::Symlink(_) => Ok(()),
        }
    }

    fn space(&self) -> Answer<Space> {
        Ok(space(&self.tree().home().budget))
    }

    fn make_mount_point(&self, at: Inside<'_>, last: bool) -> Answer<()> {
        let mut tree = self.tree();
        if let Ok(lower) = tree.lower() {
            return lower.host().make_mount_point(at, last);
        }
        tree.make_directory(at, 0o755)
    }

    fn make_directory(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        self.roomy_tree().make_directory(at, mode)
    }

    fn make_symlink(&self, target: &[u8], at: Inside<'_>) -> Answer<()> {
        self.roomy_tree().make_symlink(target, at)
    }

    fn remove(&self, at: Inside<'_>, what: Removal) -> Answer<()> {
        self.roomy_tree().remove(at, what)
    }

    fn rename(&self, from: Inside<'_>, to: Inside<'_>, how: Renaming) -> Answer<()> {
        self.roomy_tree().rename(from, to, how)
    }

    fn link(&self, from: Inside<'_>, to: Inside<'_>) -> Answer<()> {
        self.roomy_tree().link(from, to)
    }

    fn change_mode(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        let mut tree = self.roomy_tree();
        let inode = Self::take_followed(&mut tree, at, Follow::No)?;
        tree.change_mode(inode, mode)
    }

    fn change_times(&self, at: Inside<'_>, follow: Follow, times: &Times) -> Answer<()> {
        let mut tree = self.roomy_tree();
        let inode = Self::take_followed(&mut tree, at, follow)?;
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
