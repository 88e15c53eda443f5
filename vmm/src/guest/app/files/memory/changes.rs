//! Changing the names and attributes of a memory tree.

use std::sync::Arc;

use nix::{errno::Errno, unistd::AccessFlags};

use super::{
    super::{
        backend::{Answer, Removal, Renaming, Times},
        path::Inside,
    },
    BLOCK_BYTES, MAX_NODES,
    file::MemoryFile,
    lower::is_owner,
    node::{Directory, Inode, Node, NodeTimes, Symlink},
    tree::{ROOT, Tree},
};

impl Tree {
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
        let file = MemoryFile::new(&self.home, self.next_inode)?;
        self.next_inode += 1;
        file.set_mode(mode)?;
        Ok(Arc::new(file))
    }

    pub(super) fn remove(&mut self, at: Inside<'_>, what: Removal) -> Answer<()> {
        let (parent, name) = self.take_parent(at)?;
        let inode = self.child(parent, name)?.ok_or(Errno::ENOENT)?;
        match (self.node(inode)?, what) {
            (Node::Directory(_), Removal::File) => return Err(Errno::EISDIR),
            (Node::Directory(_), Removal::Directory) if !self.is_empty(inode)? => {
                return Err(Errno::ENOTEMPTY);
            }
            (Node::Directory(_), Removal::Directory) => {}
            (_, Removal::Directory) => return Err(Errno::ENOTDIR),
            (_, Removal::File) if at.directory => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.take_name(parent, name)?;
        self.forget_if_unnamed(inode);
        Ok(())
    }

    pub(super) fn link(&mut self, from: Inside<'_>, to: Inside<'_>) -> Answer<()> {
        let inode = self.take(from)?;
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
        let (from_parent, from_name) = self.take_parent(from)?;
        let (to_parent, to_name) = self.take_parent(to)?;
        let old = self.child(from_parent, from_name)?.ok_or(Errno::ENOENT)?;
        let new = self.child(to_parent, to_name)?;
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
        self.check_changeable(from_parent)?;
        self.check_changeable(to_parent)?;
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
        if !is_owner(self.status(inode)?.user) {
            return Err(Errno::EPERM);
        }
        match self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)? {
            Node::Directory(node) => {
                node.set_mode(mode);
                Ok(())
            }
            Node::Symlink(_) => Err(Errno::ELOOP),
            Node::File(_) | Node::Lower(_) => self.file(inode)?.set_mode(mode),
        }
    }

    pub(super) fn change_times(&mut self, inode: Inode, times: &Times) -> Answer<()> {
        let status = self.status(inode)?;
        if !is_owner(status.user) {
            return Err(Errno::EPERM);
        }
        if let (Node::Lower(node), true) = (self.node(inode)?, status.is_symlink()) {
            let target = self.lower()?.host().link_target(&node.path)?;
            let times = NodeTimes::of(&status);
            let links = node.links;
            self.nodes.insert(inode, Node::Symlink(Symlink { target, links, times }));
        }
        match self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)? {
            Node::Directory(node) => node.change_times(times, &NodeTimes::of(&status)),
            Node::Symlink(node) => node.times.change(times),
            Node::File(_) | Node::Lower(_) => self.file(inode)?.set_times(times),
        }
    }

    fn find_free_name<'a>(&mut self, at: Inside<'a>) -> Answer<(Inode, &'a [u8])> {
        if at.is_root() {
            return Err(Errno::EEXIST);
        }
        let (parent, name) = self.take_parent(at)?;
        if self.child(parent, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        Ok((parent, name))
    }

    /// Refuses to change the names of a directory that the host's kernel wouldn't let the monitor change.
    fn check_changeable(&self, inode: Inode) -> Answer<()> {
        match &self.directory(inode)?.origin {
            Some(origin) if !origin.new_mode => {
                self.lower()?.check_access(&origin.path, AccessFlags::W_OK | AccessFlags::X_OK)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::Directory(_)))
    }

    fn is_empty(&self, inode: Inode) -> Answer<bool> {
        let directory = self.directory(inode)?;
        if !directory.is_empty() {
            return Ok(false);
        }
        match &directory.origin {
            Some(origin) => Ok(!self.lower()?.has_others(&origin.path, |name| directory.hides(name))?),
            None => Ok(true),
        }
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
        match (self.is_directory(inode), by_directory) {
            (true, false) => Err(Errno::EISDIR),
            (false, true) => Err(Errno::ENOTDIR),
            (true, true) if !self.is_empty(inode)? => Err(Errno::ENOTEMPTY),
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
        if MAX_NODES <= self.nodes.len() {
            return Err(Errno::ENOSPC);
        }
        // A file took its number when it was made.
        let inode = match &node {
            Node::File(file) => file.number(),
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

    fn put_name(&mut self, parent: Inode, name: &[u8], inode: Inode) -> Answer<()> {
        self.check_changeable(parent)?;
        let cookie = self.next_cookie()?;
        self.put_name_at(parent, name, inode, cookie)
    }

    /// A name counts on the budget like a page: the monitor keeps it, and a link's target, in its own memory.
    fn put_name_at(&mut self, parent: Inode, name: &[u8], inode: Inode, cookie: i64) -> Answer<()> {
        self.home.budget.take(BLOCK_BYTES)?;
        let is_directory = self.is_directory(inode);
        self.directory_mut(parent)?.put(name, inode, cookie, is_directory);
        self.add_link(parent, inode);
        Ok(())
    }

    /// Takes over a name and its listing position from an image.
    pub(super) fn restore_name(
        &mut self,
        parent: Inode,
        name: &[u8],
        (inode, cookie): (Inode, i64),
        of_host: bool,
    ) -> Answer<()> {
        self.home.budget.take(BLOCK_BYTES)?;
        let directory = self.directory_mut(parent)?;
        directory.restore_name(name, inode, cookie, of_host);
        // A file over one of the host has names that nobody took; its image knows how many there are.
        if !matches!(self.nodes.get(&inode), Some(Node::File(file)) if file.beneath().is_some()) {
            self.add_link(parent, inode);
        }
        Ok(())
    }

    fn add_link(&mut self, parent: Inode, inode: Inode) {
        match self.nodes.get_mut(&inode) {
            Some(Node::Directory(node)) => node.parent = parent,
            Some(Node::File(file)) => file.set_links(file.links() + 1),
            Some(Node::Symlink(node)) => node.links += 1,
            Some(Node::Lower(node)) => node.links += 1,
            None => {}
        }
    }

    fn take_name(&mut self, parent: Inode, name: &[u8]) -> Answer<()> {
        let inode = self.directory(parent)?.get(name).ok_or(Errno::ENOENT)?;
        self.check_changeable(parent)?;
        let is_directory = self.is_directory(inode);
        self.directory_mut(parent)?.take(name, is_directory);
        self.home.budget.give_back(BLOCK_BYTES);
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => file.set_links(file.links().saturating_sub(1)),
            Some(Node::Symlink(node)) => node.links = node.links.saturating_sub(1),
            Some(Node::Lower(node)) => node.links = node.links.saturating_sub(1),
            Some(Node::Directory(_)) | None => {}
        }
        Ok(())
    }

    /// Drops a node whose last name was taken; an open file lives on in its handles.
    fn forget_if_unnamed(&mut self, inode: Inode) {
        let (links, of_host) = match self.nodes.get(&inode) {
            Some(Node::File(file)) => (file.links(), file.beneath()),
            Some(Node::Symlink(node)) => (node.links, None),
            Some(Node::Lower(node)) => (node.links, Some((node.status.device, node.status.inode))),
            Some(Node::Directory(_)) => (0, None),
            None => return,
        };
        if links == 0 {
            self.nodes.remove(&inode);
            if let Some(key) = of_host {
                self.of_host.remove(&key);
            }
        }
    }
}
