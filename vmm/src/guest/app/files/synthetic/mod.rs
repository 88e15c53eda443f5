//! Files that the monitor makes up: /proc, /sys and /dev. Nothing here is forwarded to the host's own
//! /proc and /sys, which would show and change the monitor.

mod dev;
mod fork_point;
mod held;
mod pci;
mod proc;
mod process;
mod sys;

use std::{
    fmt::Debug,
    sync::{Mutex, PoisonError},
};

use nix::{errno::Errno, fcntl::OFlag};

pub(super) use dev::DevSource;
pub(super) use fork_point::{ForkPoint, ForkPointImage};
pub use fork_point::{Request, WholeCheckpoints};
pub(super) use held::Holding;
pub use pci::{Bar, PciIds, PciSysfs, SharedPci};
pub(super) use proc::ProcSource;
pub(super) use sys::SysSource;

use super::{
    Caller,
    backend::{Answer, Backend, Follow, Look, OpenRequest, Opened, Space},
    listing::{Entry, Records},
    open::{Object, OpenDirectory, SynthesizedFile, SynthesizedHandle},
    path::{GuestPath, Inside, NAME_MAX, check_name},
    status::{Status, Time},
};
use dev::DeviceNode;
use fork_point::ForkPointNode;
use held::Held;
use pci::PciFile;

/// The text of a new random UUID, such as a machine's boot id.
#[must_use]
pub fn random_uuid() -> String {
    proc::uuid(proc::random())
}

