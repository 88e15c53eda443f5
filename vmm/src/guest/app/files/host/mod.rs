//! A granted directory of the host.
//!
//! Every access names its file to the kernel by openat2 from the granted directory's descriptor, with
//! flags that let it go neither above that directory, nor through any symbolic link, nor into another
//! mount of the host. A name that is swapped for a link after it was looked at therefore gives an error
//! and no escape. Nothing is opened before its type is known: a name is first taken with `O_PATH`, which
//! opens nothing, and that very file is then opened through the monitor's own `/proc/self/fd`.

mod changes;
mod directory;
mod open;

pub(super) use open::reopen;

use std::{
    collections::HashSet,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
    sys::stat::{FileStat, Mode, fstat},
    sys::statfs::fstatfs,
    unistd::{AccessFlags, faccessat, truncate},
};

use super::{
    Caller,
    backend::{
        Answer, Backend, Follow, Look, OpenRequest, Opened, Removal, Renaming, Space, Times, host_space,
    },
    path::{GuestPath, Inside},
    status::Status,
};

/// Directories remembered as open to everyone; the memory is emptied when it is full. Bounds what a guest
/// can make the monitor remember.
const KNOWN_DIRECTORIES: usize = 4096;

/// Who must be allowed to read a file for the guest to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Every user of the host. The guest gets no more of the system's directories than that, also when
    /// the monitor runs as root: `/etc/shadow` and private keys stay out.
    Everyone,
    /// The monitor's user, who granted the directory.
    Monitor,
}

/// A granted directory of the host.
#[derive(Debug)]
pub(super) struct HostTree {
    root: OwnedFd,
    /// Where the directory is on the host, without symbolic links.
    host_path: PathBuf,
    /// Where the guest has it.
    mount_point: GuestPath,
    readers: Readers,
    writable: bool,
    /// Directories that were found open to everyone. A later change on the host isn't noticed.
    known: Mutex<HashSet<Vec<u8>>>,
}

