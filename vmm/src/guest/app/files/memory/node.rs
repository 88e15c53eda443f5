//! What a memory tree is made of: directories, files and links.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nix::{errno::Errno, sys::time::TimeSpec};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        backend::{Answer, PERMISSIONS, Times},
        status::{Status, Time},
    },
    file::MemoryFile,
    image::{DirectoryImage, NameImage},
    lower::LowerNode,
};

/// Number of a node. Never used twice.
pub(super) type Inode = u64;

/// A directory, file or link.
#[derive(Debug)]
pub(super) enum Node {
    Directory(Directory),
    File(Arc<MemoryFile>),
    Symlink(Symlink),
    /// A file or link of the host that is as the host has it.
    Lower(LowerNode),
}

#[derive(Debug)]
pub(super) struct Directory {
    pub parent: Inode,
    names: BTreeMap<Vec<u8>, Slot>,
    /// The names in the order they were made, so that a listing goes on rightly while names come and go.
    order: BTreeMap<i64, Vec<u8>>,
    subdirectories: i64,
    pub mode: u32,
    pub times: NodeTimes,
    /// The host's directory that shows through.
    pub origin: Option<Origin>,
    /// Held by everyone who has it open.
    pub open: Arc<()>,
}

/// The host's directory that shows through one of an overlay.
#[derive(Debug)]
pub(super) struct Origin {
    /// Below the granted directory.
    pub path: Vec<u8>,
    /// What the host told of it when it was taken.
    pub status: Status,
    /// The host's names that the guest has removed, and no other took their place.
    pub hidden: BTreeSet<Vec<u8>>,
    /// Names or times are the guest's.
    pub touched: bool,
    /// The mode is the guest's.
    pub new_mode: bool,
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
    /// The host's directory has this name, too, whatever it means there.
    of_host: bool,
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
            origin: None,
            open: Arc::new(()),
        }
    }

    /// A directory of the host.
    pub(super) fn of_host(parent: Inode, path: Vec<u8>, status: &Status) -> Self {
        let origin =
            Origin { path, status: *status, hidden: BTreeSet::new(), touched: false, new_mode: false };
        Self {
            times: NodeTimes::of(status),
            origin: Some(origin),
            ..Self::new(parent, status.mode & PERMISSIONS)
        }
    }

    /// A directory of an image, without its names.
    pub(super) fn from_image(parent: Inode, image: &DirectoryImage) -> Self {
        Self { times: image.times, ..Self::new(parent, image.mode & PERMISSIONS) }
    }

    pub(super) fn image(&self) -> DirectoryImage {
        let names = self.order.iter().filter_map(|(cookie, name)| {
            let slot = self.names.get(name)?;
            Some(NameImage { name: name.clone(), inode: slot.inode, cookie: *cookie, of_host: slot.of_host })
        });
        DirectoryImage {
            mode: self.mode,
            times: self.times,
            names: names.collect(),
            subdirectories: self.subdirectories,
            origin: self.origin.as_ref().map(Origin::image),
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<Inode> {
        self.names.get(name).map(|slot| slot.inode)
    }

    /// Where the host has a name that this directory doesn't know, if it shows the host's.
    pub(super) fn host_path(&self, name: &[u8]) -> Option<Vec<u8>> {
        let origin = self.origin.as_ref().filter(|origin| !origin.hidden.contains(name))?;
        let mut path = origin.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }

    /// Whether the host's directory has this name, as far as is known here.
    pub(super) fn is_of_host(&self, name: &[u8]) -> bool {
        self.names.get(name).is_some_and(|slot| slot.of_host)
    }

    /// Whether a name of the host isn't to be seen.
    pub(super) fn hides(&self, name: &[u8]) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin.hidden.contains(name))
    }

    /// Whether its names, mode and times are those of the host's directory.
    pub(super) fn is_as_on_host(&self) -> bool {
        self.origin
            .as_ref()
            .is_some_and(|origin| !origin.touched && !origin.new_mode && origin.hidden.is_empty())
    }

    /// Whether it is as the host has it and nobody uses it.
    pub(super) fn is_untouched(&self) -> bool {
        self.is_as_on_host() && self.names.is_empty() && Arc::strong_count(&self.open) == 1
    }

    /// The name under which this directory holds a node.
    pub(super) fn name_of(&self, inode: Inode) -> Option<&[u8]> {
        self.names.iter().find(|(_, slot)| slot.inode == inode).map(|(name, _)| &name[..])
    }

    /// Whether it has no names of its own.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Its own name, its `.`, and the `..` of each directory in it.
    pub(super) fn links(&self) -> u64 {
        2_u64.saturating_add_signed(self.subdirectories)
    }

    /// What stat tells of a directory that the host tells `host` of.
    pub(super) fn over(&self, host: &Status) -> Status {
        // Some file systems count no directories.
        let links =
            if host.links < 2 { host.links } else { host.links.saturating_add_signed(self.subdirectories) };
        let shown = match &self.origin {
            Some(origin) if origin.touched => Status {
                accessed: self.times.accessed,
                modified: self.times.modified,
                changed: self.times.changed,
                ..*host
            },
            _ => *host,
        };
        let mode = match &self.origin {
            Some(origin) if origin.new_mode => host.mode & !PERMISSIONS | self.mode,
            _ => host.mode,
        };
        Status { links, mode, ..shown }
    }

    pub(super) fn set_mode(&mut self, mode: u32) {
        self.mode = mode;
        self.times.changed = Time::now();
        if let Some(origin) = &mut self.origin {
            origin.new_mode = true;
        }
    }

    /// Sets times where `present` are those that it shows now.
    pub(super) fn change_times(&mut self, times: &Times, present: &NodeTimes) -> Answer<()> {
        let mut changed = *present;
        changed.change(times)?;
        self.times = changed;
        if let Some(origin) = &mut self.origin {
            origin.touched = true;
        }
        Ok(())
    }

    /// Adds a name at a listing position that no name ever had.
    pub(super) fn put(&mut self, name: &[u8], inode: Inode, cookie: i64, is_directory: bool) {
        let of_host = self.origin.as_mut().is_some_and(|origin| origin.hidden.remove(name));
        self.put_slot(name, Slot { inode, cookie, of_host });
        self.subdirectories += i64::from(is_directory);
        self.touch();
    }

    /// Adds a name of the host, which was there.
    pub(super) fn put_of_host(&mut self, name: &[u8], inode: Inode, cookie: i64) {
        self.put_slot(name, Slot { inode, cookie, of_host: true });
    }

    /// Takes a name over from an image.
    pub(super) fn restore_name(&mut self, name: &[u8], inode: Inode, cookie: i64, of_host: bool) {
        self.put_slot(name, Slot { inode, cookie, of_host });
    }

    fn put_slot(&mut self, name: &[u8], slot: Slot) {
        self.names.insert(name.to_vec(), slot);
        self.order.insert(slot.cookie, name.to_vec());
    }

    /// Takes a name away.
    pub(super) fn take(&mut self, name: &[u8], is_directory: bool) {
        let Some(slot) = self.names.remove(name) else { return };
        self.order.remove(&slot.cookie);
        if let (Some(origin), true) = (&mut self.origin, slot.of_host) {
            origin.hidden.insert(name.to_vec());
        }
        self.subdirectories -= i64::from(is_directory);
        self.touch();
    }

    /// Forgets a name of the host, which is still there.
    pub(super) fn forget(&mut self, name: &[u8]) {
        if let Some(slot) = self.names.remove(name) {
            self.order.remove(&slot.cookie);
        }
    }

    /// Its counts and times as an image has them.
    pub(super) fn settle(&mut self, image: &DirectoryImage) {
        self.times = image.times;
        self.subdirectories = image.subdirectories;
    }

    fn touch(&mut self) {
        self.times.touch();
        if let Some(origin) = &mut self.origin {
            origin.touched = true;
        }
    }

    /// The names from a listing position on, each with its node and the position of the one after it. Those
    /// that the host has are listed where the host lists them.
    pub(super) fn names_from(&self, position: i64) -> impl Iterator<Item = (&[u8], Inode, i64)> {
        self.order.range(position..).filter_map(|(cookie, name)| {
            let slot = self.names.get(name).filter(|slot| !slot.of_host)?;
            Some((&name[..], slot.inode, cookie + 1))
        })
    }

    /// The names and their nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = (&[u8], Inode)> {
        self.names.iter().map(|(name, slot)| (&name[..], slot.inode))
    }
}

impl NodeTimes {
    pub(super) fn now() -> Self {
        let now = Time::now();
        Self { accessed: now, modified: now, changed: now }
    }

    pub(super) fn of(status: &Status) -> Self {
        Self { accessed: status.accessed, modified: status.modified, changed: status.changed }
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
