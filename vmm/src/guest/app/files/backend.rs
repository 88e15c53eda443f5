//! What the view asks of the thing behind a mount.

use std::{fmt::Debug, os::fd::AsFd, path::PathBuf, sync::Arc};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{statfs::fstatfs, time::TimeSpec},
};

use super::{
    Caller,
    memory::MemoryTree,
    open::{Object, OpenDirectory, OpenFile},
    path::Inside,
    status::Status,
};

/// An answer for the guest: a value or the error number it gets.
pub(super) type Answer<T> = Result<T, Errno>;

/// What is at a place, as far as the walk needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Directory,
    /// A symbolic link and its target, to be read in the guest's own tree.
    Symlink(Vec<u8>),
    /// Anything else, also a link that leads to an open file and not to a path.
    Other,
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The file that it leads to is meant.
    Yes,
    /// The link itself is meant.
    No,
}

/// How a file is to be opened; the flags are only those that the monitor passes on.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    flags: OFlag,
    mode: u32,
}

impl OpenRequest {
    /// Reads the guest's flags; unknown ones are dropped, as open(2) does.
    ///
    /// `O_ASYNC` is dropped because its signal would go to the monitor, `O_NOATIME` because it needs the
    /// file's owner, `O_NOCTTY` is always on because the monitor's terminal is no business of the guest.
    /// Of the mode, the set-user-ID and set-group-ID bits are dropped: no guest makes programs that run as
    /// the monitor's user.
    #[must_use]
    pub fn new(flags: i32, mode: u32) -> Self {
        let known = OFlag::O_ACCMODE
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_TRUNC
            | OFlag::O_APPEND
            | OFlag::O_NONBLOCK
            | OFlag::O_SYNC
            | OFlag::O_DIRECT
            | OFlag::O_DIRECTORY
            | OFlag::O_NOFOLLOW
            | OFlag::O_PATH
            | OFlag::O_TMPFILE;
        let mut flags = OFlag::from_bits_retain(flags) & known;
        if flags.contains(OFlag::O_PATH) {
            flags &= OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        }
        Self { flags, mode: mode & PERMISSIONS }
    }

    /// The mode with the bits of the file mode creation mask taken away.
    #[must_use]
    pub fn masked(self, umask: u32) -> Self {
        Self { mode: self.mode & !umask, ..self }
    }

    /// The flags.
    #[must_use]
    pub fn flags(&self) -> OFlag {
        self.flags
    }

    /// The permission bits of a file that this creates.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// Whether every one of `flags` is set.
    #[must_use]
    pub fn has(&self, flags: OFlag) -> bool {
        self.flags.contains(flags)
    }

    /// `O_CREAT` and not `O_PATH`.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.has(OFlag::O_CREAT)
    }

    /// `O_CREAT | O_EXCL`.
    #[must_use]
    pub fn creates_only(&self) -> bool {
        self.has(OFlag::O_CREAT | OFlag::O_EXCL)
    }

    /// `O_TMPFILE`, which contains `O_DIRECTORY`.
    #[must_use]
    pub fn unnamed(&self) -> bool {
        self.has(OFlag::O_TMPFILE)
    }

    /// Whether the open itself or the descriptor can change the file.
    #[must_use]
    pub fn writes(&self) -> bool {
        let mode = self.flags & OFlag::O_ACCMODE;
        (mode != OFlag::O_RDONLY || self.has(OFlag::O_TRUNC)) && !self.has(OFlag::O_PATH)
    }

    /// Whether a symbolic link at the end is followed.
    #[must_use]
    pub fn follow(&self) -> Follow {
        if self.has(OFlag::O_NOFOLLOW) || self.creates_only() { Follow::No } else { Follow::Yes }
    }

    /// The flags for opening a file that exists and was checked.
    #[must_use]
    pub(super) fn reopening(&self) -> OFlag {
        (self.flags - (OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW))
            | OFlag::O_CLOEXEC
            | OFlag::O_NOCTTY
    }
}

/// The mode bits that a guest can set: permissions and the sticky bit, without set-ID bits.
pub const PERMISSIONS: u32 = 0o1777;

/// What unlinkat is to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
}

/// renameat2's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renaming {
    /// `RENAME_NOREPLACE`: fail if the new name exists.
    pub keep_existing: bool,
    /// `RENAME_EXCHANGE`: both must exist and change places.
    pub exchange: bool,
}

/// New times for a file; each may be now, or left as it is (`UTIME_NOW`, `UTIME_OMIT`).
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Last read.
    pub accessed: TimeSpec,
    /// Last write.
    pub modified: TimeSpec,
}

