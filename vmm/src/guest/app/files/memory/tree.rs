//! The names of a memory tree: directories, links, and which file each name means.
//!
//! A tree may lie over a directory of the host. A name that it doesn't know is then looked up there, and a
//! node for it is made when it is opened or changed: it is *taken*. Only the root is taken from the start. A
//! directory keeps the names of the host that the guest removed or replaced, and a directory that was renamed
//! still shows what the host has at its old place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    super::{
        backend::Answer,
        path::{Inside, PATH_MAX, check_name},
        status::Status,
    },
    BLOCK_BYTES, MAX_NODES,
    blocks::Base,
    file::{Home, MemoryFile},
    lower::{Lower, LowerNode},
    node::{Directory, Inode, Node},
};

/// The root directory.
pub(super) const ROOT: Inode = 1;

/// Listing positions 1 and 2 are those of `.` and `..`.
pub(super) const FIRST_COOKIE: i64 = 3;

/// Most names that a guest can make in one tree in all its life; bounds listing positions.
pub(super) const LAST_COOKIE: i64 = (1 << 32) - (1 << 17);

/// Most names of the host that an overlay remembers because the guest changed or removed them; bounds the
/// monitor's memory.
pub(in crate::guest::app::files) const MAX_TAKEN: usize = 1 << 18;

/// First number of a file that a guest makes over a directory of the host, beyond those that file systems
/// give to theirs.
const FIRST_OVERLAY_INODE: u64 = 1 << 62;

/// A directory tree in memory.
#[derive(Debug)]
pub(in crate::guest::app::files) struct Tree {
    pub(super) nodes: HashMap<Inode, Node>,
    pub(super) next_inode: Inode,
    pub(super) next_cookie: i64,
    pub(super) owner: (u32, u32),
    pub(super) home: Arc<Home>,
    pub(super) lower: Option<Lower>,
    /// The nodes of the host's files that were taken, by the host's device and number: hard links are one.
    pub(super) of_host: HashMap<(u64, u64), Inode>,
    /// The host's names that were taken, by their paths below the granted directory.
    pub(super) taken: BTreeMap<Vec<u8>, Taken>,
    /// Names taken since those that nobody uses were forgotten.
    fresh: usize,
}

/// A name of the host that the tree has a node for, or had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub inode: Inode,
    /// The directory that it was taken in.
    pub parent: Inode,
    /// What the host told of it.
    pub status: Status,
}

/// What is at a place.
#[derive(Debug)]
pub(super) enum Found {
    Node(Inode),
    /// On the host, at this path below the granted directory; nobody took it yet.
    Lower(Vec<u8>, Status),
}

impl Tree {
    /// A tree with an empty root directory.
    pub(super) fn new(home: Home, mode: u32, owner: (u32, u32)) -> Self {
        let nodes = HashMap::from([(ROOT, Node::Directory(Directory::new(ROOT, mode)))]);
        Self {
            nodes,
            next_inode: ROOT + 1,
            next_cookie: FIRST_COOKIE,
            owner,
            home: Arc::new(home),
            lower: None,
            of_host: HashMap::new(),
            taken: BTreeMap::new(),
            fresh: 0,
        }
    }

    /// A tree over a directory of the host, of which `status` tells.
    pub(super) fn over(home: Home, lower: Lower, status: &Status, owner: (u32, u32)) -> Self {
        let next_inode = FIRST_OVERLAY_INODE + ((home.tree & 0xffff) << 40);
        let root = Directory::of_host(ROOT, Vec::new(), status);
        let mut tree = Self::new(home, 0, owner);
        tree.nodes.insert(ROOT, Node::Directory(root));
        Self { lower: Some(lower), next_inode, ..tree }
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(super) fn node(&self, inode: Inode) -> Answer<&Node> {
        self.nodes.get(&inode).ok_or(Errno::ENOENT)
    }

    /// What is at a place; `ELOOP` when the way, or the end where only a directory will do, is a link.
    pub(super) fn find(&self, at: Inside<'_>) -> Answer<Found> {
        let mut inode = ROOT;
        let mut names = at.names();
        while let Some(name) = names.next() {
            check_name(name)?;
            let directory = self.directory(inode)?;
            if let Some(child) = directory.get(name) {
                inode = child;
                continue;
            }
            let mut path = directory.host_path(name).ok_or(Errno::ENOENT)?;
            for name in names {
                path.push(b'/');
                path.extend_from_slice(name);
            }
            let status = self.lower()?.status(Inside { path: &path, directory: at.directory })?;
            return Ok(match self.of_host.get(&(status.device, status.inode)) {
                Some(inode) => Found::Node(*inode),
                None => Found::Lower(path, status),
            });
        }
        if at.directory {
            self.directory(inode)?;
        }
        Ok(Found::Node(inode))
    }

    /// The node at a place, which is taken from the host if it wasn't.
    pub(super) fn take(&mut self, at: Inside<'_>) -> Answer<Inode> {
        let mut inode = ROOT;
        for name in at.names() {
            inode = self.child(inode, name)?.ok_or(Errno::ENOENT)?;
        }
        if at.directory {
            self.directory(inode)?;
        }
        Ok(inode)
    }

    /// The directory that holds a place, and the last name.
    pub(super) fn take_parent<'a>(&mut self, at: Inside<'a>) -> Answer<(Inode, &'a [u8])> {
        let (parent, name) = at.split_last().ok_or(Errno::EBUSY)?;
        let parent = self.take(parent)?;
        self.directory(parent)?;
        check_name(name)?;
        Ok((parent, name))
    }

