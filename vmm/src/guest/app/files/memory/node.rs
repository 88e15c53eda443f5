//! What a memory tree is made of: directories, files and links.

use std::{collections::BTreeMap, sync::Arc};

use nix::{errno::Errno, sys::time::TimeSpec};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        backend::{Answer, PERMISSIONS, Times},
        status::Time,
    },
    file::MemoryFile,
    image::{DirectoryImage, NameImage},
};

/// Number of a node. Never used twice.
pub(super) type Inode = u64;

/// A directory, file or link.
#[derive(Debug)]
pub(super) enum Node {
    Directory(Directory),
    File(Arc<MemoryFile>),
    Symlink(Symlink),
}

#[derive(Debug)]
pub(super) struct Directory {
    pub parent: Inode,
    names: BTreeMap<Vec<u8>, Slot>,
    /// The names in the order they were made, so that a listing goes on rightly while names come and go.
    order: BTreeMap<i64, Vec<u8>>,
    pub subdirectories: u64,
    pub mode: u32,
    pub times: NodeTimes,
}

#[derive(Debug)]
pub(super) struct Symlink {
    pub target: Vec<u8>,
    pub links: u64,
    pub times: NodeTimes,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    inode: Inode,
    cookie: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeTimes {
    pub accessed: Time,
    pub modified: Time,
    pub changed: Time,
}

impl Directory {
    pub(super) fn new(parent: Inode, mode: u32) -> Self {
        Self {
            parent,
            names: BTreeMap::new(),
            order: BTreeMap::new(),
            subdirectories: 0,
            mode,
            times: NodeTimes::now(),
        }
    }

    /// A directory of an image, without its names.
    pub(super) fn from_image(parent: Inode, image: &DirectoryImage) -> Self {
        Self { times: image.times, ..Self::new(parent, image.mode & PERMISSIONS) }
    }

    pub(super) fn image(&self) -> DirectoryImage {
        let names = self.order.iter().filter_map(|(cookie, name)| {
            Some(NameImage { name: name.clone(), inode: self.get(name)?, cookie: *cookie })
        });
        DirectoryImage { mode: self.mode, times: self.times, names: names.collect() }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<Inode> {
        self.names.get(name).map(|slot| slot.inode)
    }

    /// The name under which this directory holds a node.
    pub(super) fn name_of(&self, inode: Inode) -> Option<&[u8]> {
        self.names.iter().find(|(_, slot)| slot.inode == inode).map(|(name, _)| &name[..])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Adds a name at a listing position that no name ever had.
    pub(super) fn put(&mut self, name: &[u8], inode: Inode, cookie: i64, is_directory: bool) {
        self.names.insert(name.to_vec(), Slot { inode, cookie });
        self.order.insert(cookie, name.to_vec());
        self.subdirectories += u64::from(is_directory);
        self.times.touch();
    }

    /// Takes a name away.
    pub(super) fn take(&mut self, name: &[u8], is_directory: bool) {
        if let Some(slot) = self.names.remove(name) {
            self.order.remove(&slot.cookie);
            self.subdirectories -= u64::from(is_directory);
            self.times.touch();
        }
    }

    /// The names from a listing position on, each with its node and the position of the one after it.
    pub(super) fn names_from(&self, position: i64) -> impl Iterator<Item = (&[u8], Inode, i64)> {
        self.order
            .range(position..)
            .filter_map(|(cookie, name)| Some((&name[..], self.get(name)?, cookie + 1)))
    }
}

impl NodeTimes {
    pub(super) fn now() -> Self {
        let now = Time::now();
        Self { accessed: now, modified: now, changed: now }
    }

    pub(super) fn touch(&mut self) {
        self.modified = Time::now();
        self.changed = self.modified;
    }

    pub(super) fn change(&mut self, times: &Times) -> Answer<()> {
        let accessed = chosen(times.accessed, self.accessed)?;
        let modified = chosen(times.modified, self.modified)?;
        *self = Self { accessed, modified, changed: Time::now() };
        Ok(())
    }
}

/// The time that a `utimensat` argument means; `EINVAL` for impossible nanoseconds.
fn chosen(time: TimeSpec, present: Time) -> Answer<Time> {
    match time.tv_nsec() {
        libc::UTIME_NOW => Ok(Time::now()),
        libc::UTIME_OMIT => Ok(present),
        nanoseconds @ 0..1_000_000_000 => {
            Ok(Time { seconds: time.tv_sec(), nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) })
        }
        _ => Err(Errno::EINVAL),
    }
}
