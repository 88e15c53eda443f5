//! Changing the names and attributes of a writable granted directory.

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, RenameFlags, renameat2},
    sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, mkdirat, utimensat},
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};

use super::{
    super::{
        backend::{Answer, Follow, Removal, Renaming, Times},
        path::Inside,
    },
    HostTree, is, own_link,
};

/// Each acts on one name in a directory that openat2 found. None of these calls follows a symbolic link
/// under that name.
impl HostTree {
    pub(super) fn create_directory(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        let (parent, name) = self.name_parent(at)?;
        mkdirat(&parent, &*slashed(at, name), Mode::from_bits_truncate(mode))
    }

    pub(super) fn create_symlink(&self, target: &[u8], at: Inside<'_>) -> Answer<()> {
        let (parent, name) = self.name_parent(at)?;
        symlinkat(target, &parent, &*slashed(at, name))
    }

    pub(super) fn remove_name(&self, at: Inside<'_>, what: Removal) -> Answer<()> {
        let (parent, name) = self.name_parent(at)?;
        let flag = match what {
            Removal::File => UnlinkatFlags::NoRemoveDir,
            Removal::Directory => UnlinkatFlags::RemoveDir,
        };
        unlinkat(&parent, &*slashed(at, name), flag)
    }

    pub(super) fn move_name(&self, from: Inside<'_>, to: Inside<'_>, how: Renaming) -> Answer<()> {
        let (from_parent, from_name) = self.name_parent(from)?;
        let (to_parent, to_name) = self.name_parent(to)?;
        let mut flags = RenameFlags::empty();
        flags.set(RenameFlags::RENAME_NOREPLACE, how.keep_existing);
        flags.set(RenameFlags::RENAME_EXCHANGE, how.exchange);
        renameat2(&from_parent, &*slashed(from, from_name), &to_parent, &*slashed(to, to_name), flags)
    }

    pub(super) fn add_name(&self, from: Inside<'_>, to: Inside<'_>) -> Answer<()> {
        if from.directory {
            // A slash after the old name would make the kernel follow a link there. With it there can be
            // only errors, so the name is looked at here.
            let (_, stat) = self.name(from)?;
            debug_assert!(is(&stat, libc::S_IFDIR), "name() insists on a directory");
        }
        let (to_parent, to_name) = self.name_parent(to)?;
        if from.is_root() {
            // It has no name here to give to the kernel, which would refuse a directory anyhow.
            let missing = if to.directory { Errno::ENOENT } else { Errno::EPERM };
            return Err(self.name(Inside::new(to.path)).map_or(missing, |_| Errno::EEXIST));
        }
        let (from_parent, from_name) = self.name_parent(from)?;
        linkat(&from_parent, from_name, &to_parent, &*slashed(to, to_name), AtFlags::empty())
    }

    pub(super) fn set_mode(&self, at: Inside<'_>, mode: u32) -> Answer<()> {
        let (fd, stat) = self.name_followed(at, Follow::Yes)?;
        if is(&stat, libc::S_IFLNK) {
            return Err(Errno::EOPNOTSUPP);
        }
        // fchmod refuses an O_PATH descriptor and fchmodat would follow a link that was just put there.
        fchmodat(AT_FDCWD, &*own_link(&fd), Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
    }

    pub(super) fn set_times(&self, at: Inside<'_>, follow: Follow, times: &Times) -> Answer<()> {
        let (fd, stat) = self.name_followed(at, follow)?;
        if !is(&stat, libc::S_IFLNK) {
            let flag = UtimensatFlags::FollowSymlink;
            return utimensat(AT_FDCWD, &*own_link(&fd), &times.accessed, &times.modified, flag);
        }
        let (parent, name) = self.name_parent(at)?;
        utimensat(&parent, name, &times.accessed, &times.modified, UtimensatFlags::NoFollowSymlink)
    }
}

/// A name with the slash that the caller wrote: the kernel then insists on a directory, with its own error.
/// Calls that make, remove or rename a name don't follow a link there even with a slash.
fn slashed(at: Inside<'_>, name: &[u8]) -> Vec<u8> {
    let mut text = name.to_vec();
    if at.directory {
        text.push(b'/');
    }
    text
}