impl HostTree {
    /// Opens a directory of the host for the guest. This path is the user's and may have symbolic links.
    ///
    /// # Errors
    /// The kernel's, and `EINVAL` for a directory of a kernel file system such as /proc, whose files act
    /// on the monitor itself.
    pub(super) fn open(
        path: &Path,
        mount_point: GuestPath,
        readers: Readers,
        writable: bool,
    ) -> Answer<Self> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        let root = openat2(AT_FDCWD, path, how)?;
        if is_kernel_interface(&root)? {
            return Err(Errno::EINVAL);
        }
        let host_path = PathBuf::from(readlinkat(AT_FDCWD, &*own_link(&root))?);
        Ok(Self { root, host_path, mount_point, readers, writable, known: Mutex::default() })
    }

    /// Where the directory is on the host, without symbolic links.
    pub(super) fn host_path(&self) -> &Path {
        &self.host_path
    }

    /// The granted directory, open for reading.
    pub(super) fn reopened(&self) -> Answer<OwnedFd> {
        reopen(&self.root, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
    }

    /// Opens what is at a place, if no symbolic link is on the way or, but for `O_PATH`, at its end.
    fn open_at(&self, at: Inside<'_>, flags: OFlag, mode: u32) -> Answer<OwnedFd> {
        self.open_here(at, flags, mode).map_err(|error| match error {
            // Another file system of the host is mounted there, and it wasn't granted.
            Errno::EXDEV => Errno::EACCES,
            other => other,
        })
    }

    /// As [`HostTree::open_at`], with `EXDEV` for what is in another mount of the host.
    fn open_here(&self, at: Inside<'_>, flags: OFlag, mode: u32) -> Answer<OwnedFd> {
        let path = if at.is_root() { b"." } else { at.path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(mode))
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        openat2(&self.root, path, how)
    }

    /// Names the file at a place without opening it, and tells what it is.
    pub(super) fn name(&self, at: Inside<'_>) -> Answer<(OwnedFd, FileStat)> {
        self.check_ancestors(at)?;
        let fd = self.open_at(at, OFlag::O_PATH, 0)?;
        let stat = fstat(&fd)?;
        if at.directory && !is(&stat, libc::S_IFDIR) {
            return Err(if is(&stat, libc::S_IFLNK) { Errno::ELOOP } else { Errno::ENOTDIR });
        }
        Ok((fd, stat))
    }

    /// Where a symbolic link leads.
    pub(super) fn link_target(&self, path: &[u8]) -> Answer<Vec<u8>> {
        target(&self.name(Inside::new(path))?.0)
    }

    /// Names a file and refuses a symbolic link where the file behind it is meant.
    fn name_followed(&self, at: Inside<'_>, follow: Follow) -> Answer<(OwnedFd, FileStat)> {
        let (fd, stat) = self.name(at)?;
        if follow == Follow::Yes && is(&stat, libc::S_IFLNK) {
            return Err(Errno::ELOOP);
        }
        Ok((fd, stat))
    }

    /// Names the directory that holds a place, and gives the last name. `EBUSY` for the root.
    fn name_parent<'a>(&self, at: Inside<'a>) -> Answer<(OwnedFd, &'a [u8])> {
        let (directory, name) = at.split_last().ok_or(Errno::EBUSY)?;
        match self.open_at(directory, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
            // The kernel says so of a symbolic link too, which the view would follow.
            Err(Errno::ENOTDIR) => {
                let stat = fstat(self.open_at(directory, OFlag::O_PATH, 0)?)?;
                Err(if is(&stat, libc::S_IFLNK) { Errno::ELOOP } else { Errno::ENOTDIR })
            }
            fd => Ok((fd?, name)),
        }
    }

    /// Refuses what lies in a directory that not every user may enter.
    fn check_ancestors(&self, at: Inside<'_>) -> Answer<()> {
        if self.readers == Readers::Monitor {
            return Ok(());
        }
        let Some((parent, _)) = at.split_last() else { return Ok(()) };
        if self.known_directories().contains(parent.path) {
            return Ok(());
        }
        self.check_ancestors(parent)?;
        let stat = fstat(self.open_at(parent, OFlag::O_PATH, 0)?)?;
        if is(&stat, libc::S_IFLNK) {
            return Err(Errno::ELOOP);
        }
        if !is(&stat, libc::S_IFDIR) {
            return Err(Errno::ENOTDIR);
        }
        if stat.st_mode & libc::S_IXOTH == 0 {
            return Err(Errno::EACCES);
        }
        let mut known = self.known_directories();
        if known.len() >= KNOWN_DIRECTORIES {
            known.clear();
        }
        known.insert(parent.path.to_vec());
        Ok(())
    }

    fn known_directories(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a file or directory that not every user may read.
    fn check_readable(&self, stat: &FileStat) -> Answer<()> {
        if self.readers == Readers::Everyone && stat.st_mode & libc::S_IROTH == 0 {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// access(2) on a file that only every user's rights count for.
    fn access_as_everyone(stat: &FileStat, mode: u32) -> Answer<()> {
        // access's bits are those of the last digit of a mode.
        if stat.st_mode & mode == mode { Ok(()) } else { Err(Errno::EACCES) }
    }
}

impl Backend for HostTree {
    fn writable(&self) -> bool {
        self.writable
    }

    fn shows(&self) -> Option<PathBuf> {
        Some(self.host_path.clone())
    }

    fn look(&self, _caller: &Caller<'_>, at: Inside<'_>) -> Answer<Look> {
        let (fd, stat) = self.name(Inside::new(at.path))?;
        Ok(match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => Look::Directory,
            libc::S_IFLNK => Look::Symlink(target(&fd)?),
            _ => Look::Other,
        })
    }

    fn status(&self, _caller: &Caller<'_>, at: Inside<'_>, follow: Follow) -> Answer<Status> {
        Ok(Status::from(&self.name_followed(at, follow)?.1))
    }

    fn open(&self, _caller: &Caller<'_>, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened> {
        self.open_file(at, request)
    }

    fn resize(&self, _caller: &Caller<'_>, at: Inside<'_>, size: i64) -> Answer<()> {
        // By its name, and not by a descriptor: when that is closed, the guest's record locks would go with it, as
        // the monitor is one process.
        let (fd, stat) = self.name_followed(at, Follow::Yes)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG if self.writable => truncate(&*own_link(&fd), size),
            libc::S_IFREG => Err(Errno::EROFS),
            libc::S_IFDIR => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn access(&self, _caller: &Caller<'_>, at: Inside<'_>, follow: Follow, mode: u32) -> Answer<()> {
        let (fd, stat) = self.name_followed(at, follow)?;
        if self.readers == Readers::Everyone {
            return Self::access_as_everyone(&stat, mode);
        }
        let flags = AccessFlags::from_bits_truncate(i32::try_from(mode).map_err(|_| Errno::EINVAL)?);
        if is(&stat, libc::S_IFLNK) {
            Ok(())
        } else {
            faccessat(AT_FDCWD, &*own_link(&fd), flags, AtFlags::empty())
        }
    }

    fn space(&self) -> Answer<Space> {
        host_space(&self.root)
    }

    fn make_mount_point(&self, at: Inside<'_>, last: bool) -> Answer<()> {
        match self.open_here(at, OFlag::O_PATH, 0) {
            // Nothing is made on the host; the last name is added to its directory's listing.
            Err(Errno::ENOENT) if last => Ok(()),
            // It's there, in another mount of the host, of which the guest sees what is granted by itself.
            Err(Errno::EXDEV) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Errno::EACCES),
        }
    }

    fn make_directory(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        self.create_directory(at, mode)
    }

    fn make_symlink(&self, target: &[u8], at: Inside<'_>) -> Answer<()> {
        self.create_symlink(target, at)
    }

    fn remove(&self, at: Inside<'_>, what: Removal) -> Answer<()> {
        self.remove_name(at, what)
    }

    fn rename(&self, from: Inside<'_>, to: Inside<'_>, how: Renaming) -> Answer<()> {
        self.move_name(from, to, how)
    }

    fn link(&self, from: Inside<'_>, to: Inside<'_>) -> Answer<()> {
        self.add_name(from, to)
    }

    fn change_mode(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        self.set_mode(at, mode)
    }

    fn change_times(&self, at: Inside<'_>, follow: Follow, times: &Times) -> Answer<()> {
        self.set_times(at, follow, times)
    }
}

/// The path by which the monitor reaches one of its own descriptors. Never given to a guest.
pub(super) fn own_link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether a status is of a type, one of the `S_IF` constants.
fn is(stat: &FileStat, kind: u32) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

/// Where a symbolic link that was opened with `O_PATH` leads.
fn target(link: &OwnedFd) -> Answer<Vec<u8>> {
    Ok(std::os::unix::ffi::OsStringExt::into_vec(readlinkat(link, "")?))
}

/// Whether a descriptor is on a file system whose files act on the host's kernel or on the monitor.
fn is_kernel_interface(fd: &OwnedFd) -> Answer<bool> {
    /// Magic numbers of linux/magic.h that libc doesn't name for every target.
    const KERNEL_INTERFACES: [i64; 9] = [
        libc::PROC_SUPER_MAGIC,
        libc::SYSFS_MAGIC,
        libc::DEBUGFS_MAGIC,
        libc::TRACEFS_MAGIC,
        libc::SECURITYFS_MAGIC,
        libc::CGROUP_SUPER_MAGIC,
        libc::CGROUP2_SUPER_MAGIC,
        libc::BPF_FS_MAGIC,
        libc::DEVPTS_SUPER_MAGIC,
    ];
    Ok(KERNEL_INTERFACES.contains(&fstatfs(fd)?.filesystem_type().0))
}
