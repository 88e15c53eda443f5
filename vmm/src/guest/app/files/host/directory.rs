//! An open directory of the host.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, readlinkat},
    sys::stat::fstat,
    unistd::{Whence, lseek},
};

use super::{
    super::{
        backend::{Answer, Space, host_space},
        listing::LISTING_BYTES,
        open::OpenDirectory,
        path::GuestPath,
        status::Status,
    },
    own_link,
};
use crate::host::calls::read_entries;

/// An open directory of the host.
#[derive(Debug)]
pub(super) struct HostDirectory {
    fd: OwnedFd,
    opened_at: GuestPath,
    /// The granted directory on the host and in the guest, if directories in it may be renamed.
    movable: Option<(PathBuf, GuestPath)>,
}

impl HostDirectory {
    pub(super) fn new(fd: OwnedFd, opened_at: GuestPath, movable: Option<(PathBuf, GuestPath)>) -> Self {
        Self { fd, opened_at, movable }
    }
}

impl OpenDirectory for HostDirectory {
    fn status(&self) -> Answer<Status> {
        Ok(Status::from(&fstat(&self.fd)?))
    }

    fn current_path(&self) -> Answer<Option<GuestPath>> {
        let Some((host_root, mount_point)) = &self.movable else {
            return Ok(Some(self.opened_at.clone()));
        };
        if fstat(&self.fd)?.st_nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let now = PathBuf::from(readlinkat(AT_FDCWD, &*own_link(&self.fd))?);
        // Moved out of the grant by somebody on the host: it has no place in the guest any more.
        let inside: &Path = now.strip_prefix(host_root).map_err(|_| Errno::ENOENT)?;
        Ok(Some(mount_point.join(inside.as_os_str().as_bytes())))
    }

    fn read_entries(&self, limit: usize) -> Answer<Vec<u8>> {
        let mut buffer = vec![0; limit.min(LISTING_BYTES)];
        let count = read_entries(&self.fd, &mut buffer)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    fn seek_entries(&self, position: i64) -> Answer<i64> {
        lseek(&self.fd, position, Whence::SeekSet)
    }

    fn position(&self) -> Answer<i64> {
        lseek(&self.fd, 0, Whence::SeekCur)
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn space(&self) -> Answer<Space> {
        host_space(&self.fd)
    }
}
