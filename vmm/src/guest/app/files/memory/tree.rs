//! The names of a memory tree: directories, links, and which file each name means.

use std::{collections::HashMap, sync::Arc};

use nix::errno::Errno;

use super::{
    super::{
        backend::{Answer, Removal, Renaming, Times},
        image::ImageError,
        path::{Inside, check_name},
        status::{Status, Time},
    },
    BLOCK_BYTES, MAX_NODES,
    budget::Budget,
    file::MemoryFile,
    image::{FileImage, NameImage, NodeImage, TreeImage, check_names, check_target},
    node::{Directory, Inode, Node, NodeTimes, Symlink},
};

/// The root directory.
pub(super) const ROOT: Inode = 1;

/// Listing positions 1 and 2 are those of `.` and `..`.
const FIRST_COOKIE: i64 = 3;

/// A directory tree in memory.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<Inode, Node>,
    next_inode: Inode,
    next_cookie: i64,
    device: u64,
    owner: (u32, u32),
    budget: Arc<Budget>,
}

impl Tree {
    /// A tree with an empty root directory.
    pub(super) fn new(device: u64, mode: u32, owner: (u32, u32), budget: Arc<Budget>) -> Self {
        let nodes = HashMap::from([(ROOT, Node::Directory(Directory::new(ROOT, mode)))]);
        Self { nodes, next_inode: ROOT + 1, next_cookie: FIRST_COOKIE, device, owner, budget }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// The next node's number and the next name's listing position.
    pub(super) fn next(&self) -> (Inode, i64) {
        (self.next_inode, self.next_cookie)
    }

    /// The nodes by their numbers.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Inode, &Node)> {
        let mut inodes: Vec<Inode> = self.nodes.keys().copied().collect();
        inodes.sort_unstable();
        inodes.into_iter().filter_map(|inode| Some((inode, self.nodes.get(&inode)?)))
    }

    pub(super) fn node(&self, inode: Inode) -> Answer<&Node> {
        self.nodes.get(&inode).ok_or(Errno::ENOENT)
    }

    /// The node at a place; `ELOOP` when the way, or the end where only a directory will do, is a link.
    pub(super) fn find(&self, at: Inside<'_>) -> Answer<Inode> {
        let mut inode = ROOT;
        for name in at.names() {
            check_name(name)?;
            inode = self.directory(inode)?.get(name).ok_or(Errno::ENOENT)?;
        }
        if at.directory {
            self.directory(inode)?;
        }
        Ok(inode)
    }

