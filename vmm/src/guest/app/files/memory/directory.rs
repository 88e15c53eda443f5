//! An open directory of a memory tree.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    super::{
        backend::{Answer, Space},
        listing::{Entry, Records, entry_kind},
        open::OpenDirectory,
        path::GuestPath,
        status::Status,
    },
    space,
    tree::Tree,
};

/// An open directory of a memory tree. Once it was removed its number is unknown to the tree: `ENOENT`.
#[derive(Debug)]
pub(super) struct MemoryDirectory {
    tree: Arc<Mutex<Tree>>,
    mount_point: GuestPath,
    inode: u64,
    position: Mutex<i64>,
}

impl MemoryDirectory {
    pub(super) fn new(tree: Arc<Mutex<Tree>>, mount_point: GuestPath, inode: u64) -> Self {
        Self { tree, mount_point, inode, position: Mutex::new(0) }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> MutexGuard<'_, i64> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenDirectory for MemoryDirectory {
    fn status(&self) -> Answer<Status> {
        self.tree().status(self.inode)
    }

    fn current_path(&self) -> Answer<Option<GuestPath>> {
        let mut path = self.mount_point.clone();
        for name in self.tree().names_to(self.inode)? {
            path.push(&name);
        }
        Ok(Some(path))
    }

    fn read_entries(&self, limit: usize) -> Answer<Vec<u8>> {
        let tree = self.tree();
        let directory = tree.directory(self.inode)?;
        let mut next = self.next();
        let dots = [(&b"."[..], self.inode, 1), (&b".."[..], directory.parent, 2)];
        let start = *next;
        let dots = dots.into_iter().filter(|(_, _, position)| *position > start);
        let mut records = Records::new(limit);
        let mut left_one_out = false;
        for (name, inode, after) in dots.chain(directory.names_from(start)) {
            let kind = entry_kind(tree.status(inode)?.mode);
            left_one_out = !records.push(&Entry { inode, kind, name: name.to_vec() }, after);
            if left_one_out {
                break;
            }
            *next = after;
        }
        records.finish(left_one_out)
    }

    fn seek_entries(&self, position: i64) -> Answer<i64> {
        *self.next() = position;
        Ok(position)
    }

    fn position(&self) -> Answer<i64> {
        Ok(*self.next())
    }

    fn space(&self) -> Answer<Space> {
        Ok(space(self.tree().budget()))
    }
}
