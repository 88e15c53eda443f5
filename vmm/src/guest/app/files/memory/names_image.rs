//! The names of a memory tree as plain data, and back.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    super::{
        image::{Identity, ImageError},
        path::{GuestPath, Inside},
    },
    file::MemoryFile,
    image::{
        DirectoryImage, FileImage, NameImage, NodeImage, OriginImage, TakenImage, TreeImage, check_host_path,
        check_names, check_target,
    },
    lower::LowerNode,
    node::{Directory, Inode, Node, Origin, Symlink},
    tree::{FIRST_COOKIE, LAST_COOKIE, MAX_TAKEN, ROOT, Taken, Tree},
};

/// Most links that a claimed count may say; more is no file system's.
const MOST_LINKS: i64 = 1 << 32;

/// The highest number of a node that a claim may say, far from where numbers end.
const LAST_INODE: Inode = 1 << 63;

impl Tree {
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
            Node::Lower(node) => {
                NodeImage::Lower { path: node.path.clone(), status: node.status, links: node.links }
            }
        })
    }

    /// Takes the names of an image. The nodes that no name leads to from the root are left out.
    pub(super) fn restore(
        &mut self,
        mount_point: &GuestPath,
        image: TreeImage,
        files: &HashMap<u64, Arc<MemoryFile>>,
    ) -> Result<(), ImageError> {
        if LAST_INODE < image.next_inode || LAST_COOKIE < image.next_cookie {
            return Err(ImageError::Invalid("a number or a listing position"));
        }
        let mut nodes: HashMap<Inode, NodeImage> = image.nodes.into_iter().collect();
        let Some(NodeImage::Directory(root)) = nodes.remove(&ROOT) else {
            return Err(ImageError::Invalid("a tree has no root"));
        };
        self.nodes.clear();
        self.nodes.insert(ROOT, Node::Directory(self.directory_of(ROOT, &root)?));
        let mut directories = vec![(ROOT, root)];
        let mut links: Vec<(Inode, u64)> = Vec::new();
        while let Some((inode, directory)) = directories.pop() {
            check_names(&directory)?;
            for NameImage { name, inode: child, cookie, of_host } in &directory.names {
                if !(FIRST_COOKIE..image.next_cookie).contains(cookie) || image.next_inode <= *child {
                    return Err(ImageError::Invalid("a listing position or number"));
                }
                if self.is_directory(*child) {
                    return Err(ImageError::Invalid("a directory has two names"));
                }
                if !self.nodes.contains_key(child) {
                    let below = nodes.remove(child).ok_or(ImageError::Invalid("a name of no file"))?;
                    if let NodeImage::Lower { links: count, .. } = &below {
                        links.push((*child, *count));
                    }
                    let node = self.node_of(inode, *child, &below, files)?;
                    self.nodes.insert(*child, node);
                    if let NodeImage::Directory(below) = below {
                        directories.push((*child, below));
                    }
                }
                let failed = ImageError::host("the names of the program's files");
                self.restore_name(inode, name, (*child, *cookie), *of_host).map_err(failed)?;
            }
            if let Ok(node) = self.directory_mut(inode) {
                node.settle(&directory);
            }
        }
        // A file of the host that has other names there lives on, though the guest removed the one it knew.
        for TakenImage { inode, .. } in &image.taken {
            let Some(below) = nodes.remove(inode) else { continue };
            match &below {
                NodeImage::Lower { links: count, .. } => links.push((*inode, *count)),
                NodeImage::File(_) => {}
                NodeImage::Directory(_) | NodeImage::Symlink { .. } => continue,
            }
            let node = self.node_of(ROOT, *inode, &below, files)?;
            self.nodes.insert(*inode, node);
        }
        for (inode, links) in links {
            if let Some(Node::Lower(node)) = self.nodes.get_mut(&inode) {
                node.links = links;
            }
        }
        self.next_inode = image.next_inode;
        self.next_cookie = image.next_cookie;
        self.restore_taken(mount_point, image.taken)
    }

    fn node_of(
        &self,
        parent: Inode,
        inode: Inode,
        image: &NodeImage,
        files: &HashMap<u64, Arc<MemoryFile>>,
    ) -> Result<Node, ImageError> {
        Ok(match image {
            NodeImage::Directory(directory) => Node::Directory(self.directory_of(parent, directory)?),
            NodeImage::File(_) => {
                Node::File(Arc::clone(files.get(&inode).ok_or(ImageError::Invalid("a file"))?))
            }
            NodeImage::Symlink { target, times } => {
                check_target(target)?;
                Node::Symlink(Symlink { target: target.clone(), links: 0, times: *times })
            }
            NodeImage::Lower { path, status, links } => {
                check_host_path(path)?;
                check_links(*links)?;
                self.lower().map_err(|_| ImageError::Invalid("a file of the host in a private tree"))?;
                Node::Lower(LowerNode { path: path.clone(), status: *status, links: 0 })
            }
        })
    }

    fn directory_of(&self, parent: Inode, image: &DirectoryImage) -> Result<Directory, ImageError> {
        if !(-MOST_LINKS..=MOST_LINKS).contains(&image.subdirectories) {
            return Err(ImageError::Invalid("a directory's links"));
        }
        let mut directory = Directory::from_image(parent, image);
        if let Some(origin) = &image.origin {
            self.lower().map_err(|_| ImageError::Invalid("a directory of the host in a private tree"))?;
            directory.origin = Some(origin.restore()?);
        }
        Ok(directory)
    }

    fn restore_taken(&mut self, mount_point: &GuestPath, taken: Vec<TakenImage>) -> Result<(), ImageError> {
        if MAX_TAKEN < taken.len() {
            return Err(ImageError::Invalid("too many names of the host"));
        }
        for TakenImage { path, inode, parent, status } in taken {
            check_host_path(&path)?;
            let place = mount_point.join(&path);
            let lower =
                self.lower().map_err(|_| ImageError::Invalid("names of the host in a private tree"))?;
            let now = lower.status(Inside::new(&path));
            let now = match now {
                Ok(now) => now,
                // Whether it matters that a removed file is gone on the host, publishing will tell.
                Err(_) if !self.nodes.contains_key(&inode) => status,
                Err(source) => return Err(ImageError::Gone { path: place, source }),
            };
            let same = if status.is_directory() {
                now.is_directory()
            } else {
                Identity::from(&now).is_still(&Identity::from(&status))
            };
            if !same && self.nodes.contains_key(&inode) {
                return Err(ImageError::Changed { path: place });
            }
            match self.nodes.get_mut(&inode) {
                Some(Node::Lower(node)) => {
                    node.status = now;
                    self.of_host.insert((now.device, now.inode), inode);
                }
                Some(Node::File(_)) => {
                    self.of_host.insert((now.device, now.inode), inode);
                }
                _ => {}
            }
            let status = if same { now } else { status };
            self.taken.insert(path, Taken { inode, parent, status });
        }
        Ok(())
    }
}

impl Origin {
    pub(super) fn image(&self) -> OriginImage {
        OriginImage {
            path: self.path.clone(),
            status: self.status,
            hidden: self.hidden.iter().cloned().collect(),
            touched: self.touched,
            new_mode: self.new_mode,
        }
    }
}

impl OriginImage {
    fn restore(&self) -> Result<Origin, ImageError> {
        check_host_path(&self.path)?;
        if MAX_TAKEN < self.hidden.len() {
            return Err(ImageError::Invalid("too many names of the host"));
        }
        Ok(Origin {
            path: self.path.clone(),
            status: self.status,
            hidden: self.hidden.iter().cloned().collect::<BTreeSet<_>>(),
            touched: self.touched,
            new_mode: self.new_mode,
        })
    }
}

/// Checks how many names a file is said to have.
pub(super) fn check_links(links: u64) -> Result<(), ImageError> {
    if links <= MOST_LINKS.unsigned_abs() { Ok(()) } else { Err(ImageError::Invalid("a file's links")) }
}