    /// The directory that holds a place, and the last name.
    fn find_parent<'a>(&self, at: Inside<'a>) -> Answer<(Inode, &'a [u8])> {
        let (parent, name) = at.split_last().ok_or(Errno::EBUSY)?;
        let parent = self.find(parent)?;
        self.directory(parent)?;
        check_name(name)?;
        Ok((parent, name))
    }

    pub(super) fn directory(&self, inode: Inode) -> Answer<&Directory> {
        match self.node(inode)? {
            Node::Directory(directory) => Ok(directory),
            Node::Symlink(_) => Err(Errno::ELOOP),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, inode: Inode) -> Answer<&mut Directory> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    pub(super) fn status(&self, inode: Inode) -> Answer<Status> {
        let (mode, links, size, times) = match self.node(inode)? {
            Node::File(file) => return file.status(),
            Node::Directory(node) => {
                (libc::S_IFDIR | node.mode, 2 + node.subdirectories, node.len(), node.times)
            }
            Node::Symlink(node) => (libc::S_IFLNK | 0o777, node.links, node.target.len(), node.times),
        };
        Ok(Status {
            device: self.device,
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

    pub(super) fn make_directory(&mut self, at: Inside<'_>, mode: u32) -> Answer<()> {
        let (parent, name) = self.find_free_name(at)?;
        self.insert(parent, name, Node::Directory(Directory::new(parent, mode)))
    }

    pub(super) fn make_symlink(&mut self, target: &[u8], at: Inside<'_>) -> Answer<()> {
        let (parent, name) = self.find_free_name(at)?;
        if at.directory {
            return Err(Errno::ENOENT);
        }
        let node = Symlink { target: target.to_vec(), links: 0, times: NodeTimes::now() };
        self.insert(parent, name, Node::Symlink(node))
    }

    /// Makes an empty file with a name.
    pub(super) fn make_file(&mut self, at: Inside<'_>, mode: u32) -> Answer<Arc<MemoryFile>> {
        let (parent, name) = self.find_free_name(at)?;
        let file = self.make_unnamed(mode)?;
        self.insert(parent, name, Node::File(Arc::clone(&file)))?;
        Ok(file)
    }

    /// Makes an empty file without a name. Its mode counts from the next open on.
    pub(super) fn make_unnamed(&mut self, mode: u32) -> Answer<Arc<MemoryFile>> {
        let file = MemoryFile::new(&self.budget, self.device, self.next_inode)?;
        self.next_inode += 1;
        file.set_mode(mode)?;
        Ok(Arc::new(file))
    }

    pub(super) fn remove(&mut self, at: Inside<'_>, what: Removal) -> Answer<()> {
        let (parent, name) = self.find_parent(at)?;
        let inode = self.directory(parent)?.get(name).ok_or(Errno::ENOENT)?;
        match (self.node(inode)?, what) {
            (Node::Directory(_), Removal::File) => return Err(Errno::EISDIR),
            (Node::Directory(node), Removal::Directory) if !node.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            (Node::File(_) | Node::Symlink(_), Removal::Directory) => return Err(Errno::ENOTDIR),
            (Node::File(_) | Node::Symlink(_), Removal::File) if at.directory => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.take_name(parent, name)?;
        self.forget_if_unnamed(inode);
        Ok(())
    }

    pub(super) fn link(&mut self, from: Inside<'_>, to: Inside<'_>) -> Answer<()> {
        let inode = self.find(from)?;
        let (parent, name) = self.find_free_name(to)?;
        if to.directory {
            return Err(Errno::ENOENT);
        }
        if let Node::Directory(_) = self.node(inode)? {
            return Err(Errno::EPERM);
        }
        self.put_name(parent, name, inode)
    }

    /// The checks are in the order of Linux's do_renameat2 and vfs_rename (fs/namei.c).
    pub(super) fn rename(&mut self, from: Inside<'_>, to: Inside<'_>, how: Renaming) -> Answer<()> {
        let (from_parent, from_name) = self.find_parent(from)?;
        let (to_parent, to_name) = self.find_parent(to)?;
        let old = self.directory(from_parent)?.get(from_name).ok_or(Errno::ENOENT)?;
        let new = self.directory(to_parent)?.get(to_name);
        match new {
            Some(_) if how.keep_existing => return Err(Errno::EEXIST),
            None if how.exchange => return Err(Errno::ENOENT),
            _ => {}
        }
        let old_is_directory = self.is_directory(old);
        let new_is_directory = new.map(|new| self.is_directory(new));
        if how.exchange && new_is_directory == Some(false) && to.directory {
            return Err(Errno::ENOTDIR);
        }
        if !old_is_directory && (from.directory || !how.exchange && to.directory) {
            return Err(Errno::ENOTDIR);
        }
        if self.is_ancestor(old, to_parent) {
            return Err(Errno::EINVAL);
        }
        if new.is_some_and(|new| self.is_ancestor(new, from_parent)) {
            return Err(if how.exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if new == Some(old) {
            return Ok(());
        }
        if let (Some(new), true) = (new, how.exchange) {
            return self.exchange((from_parent, from_name, old), (to_parent, to_name, new));
        }
        if let Some(new) = new {
            self.check_replaceable(old_is_directory, new)?;
            self.take_name(to_parent, to_name)?;
            self.forget_if_unnamed(new);
        }
        self.take_name(from_parent, from_name)?;
        self.put_name(to_parent, to_name, old)
    }

    pub(super) fn change_mode(&mut self, inode: Inode, mode: u32) -> Answer<()> {
        match self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)? {
            Node::File(file) => file.set_mode(mode),
            Node::Directory(node) => {
                node.mode = mode;
                node.times.changed = Time::now();
                Ok(())
            }
            Node::Symlink(_) => Err(Errno::ELOOP),
        }
    }

    pub(super) fn change_times(&mut self, inode: Inode, times: &Times) -> Answer<()> {
        match self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)? {
            Node::File(file) => file.set_times(times),
            Node::Directory(node) => node.times.change(times),
            Node::Symlink(node) => node.times.change(times),
        }
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

    fn find_free_name<'a>(&self, at: Inside<'a>) -> Answer<(Inode, &'a [u8])> {
        if at.is_root() {
            return Err(Errno::EEXIST);
        }
        let (parent, name) = self.find_parent(at)?;
        if self.directory(parent)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        Ok((parent, name))
    }

    fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::Directory(_)))
    }

    /// Whether `ancestor` is `inode` or holds it.
    fn is_ancestor(&self, ancestor: Inode, inode: Inode) -> bool {
        let mut at = inode;
        loop {
            if at == ancestor {
                return true;
            }
            match self.nodes.get(&at) {
                Some(Node::Directory(node)) if at != ROOT => at = node.parent,
                _ => return false,
            }
        }
    }

    fn check_replaceable(&self, by_directory: bool, inode: Inode) -> Answer<()> {
        match (self.node(inode)?, by_directory) {
            (Node::Directory(_), false) => Err(Errno::EISDIR),
            (Node::File(_) | Node::Symlink(_), true) => Err(Errno::ENOTDIR),
            (Node::Directory(node), true) if !node.is_empty() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    fn exchange(&mut self, a: (Inode, &[u8], Inode), b: (Inode, &[u8], Inode)) -> Answer<()> {
        self.take_name(a.0, a.1)?;
        self.take_name(b.0, b.1)?;
        self.put_name(a.0, a.1, b.2)?;
        self.put_name(b.0, b.1, a.2)
    }

    fn insert(&mut self, parent: Inode, name: &[u8], node: Node) -> Answer<()> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Errno::ENOSPC);
        }
        // A file took its number when it was made.
        let inode = match &node {
            Node::File(file) => file.status()?.inode,
            _ => {
                self.next_inode += 1;
                self.next_inode - 1
            }
        };
        self.nodes.insert(inode, node);
        let named = self.put_name(parent, name, inode);
        if named.is_err() {
            self.nodes.remove(&inode);
        }
        named
    }

    /// A name counts on the budget like a page: the monitor keeps it, and a link's target, in its own memory.
    fn put_name(&mut self, parent: Inode, name: &[u8], inode: Inode) -> Answer<()> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.put_name_at(parent, name, inode, cookie)
    }

    fn put_name_at(&mut self, parent: Inode, name: &[u8], inode: Inode, cookie: i64) -> Answer<()> {
        self.budget.take(BLOCK_BYTES)?;
        let is_directory = self.is_directory(inode);
        self.directory_mut(parent)?.put(name, inode, cookie, is_directory);
        match self.nodes.get_mut(&inode) {
            Some(Node::Directory(node)) => node.parent = parent,
            Some(Node::File(file)) => file.set_links(file.links() + 1),
            Some(Node::Symlink(node)) => node.links += 1,
            None => {}
        }
        Ok(())
    }

    fn take_name(&mut self, parent: Inode, name: &[u8]) -> Answer<()> {
        let inode = self.directory(parent)?.get(name).ok_or(Errno::ENOENT)?;
        let is_directory = self.is_directory(inode);
        self.directory_mut(parent)?.take(name, is_directory);
        self.budget.give_back(BLOCK_BYTES);
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => file.set_links(file.links().saturating_sub(1)),
            Some(Node::Symlink(node)) => node.links = node.links.saturating_sub(1),
            Some(Node::Directory(_)) | None => {}
        }
        Ok(())
    }

    /// Drops a node whose last name was taken; an open file lives on in its handles.
    fn forget_if_unnamed(&mut self, inode: Inode) {
        let unnamed = match self.nodes.get(&inode) {
            Some(Node::File(file)) => file.links() == 0,
            Some(Node::Symlink(node)) => node.links == 0,
            Some(Node::Directory(_)) => true,
            None => false,
        };
        if unnamed {
            self.nodes.remove(&inode);
        }
    }

    /// A node as plain data.
    pub(super) fn node_image(
        &self,
        node: &Node,
        file_image: impl FnOnce(&MemoryFile) -> Result<FileImage, ImageError>,
    ) -> Result<NodeImage, ImageError> {
        Ok(match node {
            Node::File(file) => NodeImage::File(file_image(file)?),
            Node::Symlink(link) => NodeImage::Symlink { target: link.target.clone(), times: link.times },
            Node::Directory(directory) => NodeImage::Directory(directory.image()),
        })
    }

    /// Takes the names of an image. The nodes that no name leads to from the root are left out.
    pub(super) fn restore(
        &mut self,
        image: TreeImage,
        files: &HashMap<u64, Arc<MemoryFile>>,
    ) -> Result<(), ImageError> {
        let mut directories = Vec::new();
        let mut nodes: HashMap<Inode, NodeImage> = image.nodes.into_iter().collect();
        match nodes.remove(&ROOT) {
            Some(NodeImage::Directory(root)) => directories.push((ROOT, ROOT, root)),
            _ => return Err(ImageError::Invalid("a tree has no root")),
        }
        self.nodes.clear();
        let (mut last_inode, mut last_cookie) = (ROOT, FIRST_COOKIE);
        while let Some((inode, parent, directory)) = directories.pop() {
            check_names(&directory)?;
            self.nodes.insert(inode, Node::Directory(Directory::from_image(parent, &directory)));
            for NameImage { name, inode: child, cookie } in directory.names {
                last_inode = last_inode.max(child);
                last_cookie = last_cookie.max(cookie);
                if cookie < FIRST_COOKIE {
                    return Err(ImageError::Invalid("a listing position"));
                }
                if !self.nodes.contains_key(&child) {
                    let node = match nodes.remove(&child) {
                        Some(NodeImage::Directory(below)) => {
                            let node = Directory::from_image(inode, &below);
                            directories.push((child, inode, below));
                            Node::Directory(node)
                        }
                        Some(NodeImage::File(_)) => {
                            let file = files.get(&child).ok_or(ImageError::Invalid("a file"))?;
                            Node::File(Arc::clone(file))
                        }
                        Some(NodeImage::Symlink { target, times }) => {
                            check_target(&target)?;
                            Node::Symlink(Symlink { target, links: 0, times })
                        }
                        None => return Err(ImageError::Invalid("a name of no file")),
                    };
                    self.nodes.insert(child, node);
                } else if self.is_directory(child) {
                    return Err(ImageError::Invalid("a directory has two names"));
                }
                let failed = ImageError::host("the names of the program's files");
                self.put_name_at(inode, &name, child, cookie).map_err(failed)?;
            }
            let times = directory.times;
            self.directory_mut(inode).map_err(|_| ImageError::Invalid("a directory"))?.times = times;
        }
        self.next_inode = image.next_inode.max(last_inode.saturating_add(1));
        self.next_cookie = image.next_cookie.max(last_cookie.saturating_add(1));
        Ok(())
    }
}
