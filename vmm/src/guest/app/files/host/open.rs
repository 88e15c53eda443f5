//! Opening files of a granted directory.

use std::os::fd::OwnedFd;

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{FileStat, Mode},
};

use super::{
    super::{
        backend::{Answer, OpenRequest, Opened},
        open::Object,
        path::Inside,
    },
    HostTree,
    directory::HostDirectory,
    is, own_link,
};

/// How often an open begins again because others create and remove the same name at the same time. Bounds
/// the work that two guests with one directory can make for each other.
const RACES: usize = 16;

impl HostTree {
    /// Opens or creates the file at a place.
    pub(in crate::guest::app::files) fn open_file(
        &self,
        at: Inside<'_>,
        request: &OpenRequest,
    ) -> Answer<Opened> {
        for _ in 0..RACES {
            match self.name(at) {
                Ok((fd, stat)) => return self.open_named(at, fd, &stat, request),
                Err(Errno::ENOENT) if request.creates() => {}
                Err(error) => return Err(error),
            }
            match self.create_file(at, request) {
                Err(Errno::EEXIST) if !request.creates_only() => {}
                result => return result.map(|fd| Opened::New(Object::Host(fd))),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Opens a file that exists and that `fd` names.
    fn open_named(
        &self,
        at: Inside<'_>,
        fd: OwnedFd,
        stat: &FileStat,
        request: &OpenRequest,
    ) -> Answer<Opened> {
        if request.creates_only() {
            return Err(Errno::EEXIST);
        }
        let names_only = request.has(OFlag::O_PATH);
        if is(stat, libc::S_IFDIR) {
            return self.open_directory(at, fd, stat, request);
        }
        if is(stat, libc::S_IFLNK) && !(names_only && request.has(OFlag::O_NOFOLLOW)) {
            return Err(Errno::ELOOP);
        }
        if request.has(OFlag::O_DIRECTORY) {
            return Err(Errno::ENOTDIR);
        }
        if names_only {
            return Ok(Opened::New(Object::Host(fd)));
        }
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFIFO => {}
            libc::S_IFSOCK => return Err(Errno::ENXIO),
            // Opening a device can act on it, and no grant of a directory grants hardware.
            _ => return Err(Errno::EACCES),
        }
        if request.writes() && !self.writable {
            return Err(Errno::EROFS);
        }
        self.check_readable(stat)?;
        Ok(Opened::New(Object::Host(reopen(&fd, request.reopening())?)))
    }

    fn open_directory(
        &self,
        at: Inside<'_>,
        fd: OwnedFd,
        stat: &FileStat,
        request: &OpenRequest,
    ) -> Answer<Opened> {
        if request.unnamed() {
            return self.create_unnamed(at, request);
        }
        if request.creates() || request.writes() {
            return Err(Errno::EISDIR);
        }
        let fd = if request.has(OFlag::O_PATH) {
            fd
        } else {
            self.check_readable(stat)?;
            reopen(&fd, request.reopening())?
        };
        let guest_path = self.mount_point.join(at.path);
        let movable = self.writable.then(|| (self.host_path.clone(), self.mount_point.clone()));
        Ok(Opened::Directory(Box::new(HostDirectory::new(fd, guest_path, movable))))
    }

    fn create_file(&self, at: Inside<'_>, request: &OpenRequest) -> Answer<OwnedFd> {
        if at.directory {
            return Err(Errno::EISDIR);
        }
        if request.has(OFlag::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        if !self.writable {
            // A missing directory counts before a read-only file system.
            let (parent, _) = at.split_last().ok_or(Errno::EISDIR)?;
            self.name(parent)?;
            return Err(Errno::EROFS);
        }
        let flags = (request.reopening() - OFlag::O_TRUNC) | OFlag::O_CREAT | OFlag::O_EXCL;
        self.open_at(at, flags, request.mode())
    }

    /// `O_TMPFILE`. The file can't be given a name later: `O_EXCL` says so to the kernel.
    fn create_unnamed(&self, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened> {
        if request.flags() & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            return Err(Errno::EINVAL);
        }
        if !self.writable {
            return Err(Errno::EROFS);
        }
        let flags = request.reopening() | OFlag::O_EXCL;
        Ok(Opened::New(Object::Host(self.open_at(at, flags, request.mode())?)))
    }
}

/// Opens the file that a descriptor names: that one and no other, whatever its name leads to by now.
pub(in crate::guest::app::files) fn reopen(fd: &OwnedFd, flags: OFlag) -> Answer<OwnedFd> {
    open(&*own_link(fd), flags, Mode::empty())
}
