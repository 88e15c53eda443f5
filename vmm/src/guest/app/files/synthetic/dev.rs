//! /dev: a handful of named devices, opened from the host by name.

use std::{os::fd::OwnedFd, sync::Arc};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{Mode, fstat, lstat},
};

use super::{
    super::{
        Caller,
        backend::{Answer, OpenRequest},
        status::Status,
    },
    Node, Source, WholeCheckpoints,
    fork_point::ForkPointNode,
};

/// A device that every guest may use.
#[derive(Debug)]
pub(in crate::guest::app::files) struct DeviceNode {
    path: &'static str,
    major: u32,
    minor: u32,
}

/// Numbers from Linux's Documentation/admin-guide/devices.txt.
static DEVICES: [(&str, DeviceNode); 6] = [
    ("null", DeviceNode { path: "/dev/null", major: 1, minor: 3 }),
    ("zero", DeviceNode { path: "/dev/zero", major: 1, minor: 5 }),
    ("full", DeviceNode { path: "/dev/full", major: 1, minor: 7 }),
    ("random", DeviceNode { path: "/dev/random", major: 1, minor: 8 }),
    ("urandom", DeviceNode { path: "/dev/urandom", major: 1, minor: 9 }),
    ("tty", DeviceNode { path: "/dev/tty", major: 5, minor: 0 }),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The name of what is there where checkpoints of the whole program are taken.
const FORK_POINT: &str = "cairn";

/// The nodes of /dev.
#[derive(Debug)]
pub(in crate::guest::app::files) struct DevSource {
    fork_point: Option<ForkPointNode>,
}

impl DevSource {
    pub(in crate::guest::app::files) fn new(checkpoints: Option<Arc<dyn WholeCheckpoints>>) -> Self {
        Self { fork_point: checkpoints.map(ForkPointNode::new) }
    }

    fn listing(&self) -> Vec<(Vec<u8>, u8)> {
        let devices = DEVICES.iter().map(|(name, _)| (name.as_bytes().to_vec(), libc::DT_CHR));
        let links = LINKS.iter().map(|(name, _)| (name.as_bytes().to_vec(), libc::DT_LNK));
        let fork_point = self.fork_point.iter().map(|_| (FORK_POINT.as_bytes().to_vec(), libc::DT_CHR));
        devices.chain(links).chain(fork_point).collect()
    }
}

impl Source for DevSource {
    /// The directory, which is one of a tmpfs elsewhere.
    fn takes_sync(&self, node: &Node) -> bool {
        matches!(node, Node::Directory(_))
    }

    /// For /dev/shm.
    fn can_hold_mounts(&self) -> bool {
        true
    }

    fn node(&self, _caller: &Caller<'_>, names: &[&[u8]]) -> Option<Node> {
        let [name] = names else {
            return names.is_empty().then(|| Node::Directory(self.listing()));
        };
        if let (b"cairn", Some(node)) = (*name, &self.fork_point) {
            return Some(Node::ForkPoint(node.clone()));
        }
        if let Some((_, device)) = DEVICES.iter().find(|(known, _)| known.as_bytes() == *name) {
            return Some(Node::Device(device));
        }
        let link = LINKS.iter().find(|(known, _)| known.as_bytes() == *name);
        link.map(|(_, target)| Node::Link(target.as_bytes().to_vec()))
    }
}

impl DeviceNode {
    pub(super) fn status(&self) -> Answer<Status> {
        let stat = lstat(self.path)?;
        self.check(stat.st_mode, stat.st_rdev)?;
        Ok(Status::from(&stat))
    }

    /// Opens the device of this name, if it is the device of this number.
    pub(super) fn open(&self, request: &OpenRequest) -> Answer<OwnedFd> {
        self.status()?;
        let flags = (request.reopening() - OFlag::O_TRUNC) | OFlag::O_NOFOLLOW;
        let fd = open(self.path, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        self.check(stat.st_mode, stat.st_rdev)?;
        Ok(fd)
    }

    fn check(&self, mode: u32, number: u64) -> Answer<()> {
        let is_this = mode & libc::S_IFMT == libc::S_IFCHR && number == libc::makedev(self.major, self.minor);
        if is_this { Ok(()) } else { Err(Errno::ENXIO) }
    }
}
