//! What system calls do with paths, over whatever is mounted there.

use std::sync::Arc;

use nix::{errno::Errno, fcntl::OFlag};

use super::{
    Caller,
    backend::{Answer, Follow, OpenRequest, Opened, PERMISSIONS, Removal, Renaming, Space, Times},
    listing::{Entry, Listing},
    open::{DirectoryHandle, Object, OpenDirectory, OpenFile},
    path::{Inside, parts},
    status::Status,
    view::{At, End, FileView, Mount, Place},
};

/// `W_OK` of access(2).
const WRITE_ACCESS: u32 = 2;

/// Each fails with the error number that Linux gives, and `ELOOP`, `ENOENT`, `ENOTDIR`, `EACCES` and
/// `ENAMETOOLONG` as any lookup can.
impl FileView {
    /// openat. The mode creation mask is already applied to the request.
    ///
    /// # Errors
    /// `EROFS` for writing where it wasn't granted, `EACCES` for a device that isn't in `/dev` and for
    /// what not every user of the host may read in the system's directories.
    pub fn open(&self, caller: &Caller<'_>, at: &At<'_>, request: &OpenRequest) -> Answer<Arc<OpenFile>> {
        if request.creates() && ends_in_dots(at.path()) {
            return Err(Errno::EISDIR);
        }
        self.act(caller, at, request.follow().into(), |mount, inside, place| {
            let object = match mount.backend.open(caller, inside, request)? {
                Opened::Existing(number) => return caller.descriptors.get(number),
                Opened::New(object) => object,
                Opened::Directory(directory) => {
                    Object::Directory(self.handle(caller, mount, inside, place, directory, request))
                }
            };
            Ok(Arc::new(OpenFile::new(place.path.clone(), mount.backend.writable(), object)))
        })
    }

    /// newfstatat.
    ///
    /// # Errors
    /// Those of the lookup.
    pub fn status(&self, caller: &Caller<'_>, at: &At<'_>, follow: Follow) -> Answer<Status> {
        self.act(caller, at, follow.into(), |mount, inside, _| mount.backend.status(caller, inside, follow))
    }

    /// truncate.
    ///
    /// # Errors
    /// `EISDIR`, `EROFS`, and `EINVAL` for what is no file and for a negative size.
    pub fn resize(&self, caller: &Caller<'_>, at: &At<'_>, size: i64) -> Answer<()> {
        if size < 0 {
            return Err(Errno::EINVAL);
        }
        self.act(caller, at, End::Follow, |mount, inside, _| mount.backend.resize(caller, inside, size))
    }

