//! The host's directory beneath an overlay: it is read and never changed.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag},
    sys::stat::fstat,
    unistd::{AccessFlags, faccessat, geteuid},
};

use super::super::{
    Caller,
    backend::{Answer, Backend, Follow, Look, OpenRequest, Opened},
    host::{HostTree, own_link, reopen},
    listing::{LISTING_BYTES, records},
    open::OpenDirectory,
    path::Inside,
    status::Status,
};

/// The host's directory beneath an overlay.
#[derive(Debug)]
pub(super) struct Lower {
    host: HostTree,
}

/// A file or link of the host whose bytes nobody asked for yet, under whatever name the guest has it by now.
#[derive(Clone, Debug)]
pub(super) struct LowerNode {
    /// Where it is on the host, below the granted directory.
    pub path: Vec<u8>,
    /// What the host told of it when it was taken.
    pub status: Status,
    /// Names that it has by now.
    pub links: u64,
}

impl Lower {
    pub(super) fn new(host: HostTree) -> Self {
        Self { host }
    }

    pub(super) fn host(&self) -> &HostTree {
        &self.host
    }

    pub(super) fn look(&self, caller: &Caller<'_>, path: &[u8]) -> Answer<Look> {
        self.host.look(caller, Inside::new(path))
    }

    pub(super) fn access(&self, caller: &Caller<'_>, path: &[u8], follow: Follow, mode: u32) -> Answer<()> {
        self.host.access(caller, Inside::new(path), follow, mode)
    }

    /// What the host tells of a name, of a link itself.
    pub(super) fn status(&self, at: Inside<'_>) -> Answer<Status> {
        Ok(Status::from(&self.host.name(at)?.1))
    }

    /// Opens a regular file to read it.
    pub(super) fn open(&self, path: &[u8]) -> Answer<(OwnedFd, Status)> {
        let (fd, stat) = self.host.name(Inside::new(path))?;
        let status = Status::from(&stat);
        if status.kind() != libc::S_IFREG {
            return Err(Errno::ESTALE);
        }
        let fd = reopen(&fd, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let status = Status::from(&fstat(&fd)?);
        Ok((fd, status))
    }

    /// Whether the monitor's user could do this on the host; `EACCES` if not.
    pub(super) fn check_access(&self, path: &[u8], mode: AccessFlags) -> Answer<()> {
        let (fd, _) = self.host.name(Inside::new(path))?;
        faccessat(AT_FDCWD, &*own_link(&fd), mode, AtFlags::empty())
    }

    /// Opens a directory to list it.
    pub(super) fn list(&self, caller: &Caller<'_>, path: &[u8]) -> Answer<Box<dyn OpenDirectory>> {
        let request = OpenRequest::new((OFlag::O_RDONLY | OFlag::O_DIRECTORY).bits(), 0);
        match self.host.open(caller, Inside::new(path), &request)? {
            Opened::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Whether a directory has a name that isn't among `hidden`.
    pub(super) fn has_others(&self, path: &[u8], hidden: impl Fn(&[u8]) -> bool) -> Answer<bool> {
        let (fd, _) = self.host.name(Inside::new(path))?;
        let fd = reopen(&fd, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)?;
        let mut buffer = vec![0; LISTING_BYTES];
        loop {
            let count = crate::host::calls::read_entries(fd.as_fd(), &mut buffer)?;
            if count == 0 {
                return Ok(false);
            }
            let counts = |name: &[u8]| !matches!(name, b"." | b"..") && !hidden(name);
            if records(&buffer[..count]).any(|record| counts(record.name)) {
                return Ok(true);
            }
        }
    }
}

/// Whether the monitor acts with the rights of a file's owner.
pub(super) fn is_owner(user: u32) -> bool {
    let me = geteuid();
    me.is_root() || me.as_raw() == user
}