/// What statfs tells of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Magic number of the file system type.
    pub kind: i64,
    /// Bytes of a block.
    pub block_size: i64,
    /// Blocks there are.
    pub blocks: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
    /// Blocks that an ordinary user can have.
    pub blocks_available: u64,
    /// Inodes there are.
    pub files: u64,
    /// Inodes that are free.
    pub files_free: u64,
    /// Longest name.
    pub name_length: i64,
    /// `ST_` flags.
    pub flags: i64,
}

/// The thing behind a mount: a host directory, a memory tree, or synthesized files.
///
/// No method follows a symbolic link. One in the middle of a place is `ELOOP`, and so is one at the end
/// where [`Follow::Yes`] asks for the file behind it: the view then walks the path in the guest's tree.
/// Opening for writing is refused here; other changes the view asks for only where [`Backend::writable`].
pub(super) trait Backend: Debug + Send + Sync {
    /// Whether the guest may change names and files here.
    fn writable(&self) -> bool;

    /// The tree, if it is one that belongs to the guest and is part of its checkpoints.
    fn tree(&self) -> Option<&MemoryTree> {
        None
    }

    /// The directory of the host that it shows, without symbolic links.
    fn shows(&self) -> Option<PathBuf> {
        None
    }

    fn look(&self, caller: &Caller<'_>, at: Inside<'_>) -> Answer<Look>;

    fn status(&self, caller: &Caller<'_>, at: Inside<'_>, follow: Follow) -> Answer<Status>;

    fn open(&self, caller: &Caller<'_>, at: Inside<'_>, request: &OpenRequest) -> Answer<Opened>;

    /// Makes a file as long as `size`: truncate.
    fn resize(&self, caller: &Caller<'_>, at: Inside<'_>, size: i64) -> Answer<()> {
        let request = OpenRequest::new((OFlag::O_WRONLY | OFlag::O_NONBLOCK).bits(), 0);
        match self.open(caller, at, &request)? {
            Opened::New(object) => object.set_size(size),
            Opened::Existing(number) => caller.descriptors.get(number)?.object().set_size(size),
            Opened::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn access(&self, caller: &Caller<'_>, at: Inside<'_>, follow: Follow, mode: u32) -> Answer<()>;

    /// Where the symbolic link at a place leads; `EINVAL` for anything else.
    fn read_link(&self, caller: &Caller<'_>, at: Inside<'_>) -> Answer<Vec<u8>> {
        match self.look(caller, at)? {
            Look::Symlink(_) if at.directory => Err(Errno::ELOOP),
            Look::Symlink(target) => Ok(target),
            Look::Directory | Look::Other => Err(Errno::EINVAL),
        }
    }

    fn space(&self) -> Answer<Space>;

    /// The open file that a place leads to without a path, as in /proc/self/fd.
    fn open_file(&self, _caller: &Caller<'_>, _at: Inside<'_>) -> Option<Arc<OpenFile>> {
        None
    }

    /// Makes a directory that leads to a mount point, or is one: `last`.
    fn make_mount_point(&self, _at: Inside<'_>, _last: bool) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn make_directory(&self, _at: Inside<'_>, _mode: u32) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn make_symlink(&self, _target: &[u8], _at: Inside<'_>) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn remove(&self, _at: Inside<'_>, _what: Removal) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn rename(&self, _from: Inside<'_>, _to: Inside<'_>, _how: Renaming) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn link(&self, _from: Inside<'_>, _to: Inside<'_>) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn change_mode(&self, _at: Inside<'_>, _mode: u32) -> Answer<()> {
        Err(Errno::EPERM)
    }

    fn change_times(&self, _at: Inside<'_>, _follow: Follow, _times: &Times) -> Answer<()> {
        Err(Errno::EPERM)
    }
}

/// What an open gave.
#[derive(Debug)]
pub(super) enum Opened {
    New(Object),
    Directory(Box<dyn OpenDirectory>),
    /// The descriptor of the caller with this number, to be shared: `/dev/stdin`, `/proc/self/fd/N`.
    Existing(i32),
}

/// What the host tells of the file system behind a descriptor.
pub(super) fn host_space(fd: impl AsFd) -> Answer<Space> {
    let space = fstatfs(fd)?;
    Ok(Space {
        kind: space.filesystem_type().0,
        block_size: space.block_size(),
        blocks: space.blocks(),
        blocks_free: space.blocks_free(),
        blocks_available: space.blocks_available(),
        files: space.files(),
        files_free: space.files_free(),
        name_length: space.maximum_name_length(),
        flags: 0,
    })
}
