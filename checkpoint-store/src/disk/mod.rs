//! The few operations that change a store's files, so that tests can record them and make them fail.
//!
//! Reading goes past this: what a reader finds is judged by its bytes alone.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// Opens a file of a store, which is a plain file: whoever can write the directory could have left a link there that
/// leads anywhere, or a pipe at which opening waits for ever.
pub(crate) fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a link, and a store has none"),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

/// A store's directory, to change.
pub(crate) trait Disk: Send + Sync + Debug {
    /// Makes a file, in place of what has its name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in place of what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when names made, changed and deleted so far are on the disk.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A file, to change.
pub(crate) trait DiskFile: Send + Sync + Debug {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Returns when its bytes and its length are on the disk.
    fn sync(&self) -> io::Result<()>;
    /// Whether no name leads to it any more.
    fn is_deleted(&self) -> io::Result<bool>;
}

/// The host's disk.
#[derive(Debug)]
pub(crate) struct HostDisk {
    directory: PathBuf,
}

impl HostDisk {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Disk for HostDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(open_plain(OpenOptions::new().read(true).write(true), &self.path(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn is_deleted(&self) -> io::Result<bool> {
        Ok(self.metadata()?.nlink() == 0)
    }
}
