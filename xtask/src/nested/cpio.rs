//! Writing an initramfs: a cpio archive in the format "newc", which the kernel unpacks into its first file system.
//!
//! An entry is a header of thirteen numbers of eight hexadecimal digits, the path with a NUL, and the content, each
//! padded to a multiple of four bytes (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const MAGIC: &str = "070701";
/// Path of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
/// The bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o7777;

/// An archive that is being written. Directories above an entry are added by themselves; everything belongs to
/// root; of two entries with one path the first counts.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    /// Bytes written.
    length: u64,
    paths: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, length: 0, paths: BTreeSet::new() }
    }

    /// Adds `source`, a file, a directory (without what is in it) or a symbolic link, as `path`.
    ///
    /// # Errors
    /// The source can't be read or is nothing of these, or the archive can't be written.
    pub(crate) fn copy(&mut self, source: &Path, path: &Path) -> Result<()> {
        let copied = self.try_copy(source, path);
        copied.with_context(|| format!("packing {} as {}", source.display(), path.display()))
    }

    fn try_copy(&mut self, source: &Path, path: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(source)?;
        if metadata.is_dir() {
            self.directory(path)
        } else if metadata.is_symlink() {
            self.symlink(path, &fs::read_link(source)?)
        } else if metadata.is_file() {
            let mode = REGULAR | (metadata.mode() & PERMISSIONS);
            self.entry(path, mode, metadata.len(), &mut File::open(source)?)
        } else {
            Err(io::Error::other("neither a file nor a directory nor a link"))
        }
    }

    /// Adds the directory `path`.
    ///
    /// # Errors
    /// The archive can't be written.
    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, 0, &mut io::empty())
    }

    /// Adds the symbolic link `path` to `target`.
    ///
    /// # Errors
    /// The archive can't be written.
    pub(crate) fn symlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let target = target.as_os_str().as_bytes();
        self.entry(path, SYMLINK | 0o777, target.len() as u64, &mut &*target)
    }

    /// Adds a file `path` with this content.
    ///
    /// # Errors
    /// The archive can't be written.
    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | 0o644, content.len() as u64, &mut &*content)
    }

    /// Adds a file `path` with this content, which can be executed.
    ///
    /// # Errors
    /// The archive can't be written.
    pub(crate) fn program(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | 0o755, content.len() as u64, &mut &*content)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// The archive can't be written.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.write(Path::new(TRAILER), 0, 0, &mut io::empty())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &Path, mode: u32, length: u64, content: &mut dyn Read) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || self.paths.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.paths.insert(path.to_owned());
        self.write(path, mode, length, content)
    }

    fn write(&mut self, path: &Path, mode: u32, length: u64, content: &mut dyn Read) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let size = u32::try_from(length).map_err(|_| io::Error::other("larger than cpio can say: 4 GiB"))?;
        let inode = u32::try_from(self.paths.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // Inode, mode, user, group, links, time, size, device (two numbers) and that of a device node, name, check.
        let numbers = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = MAGIC.to_owned();
        header.extend(numbers.map(|number| format!("{number:08x}")));
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(&[0])?;
        self.pad(header.len() as u64 + u64::from(name_size))?;
        let copied = io::copy(&mut content.take(length), &mut self.out)?;
        if copied != length {
            return Err(io::Error::other("became shorter while it was packed"));
        }
        self.pad(length)
    }

    /// Accounts for `written` bytes and fills up to a multiple of four.
    fn pad(&mut self, written: u64) -> io::Result<()> {
        self.length += written;
        while !self.length.is_multiple_of(4) {
            self.out.write_all(&[0])?;
            self.length += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_bring_their_directories_once_and_are_aligned() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/b/one"), b"12345").unwrap();
        archive.symlink(Path::new("a/two"), Path::new("b/one")).unwrap();
        archive.file(Path::new("/a/b/one"), b"another").unwrap();
        let bytes = archive.finish().unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let starts: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(MAGIC.as_bytes())).collect();
        let names: Vec<&str> = starts
            .iter()
            .map(|at| std::str::from_utf8(&bytes[at + 110..]).unwrap().split('\0').next().unwrap())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/two", TRAILER]);
        assert!(starts.iter().all(|at| at.is_multiple_of(4)));
        let header = std::str::from_utf8(&bytes[starts[2]..starts[2] + 110]).unwrap();
        assert_eq!(&header[14..22], "000081a4", "a regular file, rw-r--r--");
        assert_eq!(&header[54..62], "00000005", "five bytes");
    }
}