/// Where the nodes of a synthesized tree come from.
pub(super) trait Source: Debug + Send + Sync {
    /// What is at a place; none if nothing is.
    fn node(&self, caller: &Caller<'_>, names: &[&[u8]]) -> Option<Node>;

    /// Whether Linux takes an fsync of such a node here for no error.
    fn takes_sync(&self, _node: &Node) -> bool {
        false
    }

    /// Whether directories may be mounted right below the root.
    fn can_hold_mounts(&self) -> bool {
        false
    }
}

/// What can be at a place of a synthesized tree.
#[derive(Debug)]
pub(super) enum Node {
    /// Names, each with its `DT_` constant.
    Directory(Vec<(Vec<u8>, u8)>),
    /// Text that is made up when the file is opened.
    Text(fn(&Caller<'_>) -> Vec<u8>),
    /// Text that is already known.
    Fixed(Vec<u8>),
    Link(Vec<u8>),
    /// A link to a descriptor of the guest.
    Descriptor(i32),
    Device(&'static DeviceNode),
    Pci(PciFile),
    ForkPoint(ForkPointNode),
}

/// A synthesized tree.
#[derive(Debug)]
pub(super) struct SyntheticTree<S> {
    source: S,
    /// File system number in stat.
    device: u64,
    /// Size that stat shows for text: 0 in /proc, a page in /sys.
    text_size: i64,
    mount_point: GuestPath,
    started: Time,
    /// What open files hold, of all trees of the guest.
    holding: Holding,
}

impl<S: Source> SyntheticTree<S> {
    pub(super) fn new(
        source: S,
        mount_point: GuestPath,
        device: u64,
        text_size: i64,
        holding: &Holding,
    ) -> Self {
        let holding = holding.clone();
        Self { source, device, text_size, mount_point, started: Time::now(), holding }
    }

    /// The node at a place, and `ELOOP`, `ENOTDIR` or `ENOENT` for what is on the way.
    fn find(&self, caller: &Caller<'_>, at: Inside<'_>) -> Answer<Node> {
        let names: Vec<&[u8]> = at.names().collect();
        for length in 0..names.len() {
            check_name(names[length])?;
            self.check_directory(caller, &names[..length])?;
        }
        if at.directory {
            self.check_directory(caller, &names)?;
        }
        self.source.node(caller, &names).ok_or(Errno::ENOENT)
    }

    fn check_directory(&self, caller: &Caller<'_>, names: &[&[u8]]) -> Answer<()> {
        match self.source.node(caller, names).ok_or(Errno::ENOENT)? {
            Node::Directory(_) => Ok(()),
            Node::Link(_) => Err(Errno::ELOOP),
            Node::Descriptor(number) if caller.descriptors.get(number)?.directory().is_ok() => {
                Err(Errno::ELOOP)
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn status_of(&self, caller: &Caller<'_>, at: Inside<'_>, node: &Node) -> Answer<Status> {
        let (mode, links, size) = match node {
            Node::Directory(_) => (libc::S_IFDIR | 0o555, 2, 0),
            Node::Text(_) | Node::Fixed(_) => (libc::S_IFREG | 0o444, 1, self.text_size),
            Node::Link(target) => (libc::S_IFLNK | 0o777, 1, i64::try_from(target.len()).unwrap_or(i64::MAX)),
            Node::Descriptor(_) => (libc::S_IFLNK | 0o700, 1, 64),
            Node::Device(device) => return device.status(),
            Node::Pci(file) => (libc::S_IFREG | file.mode(), 1, file.size()),
            Node::ForkPoint(_) => (libc::S_IFCHR | 0o666, 1, 0),
        };
        let owner = caller.facts.owner();
        Ok(Status {
            device: self.device,
            inode: inode(at.path),
            mode,
            links,
            user: owner.0,
            group: owner.1,
            node: 0,
            size,
            block_size: 4096,
            blocks: 0,
            accessed: self.started,
            modified: self.started,
            changed: self.started,
        })
    }

    fn open_text(
        &self,
        caller: &Caller<'_>,
        at: Inside<'_>,
        node: &Node,
        request: &OpenRequest,
    ) -> Answer<Opened> {
        let status = self.status_of(caller, at, node)?;
        let bytes = match node {
            _ if request.has(OFlag::O_PATH) => Vec::new(),
            Node::Text(make) => make(caller),
            Node::Fixed(bytes) => bytes.clone(),
            _ => Vec::new(),
        };
        // Without what it was grown by, which nobody counts.
        let bytes = bytes.into_boxed_slice();
        let length = bytes.len();
        let text =
            Text { bytes: self.holding.hold(bytes, length)?, takes_sync: self.source.takes_sync(node) };
        let handle = SynthesizedHandle::new(Box::new(text), status, request);
        Ok(Opened::New(Object::Synthesized(handle)))
    }
}

impl<S: Source> Backend for SyntheticTree<S> {
    fn writable(&self) -> bool {
        false
    }

    fn make_mount_point(&self, at: Inside<'_>, last: bool) -> Answer<()> {
        let right_below = last && at.names().count() == 1;
        if right_below && self.source.can_hold_mounts() { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn look(&self, caller: &Caller<'_>, at: Inside<'_>) -> Answer<Look> {
        Ok(match self.find(caller, Inside::new(at.path))? {
            Node::Directory(_) => Look::Directory,
            Node::Link(target) => Look::Symlink(target),
            Node::Descriptor(number) => {
                let file = caller.descriptors.get(number)?;
                match file.directory() {
                    Ok(_) => Look::Symlink(file.current_path()?.as_bytes().to_vec()),
                    Err(_) => Look::Other,
                }
            }
            _ => Look::Other,
        })
    }

    fn status(&self, caller: &Caller<'_>, at: Inside<'_>, follow: Follow) -> Answer<Status> {
        match self.find(caller, at)? {
            Node::Link(_) if follow == Follow::Yes => Err(Errno::ELOOP),
            Node::Descriptor(number) if follow == Follow::Yes => caller.descriptors.get(number)?.status(),
            node => self.status_of(caller, at, &node),
        }
    }

    fn open(&self, caller: &Caller<'_>, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened> {
        let node = match self.find(caller, at) {
            // Nobody makes files here.
            Err(Errno::ENOENT) if request.creates() => return Err(Errno::EACCES),
            found => found?,
        };
        if request.creates_only() {
            return Err(Errno::EEXIST);
        }
        let names_link = request.has(OFlag::O_PATH | OFlag::O_NOFOLLOW);
        match &node {
            Node::Directory(names) => {
                if request.creates() || request.writes() {
                    return Err(Errno::EISDIR);
                }
                let status = self.status_of(caller, at, &node)?;
                let path = self.mount_point.join(at.path);
                let mut directory = SyntheticDirectory::new(names, status, path, &self.holding)?;
                directory.takes_sync = self.source.takes_sync(&node);
                return Ok(Opened::Directory(Box::new(directory)));
            }
            Node::Link(_) | Node::Descriptor(_) if names_link => {}
            Node::Link(_) => return Err(Errno::ELOOP),
            Node::Descriptor(_) if request.follow() == Follow::No => return Err(Errno::ELOOP),
            Node::Descriptor(number) => {
                let file = caller.descriptors.get(*number)?;
                if request.has(OFlag::O_DIRECTORY) {
                    file.directory()?;
                }
                return Ok(Opened::Existing(*number));
            }
            _ if request.has(OFlag::O_DIRECTORY) => return Err(Errno::ENOTDIR),
            Node::Device(device) => return Ok(Opened::New(Object::Host(device.open(request)?))),
            Node::Pci(file) => {
                let status = self.status_of(caller, at, &node)?;
                return Ok(Opened::New(file.open(status, request)?));
            }
            Node::ForkPoint(node) => {
                let status = self.status_of(caller, at, &Node::ForkPoint(node.clone()))?;
                return Ok(Opened::New(node.open(status, request)?));
            }
            Node::Text(_) | Node::Fixed(_) if request.writes() => return Err(Errno::EACCES),
            Node::Text(_) | Node::Fixed(_) => {}
        }
        self.open_text(caller, at, &node, request)
    }

    fn access(&self, caller: &Caller<'_>, at: Inside<'_>, follow: Follow, mode: u32) -> Answer<()> {
        let status = self.status(caller, at, follow)?;
        // access's bits are those of the last digit of a mode; the guest has what anybody has.
        let granted = status.mode | status.mode >> 6;
        if status.is_symlink() || granted & mode == mode { Ok(()) } else { Err(Errno::EACCES) }
    }

    fn read_link(&self, caller: &Caller<'_>, at: Inside<'_>) -> Answer<Vec<u8>> {
        match self.find(caller, at)? {
            Node::Link(target) => Ok(target),
            Node::Descriptor(number) => {
                let file = caller.descriptors.get(number)?;
                let path = file.current_path().unwrap_or_else(|_| file.path().clone());
                Ok(path.as_bytes().to_vec())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn space(&self) -> Answer<Space> {
        Ok(space())
    }
}

/// What statfs tells of synthesized files.
pub(super) fn space() -> Space {
    Space {
        kind: libc::PROC_SUPER_MAGIC,
        block_size: 4096,
        name_length: i64::try_from(NAME_MAX).unwrap_or(0),
        ..Space::default()
    }
}

/// A node of a table of paths: a file that is in it, or a directory that one of them is beneath.
fn table_node<T: Copy>(table: &[(&str, T)], names: &[&[u8]], file: impl Fn(T) -> Node) -> Option<Node> {
    let path = names.join(&b'/');
    if let Some((_, found)) = table.iter().find(|(name, _)| name.as_bytes() == path) {
        return Some(file(*found));
    }
    let mut beneath: Vec<(Vec<u8>, u8)> = Vec::new();
    for (name, _) in table {
        let rest = match name.as_bytes().strip_prefix(&path[..]) {
            Some(rest) if path.is_empty() => rest,
            Some([b'/', rest @ ..]) => rest,
            _ => continue,
        };
        let mut parts = rest.split(|byte| *byte == b'/');
        let first = parts.next().unwrap_or_default().to_vec();
        let kind = if parts.next().is_some() { libc::DT_DIR } else { libc::DT_REG };
        if !beneath.iter().any(|(known, _)| *known == first) {
            beneath.push((first, kind));
        }
    }
    if beneath.is_empty() { None } else { Some(Node::Directory(beneath)) }
}

/// A number for a file, the same each time: the FNV-1a hash of its path.
fn inode(path: &[u8]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    path.iter().fold(0xcbf2_9ce4_8422_2325, hash)
}

/// Text as it was when the file was opened.
#[derive(Debug)]
struct Text {
    bytes: Held<Box<[u8]>>,
    takes_sync: bool,
}

impl SynthesizedFile for Text {
    fn read(&self, offset: u64, length: usize) -> Answer<Vec<u8>> {
        Ok(slice(&self.bytes, offset, length).to_vec())
    }

    fn size(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    fn write_back(&self) -> Answer<()> {
        if self.takes_sync { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// The bytes of `bytes` from `offset` on, at most `length` of them.
fn slice(bytes: &[u8], offset: u64, length: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let rest = &bytes[start..];
    &rest[..length.min(rest.len())]
}

/// An open directory of a synthesized tree: the names as they were when it was opened.
#[derive(Debug)]
struct SyntheticDirectory {
    entries: Held<Vec<Entry>>,
    status: Status,
    path: GuestPath,
    next: Mutex<usize>,
    takes_sync: bool,
}

impl SyntheticDirectory {
    fn new(names: &[(Vec<u8>, u8)], status: Status, path: GuestPath, holding: &Holding) -> Answer<Self> {
        let dots = [(b".".to_vec(), libc::DT_DIR), (b"..".to_vec(), libc::DT_DIR)];
        let entry = |(name, kind): &(Vec<u8>, u8)| Entry {
            inode: if name == b"." { status.inode } else { inode(path.join(name).as_bytes()) },
            kind: *kind,
            name: name.clone(),
        };
        let entries: Vec<Entry> = dots.iter().chain(names).map(entry).collect();
        let bytes = entries.iter().map(|entry| size_of::<Entry>() + entry.name.len()).sum();
        Ok(Self {
            entries: holding.hold(entries, bytes)?,
            status,
            path,
            next: Mutex::new(0),
            takes_sync: false,
        })
    }
}

impl OpenDirectory for SyntheticDirectory {
    fn status(&self) -> Answer<Status> {
        Ok(self.status)
    }

    fn current_path(&self) -> Answer<Option<GuestPath>> {
        Ok(Some(self.path.clone()))
    }

    fn read_entries(&self, limit: usize) -> Answer<Vec<u8>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = Records::new(limit);
        while let Some(entry) = self.entries.get(*next) {
            if !records.push(entry, i64::try_from(*next + 1).unwrap_or(i64::MAX)) {
                return records.finish(true);
            }
            *next += 1;
        }
        records.finish(false)
    }

    fn seek_entries(&self, position: i64) -> Answer<i64> {
        let index = usize::try_from(position).map_err(|_| Errno::EINVAL)?;
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = index;
        Ok(position)
    }

    fn position(&self) -> Answer<i64> {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        i64::try_from(next).map_err(|_| Errno::EOVERFLOW)
    }

    fn space(&self) -> Answer<Space> {
        Ok(space())
    }

    fn write_back(&self) -> Answer<()> {
        if self.takes_sync { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