    /// faccessat2; `mode` has the bits `R_OK`, `W_OK` and `X_OK`, or none to ask for existence.
    ///
    /// # Errors
    /// `EACCES`, or `EROFS` for a file that can't be written because of its mount.
    pub fn access(&self, caller: &Caller<'_>, at: &At<'_>, follow: Follow, mode: u32) -> Answer<()> {
        self.act(caller, at, follow.into(), |mount, inside, _| {
            if mode & WRITE_ACCESS != 0 && !mount.backend.writable() {
                let kind = mount.backend.status(caller, inside, follow)?.kind();
                if matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK) {
                    return Err(Errno::EROFS);
                }
            }
            mount.backend.access(caller, inside, follow, mode)
        })
    }

    /// readlinkat. A link in `/proc/self` gives the guest's own idea of a path, never the host's.
    ///
    /// # Errors
    /// `EINVAL` for what is no symbolic link.
    pub fn read_link(&self, caller: &Caller<'_>, at: &At<'_>) -> Answer<Vec<u8>> {
        self.act(caller, at, End::Link, |mount, inside, _| mount.backend.read_link(caller, inside))
    }

    /// statfs.
    ///
    /// # Errors
    /// Those of the lookup.
    pub fn space(&self, caller: &Caller<'_>, at: &At<'_>) -> Answer<Space> {
        self.act(caller, at, End::Follow, |mount, inside, _| {
            mount.backend.status(caller, inside, Follow::Yes)?;
            mount.backend.space()
        })
    }

    /// mkdirat.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `ENOSPC`.
    pub fn make_directory(&self, caller: &Caller<'_>, at: &At<'_>, mode: u32) -> Answer<()> {
        self.make(caller, at, |mount, inside| mount.backend.make_directory(inside, mode & PERMISSIONS))
    }

    /// symlinkat. The target is any text; it is read in the guest's tree when it is followed.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `ENOSPC`, and `ENOENT` for an empty target.
    pub fn make_symlink(&self, caller: &Caller<'_>, target: &[u8], at: &At<'_>) -> Answer<()> {
        super::path::check(target)?;
        self.make(caller, at, |mount, inside| mount.backend.make_symlink(target, inside))
    }

    /// linkat.
    ///
    /// # Errors
    /// `EXDEV` across mounts, `EPERM` for a directory, `EEXIST`, `EROFS`.
    pub fn link(&self, caller: &Caller<'_>, from: &At<'_>, follow: Follow, to: &At<'_>) -> Answer<()> {
        let source = self.act(caller, from, follow.into(), |mount, inside, place| {
            mount.backend.status(caller, inside, follow)?;
            Ok(Place { path: place.path.clone(), directory: place.directory })
        })?;
        self.make(caller, to, |mount, inside| {
            let (source_mount, source_inside) = self.locate(&source)?;
            if source_mount.point != mount.point {
                return Err(Errno::EXDEV);
            }
            mount.backend.link(source_inside, inside)
        })
    }

    /// unlinkat.
    ///
    /// # Errors
    /// `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EROFS`, and `EBUSY` where something is mounted.
    pub fn remove(&self, caller: &Caller<'_>, at: &At<'_>, what: Removal) -> Answer<()> {
        if ends_in_dots(at.path()) {
            self.status(caller, at, Follow::Yes)?;
            return Err(match (what, parts(at.path()).next_back()) {
                (Removal::File, _) => Errno::EISDIR,
                (Removal::Directory, Some(b".")) => Errno::EINVAL,
                (Removal::Directory, _) => Errno::ENOTEMPTY,
            });
        }
        self.act(caller, at, End::Name, |mount, inside, place| {
            if self.holds_mounts(&place.path) {
                return Err(if what == Removal::File { Errno::EISDIR } else { Errno::EBUSY });
            }
            check_changeable(caller, mount, inside)?;
            mount.backend.remove(inside, what)
        })
    }

    /// renameat2.
    ///
    /// # Errors
    /// `EXDEV` across mounts, `EBUSY` where something is mounted, `EINVAL`, `EISDIR`, `ENOTDIR`,
    /// `ENOTEMPTY`, `EEXIST`, `EROFS`.
    pub fn rename(&self, caller: &Caller<'_>, from: &At<'_>, to: &At<'_>, how: Renaming) -> Answer<()> {
        if how.exchange && how.keep_existing {
            return Err(Errno::EINVAL);
        }
        for at in [from, to] {
            if ends_in_dots(at.path()) {
                self.status(caller, at, Follow::Yes)?;
                return Err(Errno::EBUSY);
            }
        }
        self.act(caller, from, End::Name, |from_mount, from_inside, from_place| {
            self.act(caller, to, End::Name, |to_mount, to_inside, to_place| {
                if self.holds_mounts(&from_place.path) || self.holds_mounts(&to_place.path) {
                    return Err(Errno::EBUSY);
                }
                if from_mount.point != to_mount.point {
                    return Err(Errno::EXDEV);
                }
                check_changeable(caller, from_mount, from_inside)?;
                from_mount.backend.rename(from_inside, to_inside, how)
            })
        })
    }

    /// fchmodat. Set-user-ID and set-group-ID bits are dropped: no guest makes programs that run as the
    /// monitor's user.
    ///
    /// # Errors
    /// `EROFS`, `EPERM`.
    pub fn change_mode(&self, caller: &Caller<'_>, at: &At<'_>, mode: u32) -> Answer<()> {
        self.act(caller, at, End::Follow, |mount, inside, _| {
            mount.backend.status(caller, inside, Follow::Yes)?;
            if let Some(file) = mount.backend.open_file(caller, inside) {
                return file.change_mode(mode & PERMISSIONS);
            }
            check_writable(mount)?;
            mount.backend.change_mode(inside, mode & PERMISSIONS)
        })
    }

    /// Answers fchownat: the guest owns what it owns, and asking for that is no change.
    ///
    /// # Errors
    /// `EPERM` for another owner or group, `EROFS`.
    pub fn change_owner(
        &self,
        caller: &Caller<'_>,
        at: &At<'_>,
        follow: Follow,
        owner: (u32, u32),
    ) -> Answer<()> {
        self.act(caller, at, follow.into(), |mount, inside, _| {
            let status = mount.backend.status(caller, inside, follow)?;
            check_writable(mount)?;
            check_owner(&status, owner)
        })
    }

    /// utimensat.
    ///
    /// # Errors
    /// `EROFS`, and `EINVAL` for impossible nanoseconds.
    pub fn change_times(
        &self,
        caller: &Caller<'_>,
        at: &At<'_>,
        follow: Follow,
        times: &Times,
    ) -> Answer<()> {
        self.act(caller, at, follow.into(), |mount, inside, _| {
            mount.backend.status(caller, inside, follow)?;
            if let (Follow::Yes, Some(file)) = (follow, mount.backend.open_file(caller, inside)) {
                return file.change_times(times);
            }
            check_writable(mount)?;
            mount.backend.change_times(inside, follow, times)
        })
    }

    /// Makes a new name.
    fn make(
        &self,
        caller: &Caller<'_>,
        at: &At<'_>,
        make: impl Fn(&Mount, Inside<'_>) -> Answer<()>,
    ) -> Answer<()> {
        if ends_in_dots(at.path()) {
            self.status(caller, at, Follow::Yes)?;
            return Err(Errno::EEXIST);
        }
        self.act(caller, at, End::Name, |mount, inside, _| {
            let Some((parent, _)) = inside.split_last() else { return Err(Errno::EEXIST) };
            if !mount.backend.writable() {
                // Linux tells of what exists, or can't, before it tells of a read-only file system.
                return Err(match mount.backend.look(caller, Inside::new(inside.path)) {
                    Ok(_) => Errno::EEXIST,
                    Err(Errno::ENOENT) => mount.backend.look(caller, parent).err().unwrap_or(Errno::EROFS),
                    Err(error) => error,
                });
            }
            make(mount, inside)
        })
    }

    /// An open directory with the mount points that it doesn't list itself.
    fn handle(
        &self,
        caller: &Caller<'_>,
        mount: &Mount,
        inside: Inside<'_>,
        place: &Place,
        directory: Box<dyn OpenDirectory>,
        request: &OpenRequest,
    ) -> DirectoryHandle {
        let mut extra = Vec::new();
        if !request.has(OFlag::O_PATH) {
            for name in self.mounts_in(&place.path) {
                let mut below = inside.path.to_vec();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name);
                if mount.backend.look(caller, Inside::new(&below)) == Err(Errno::ENOENT) {
                    extra.push(Entry { inode: 1, kind: libc::DT_DIR, name: name.to_vec() });
                }
            }
        }
        DirectoryHandle::new(directory, Listing::new(extra), request)
    }
}

/// Refuses a change of owner that is one. `u32::MAX` leaves an owner as it is.
///
/// # Errors
/// `EPERM`.
pub fn check_owner(status: &Status, owner: (u32, u32)) -> Answer<()> {
    let kept = |wanted: u32, present: u32| wanted == u32::MAX || wanted == present;
    if kept(owner.0, status.user) && kept(owner.1, status.group) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Refuses to change a name on a read-only mount, and first what isn't there.
fn check_changeable(caller: &Caller<'_>, mount: &Mount, inside: Inside<'_>) -> Answer<()> {
    if mount.backend.writable() {
        return Ok(());
    }
    mount.backend.look(caller, Inside::new(inside.path))?;
    Err(Errno::EROFS)
}

fn check_writable(mount: &Mount) -> Answer<()> {
    if mount.backend.writable() { Ok(()) } else { Err(Errno::EROFS) }
}

/// Whether the last component is `.` or `..`.
fn ends_in_dots(path: &[u8]) -> bool {
    matches!(parts(path).next_back(), Some(b"." | b".."))
}
