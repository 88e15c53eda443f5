//! Files of the monitor's that are its user's alone: what others could read or change mustn't be believed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::geteuid;

/// What others may not have of such a file.
const OTHERS: u32 = 0o077;

/// Others can read or change a file, or it's another user's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is not this user's alone (owner {owner}, mode {mode:03o})")]
pub struct Exposed {
    /// The owner's number.
    pub owner: u32,
    /// The permissions.
    pub mode: u32,
}

/// Makes a directory and those above it, for the user alone, whatever the process's umask is.
///
/// # Errors
/// The host's.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Opens a file to read and write it, which is made for the user alone if there is none, or if `new` must be made.
///
/// # Errors
/// The host's; [`io::ErrorKind::AlreadyExists`] where it must be made and is there.
pub fn create(path: &Path, new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).create_new(new).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Opens a file to read it; None if there is none. A link is not followed and a pipe not waited for.
///
/// # Errors
/// The host's.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    match options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an open file is its user's alone.
///
/// # Errors
/// The host's; within it, who else can have it.
pub fn check(file: &File) -> io::Result<Result<(), Exposed>> {
    let about = file.metadata()?;
    let (owner, mode) = (about.uid(), about.mode() & 0o777);
    let alone = owner == geteuid().as_raw() && mode & OTHERS == 0;
    Ok(if alone { Ok(()) } else { Err(Exposed { owner, mode }) })
}