    /// What a name in a directory means; the host's is taken.
    pub(super) fn child(&mut self, parent: Inode, name: &[u8]) -> Answer<Option<Inode>> {
        check_name(name)?;
        let directory = self.directory(parent)?;
        if let Some(inode) = directory.get(name) {
            return Ok(Some(inode));
        }
        let Some(path) = directory.host_path(name) else { return Ok(None) };
        match self.lower()?.status(Inside::new(&path)) {
            Ok(status) => self.take_name_of_host(parent, name, path, status).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn take_name_of_host(
        &mut self,
        parent: Inode,
        name: &[u8],
        path: Vec<u8>,
        status: Status,
    ) -> Answer<Inode> {
        if MAX_NODES <= self.nodes.len() || MAX_TAKEN <= self.taken.len() {
            return Err(Errno::ENOSPC);
        }
        let cookie = self.next_cookie()?;
        self.home.budget.take(BLOCK_BYTES)?;
        self.fresh += 1;
        let key = (status.device, status.inode);
        let known = self.of_host.get(&key).copied();
        let inode = known.unwrap_or(self.next_inode);
        if known.is_none() {
            self.next_inode += 1;
            let node = if status.is_directory() {
                Node::Directory(Directory::of_host(parent, path.clone(), &status))
            } else {
                self.of_host.insert(key, inode);
                Node::Lower(LowerNode { path: path.clone(), status, links: status.links })
            };
            self.nodes.insert(inode, node);
        }
        self.directory_mut(parent)?.put_of_host(name, inode, cookie);
        self.taken.insert(path, Taken { inode, parent, status });
        Ok(inode)
    }

    /// Before an operation, after which what it looked up must still be there: forgets what nobody uses, if
    /// there is much of it.
    pub(super) fn make_room(&mut self) {
        // The longest path has as many names.
        let full = MAX_NODES <= self.nodes.len() + PATH_MAX || self.home.budget.is_short();
        let idle = self.home.budget.idle_files().max(self.taken.len() / 8);
        if self.lower.is_some() && self.fresh != 0 && (full || idle <= self.fresh) {
            self.forget_untouched();
        }
    }

    /// Drops the nodes that are as the host has them and that nobody uses.
    pub(super) fn forget_untouched(&mut self) {
        self.fresh = 0;
        // A path comes before those below it, so that backwards the deepest come first.
        let untouched: Vec<Vec<u8>> = self.taken.keys().rev().cloned().collect();
        for path in untouched {
            if self.is_untouched(&path) {
                self.forget(&path);
            }
        }
    }

    fn is_untouched(&self, path: &[u8]) -> bool {
        let Some(taken) = self.taken.get(path) else { return false };
        let name = last_name(path);
        let in_place = self
            .directory(taken.parent)
            .is_ok_and(|parent| parent.get(name) == Some(taken.inode) && parent.is_of_host(name));
        in_place
            && match self.nodes.get(&taken.inode) {
                Some(Node::Directory(directory)) => directory.is_untouched(),
                Some(Node::Lower(node)) => node.links == node.status.links && node.links == 1,
                Some(Node::File(file)) => {
                    // Of several links the others may have been used as well.
                    let alone = taken.status.links == 1 && file.links() == 1;
                    alone && Arc::strong_count(file) == 1 && !file.blocks().modified
                }
                Some(Node::Symlink(_)) | None => false,
            }
    }

    fn forget(&mut self, path: &[u8]) {
        let Some(taken) = self.taken.remove(path) else { return };
        self.nodes.remove(&taken.inode);
        self.of_host.remove(&(taken.status.device, taken.status.inode));
        if let Ok(parent) = self.directory_mut(taken.parent) {
            parent.forget(last_name(path));
            self.home.budget.give_back(BLOCK_BYTES);
        }
    }

    /// The file of a node, which shows the host's until it is written to.
    pub(super) fn file(&mut self, inode: Inode) -> Answer<Arc<MemoryFile>> {
        let node = match self.node(inode)? {
            Node::File(file) => return Ok(Arc::clone(file)),
            Node::Lower(node) => node.clone(),
            Node::Directory(_) => return Err(Errno::EISDIR),
            Node::Symlink(_) => return Err(Errno::ELOOP),
        };
        let (fd, status) = self.lower()?.open(&node.path)?;
        if (status.device, status.inode) != (node.status.device, node.status.inode) {
            // Replaced on the host since it was looked up.
            return Err(Errno::ESTALE);
        }
        if let Some(taken) = self.taken.get_mut(&node.path) {
            // From now on the guest counts on what the host has.
            taken.status = status;
        }
        let base = Base { fd, path: node.path, end: status.size.unsigned_abs(), status };
        let file = Arc::new(MemoryFile::over(&self.home, inode, base)?);
        file.set_links(node.links);
        self.nodes.insert(inode, Node::File(Arc::clone(&file)));
        Ok(file)
    }

    pub(super) fn directory(&self, inode: Inode) -> Answer<&Directory> {
        match self.node(inode)? {
            Node::Directory(directory) => Ok(directory),
            Node::Symlink(_) => Err(Errno::ELOOP),
            Node::Lower(node) if node.status.is_symlink() => Err(Errno::ELOOP),
            Node::File(_) | Node::Lower(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn directory_mut(&mut self, inode: Inode) -> Answer<&mut Directory> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    pub(super) fn status(&self, inode: Inode) -> Answer<Status> {
        let (mode, links, size, times) = match self.node(inode)? {
            Node::File(file) => return file.status(),
            Node::Lower(node) => return Ok(Status { links: node.links, ..node.status }),
            Node::Directory(node) => match &node.origin {
                Some(origin) => return Ok(node.over(&self.origin_status(&origin.path, &origin.status))),
                None => (libc::S_IFDIR | node.mode, node.links(), node.len(), node.times),
            },
            Node::Symlink(node) => (libc::S_IFLNK | 0o777, node.links, node.target.len(), node.times),
        };
        Ok(Status {
            device: self.home.device,
            inode,
            mode,
            links,
            user: self.owner.0,
            group: self.owner.1,
            node: 0,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            block_size: i64::try_from(BLOCK_BYTES).unwrap_or(0),
            blocks: 0,
            accessed: times.accessed,
            modified: times.modified,
            changed: times.changed,
        })
    }

    /// What the host tells of a directory now, or told when it was taken.
    fn origin_status(&self, path: &[u8], before: &Status) -> Status {
        self.lower().and_then(|lower| lower.status(Inside::new(path))).unwrap_or(*before)
    }

    pub(super) fn lower(&self) -> Answer<&Lower> {
        self.lower.as_ref().ok_or(Errno::ENOENT)
    }

    /// The nodes by their numbers.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Inode, &Node)> {
        let mut inodes: Vec<Inode> = self.nodes.keys().copied().collect();
        inodes.sort_unstable();
        inodes.into_iter().filter_map(|inode| Some((inode, self.nodes.get(&inode)?)))
    }

    /// The names that lead from the root to a directory.
    pub(super) fn names_to(&self, inode: Inode) -> Answer<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut at = inode;
        while at != ROOT {
            let parent = self.directory(at)?.parent;
            names.push(self.directory(parent)?.name_of(at).ok_or(Errno::ENOENT)?.to_vec());
            at = parent;
        }
        names.reverse();
        Ok(names)
    }

    /// A listing position for a new name.
    pub(super) fn next_cookie(&mut self) -> Answer<i64> {
        if LAST_COOKIE <= self.next_cookie {
            return Err(Errno::ENOSPC);
        }
        self.next_cookie += 1;
        Ok(self.next_cookie - 1)
    }
}

/// The name at the end of a path below the granted directory.
pub(in crate::guest::app::files) fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}
