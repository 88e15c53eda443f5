//! The monitor's own directories: that of its user, which has the key for checkpoints and the records of changes, and
//! the store, whose records a guest that had read it could imitate. No guest sees them, whatever it is granted.

use std::{
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::path::GuestPath;
use crate::host::private;

/// What the host calls a directory by, under whatever path: the number of its file system and its own there. The
/// same directory has it where it is mounted once more.
type Identity = (u64, u64);

/// A directory of the monitor's own.
#[derive(Debug)]
pub(super) struct Hidden {
    /// Its path without links. The end of it may not exist yet.
    path: PathBuf,
    identity: Option<Identity>,
    /// The directories that lead to it, and what follows them in its path.
    above: Vec<(Identity, Vec<u8>)>,
}

/// Where such a directory is, seen from another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Not to be reached from there.
    Apart,
    /// Beneath it, at this path.
    Beneath(Vec<u8>),
    /// It is that directory, or above it.
    Around,
}

impl Hidden {
    /// Finds the directory by its path, of which the end need not exist.
    pub(super) fn find(path: &Path) -> Self {
        // What the monitor can't get at, the guest, which acts with its rights, can't either.
        let existing = path.ancestors().find_map(|above| {
            let found = above.canonicalize().ok()?;
            Some(found.join(path.strip_prefix(above).ok()?))
        });
        let path = existing.unwrap_or_else(|| path.to_owned());
        let beneath =
            |above: &Path| path.strip_prefix(above).ok().map(|rest| rest.as_os_str().as_bytes().to_vec());
        let above =
            path.ancestors().skip(1).filter_map(|above| Some((identity(above)?, beneath(above)?))).collect();
        Self { identity: identity(&path), above, path }
    }

    /// Its path on the host.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, seen from a directory of the host, given by its path without links.
    pub(super) fn seen_from(&self, directory: &Path) -> Relation {
        let is_own = |above: &Path| self.identity.is_some() && identity(above) == self.identity;
        if directory.ancestors().any(is_own) {
            return Relation::Around;
        }
        let from = identity(directory);
        match self.above.iter().find(|(above, _)| Some(*above) == from) {
            Some((_, beneath)) => Relation::Beneath(beneath.clone()),
            None => Relation::Apart,
        }
    }

    /// Makes it, so that nobody who may write above it makes another in its place.
    pub(super) fn make(&self) -> io::Result<()> {
        private::make_directory(&self.path)
    }
}

/// Where the guest would see something beneath a mount.
pub(super) fn point(mount: &GuestPath, beneath: &[u8]) -> GuestPath {
    GuestPath::from_clean(mount.join(beneath).as_bytes())
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}
