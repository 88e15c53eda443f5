//! Tests of the guest's files on temporary directories.

mod descriptors;
mod escapes;
mod fork_point;
mod hostile;
mod image;
mod layout;
mod oracle;
mod overlay;
mod publish;
mod read_only;
mod resolution;
mod synthesized;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Once},
};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use super::{
    At, Descriptors, Files, Follow, Grant, Layout, Object, OpenFile, OpenRequest, Removal, Renaming, Status,
    facts::NoProcess, listing::listed,
};

/// Bytes that the private files of a test may take.
const PRIVATE_BYTES: u64 = 1 << 20;

/// A guest's files over temporary directories: `/rw` can be changed, `/ro` can't.
#[derive(Debug)]
struct World {
    host: Arc<tempfile::TempDir>,
    grants: Vec<Grant>,
    /// `/rw` is an overlay.
    overlay: bool,
    files: Files,
}

impl World {
    fn new() -> Self {
        Self::with_grants(|_| Vec::new())
    }

    /// As [`World::new`], but `/rw` is an overlay over what `fill` puts into the host's directory.
    fn over(fill: impl FnOnce(&Path)) -> Self {
        let world = Self::new();
        fill(&world.on_host("rw"));
        Self { files: files(&world.grants, true), overlay: true, ..world }
    }

    /// As [`World::new`], with more grants below the temporary directory.
    fn with_grants(more: impl FnOnce(&Path) -> Vec<Grant>) -> Self {
        // As the monitor does: the mask is the guest's own, and what tests make beside it has the modes that they name.
        static MASK: Once = Once::new();
        MASK.call_once(|| {
            umask(Mode::empty());
        });
        let host = tempfile::tempdir().unwrap();
        for directory in ["rw", "ro", "outside"] {
            std::fs::create_dir(host.path().join(directory)).unwrap();
        }
        std::fs::write(host.path().join("outside/secret"), "secret").unwrap();
        let grant = |name: &str, writable| Grant {
            host: host.path().join(name),
            guest: Path::new("/").join(name),
            writable,
        };
        let mut grants = vec![grant("rw", true), grant("ro", false)];
        grants.extend(more(host.path()));
        let files = files(&grants, false);
        Self { host: Arc::new(host), grants, overlay: false, files }
    }

    /// Another guest over the same directories of the host.
    fn again(&self) -> Self {
        let files = files(&self.grants, self.overlay);
        Self { host: Arc::clone(&self.host), grants: self.grants.clone(), overlay: self.overlay, files }
    }

    /// A path on the host, below the temporary directory.
    fn on_host(&self, path: &str) -> PathBuf {
        self.host.path().join(path)
    }

    fn open(&mut self, path: &str, flags: i32) -> Result<i32, Errno> {
        self.open_at(libc::AT_FDCWD, path, flags)
    }

    fn open_at(&mut self, directory: i32, path: &str, flags: i32) -> Result<i32, Errno> {
        let at = self.files.at(directory, path.as_bytes())?;
        self.files.open(&NoProcess, &at, OpenRequest::new(flags, 0o666), false)
    }

    fn file(&self, number: i32) -> Arc<OpenFile> {
        self.files.descriptors().get(number).unwrap()
    }

    fn status(&self, path: &str, follow: Follow) -> Result<Status, Errno> {
        self.run(path, |files, at| files.view().status(&files.caller(&NoProcess), at, follow))
    }

    fn exists(&self, path: &str) -> Result<(), Errno> {
        self.status(path, Follow::Yes).map(drop)
    }

    fn read_link(&self, path: &str) -> Result<String, Errno> {
        let target = self.run(path, |files, at| files.view().read_link(&files.caller(&NoProcess), at))?;
        Ok(String::from_utf8(target).unwrap())
    }

    fn make_directory(&self, path: &str) -> Result<(), Errno> {
        self.run(path, |files, at| files.view().make_directory(&files.caller(&NoProcess), at, 0o755))
    }

    fn make_symlink(&self, target: &str, path: &str) -> Result<(), Errno> {
        self.run(path, |files, at| {
            files.view().make_symlink(&files.caller(&NoProcess), target.as_bytes(), at)
        })
    }

    fn remove(&self, path: &str, what: Removal) -> Result<(), Errno> {
        self.run(path, |files, at| files.view().remove(&files.caller(&NoProcess), at, what))
    }

    fn rename(&self, from: &str, to: &str, how: Renaming) -> Result<(), Errno> {
        let from = self.files.at(libc::AT_FDCWD, from.as_bytes())?;
        self.run(to, |files, to| files.view().rename(&files.caller(&NoProcess), &from, to, how))
    }

    fn link(&self, from: &str, to: &str, follow: Follow) -> Result<(), Errno> {
        let from = self.files.at(libc::AT_FDCWD, from.as_bytes())?;
        self.run(to, |files, to| files.view().link(&files.caller(&NoProcess), &from, follow, to))
    }

    fn change_mode(&self, path: &str, mode: u32) -> Result<(), Errno> {
        self.run(path, |files, at| files.view().change_mode(&files.caller(&NoProcess), at, mode))
    }

    fn change_times(&self, path: &str, follow: Follow, times: &super::Times) -> Result<(), Errno> {
        self.run(path, |files, at| files.view().change_times(&files.caller(&NoProcess), at, follow, times))
    }

    fn access(&self, path: &str, mode: u32) -> Result<(), Errno> {
        self.run(path, |files, at| files.view().access(&files.caller(&NoProcess), at, Follow::Yes, mode))
    }

    fn change_directory(&mut self, path: &str) -> Result<(), Errno> {
        let at = self.files.at(libc::AT_FDCWD, path.as_bytes())?;
        self.files.change_directory(&NoProcess, &at)
    }

    fn directory(&self) -> Result<String, Errno> {
        self.files.directory().map(|path| path.to_string())
    }

    /// The sorted names in a directory, without the dots.
    fn list(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        let number = self.open(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let file = self.file(number);
        self.files.descriptors_mut().close(number)?;
        let mut names = list_all(&file, 4096)?;
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    /// All of a file.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        let number = self.open(path, libc::O_RDONLY)?;
        let file = self.file(number);
        self.files.descriptors_mut().close(number)?;
        read_all(&file)
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let number = self.open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)?;
        let file = self.file(number);
        self.files.descriptors_mut().close(number)?;
        write_to(&file, None, bytes)
    }

    fn run<T>(&self, path: &str, act: impl FnOnce(&Files, &At<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        act(&self.files, &self.files.at(libc::AT_FDCWD, path.as_bytes())?)
    }
}

fn files(grants: &[Grant], overlay: bool) -> Files {
    let layout = Layout {
        grants: grants.to_vec(),
        working_directory: PathBuf::from("/"),
        private_bytes: PRIVATE_BYTES,
        functions: Vec::new(),
        overlay,
        checkpoints: None,
        hidden: Vec::new(),
    };
    let (view, start) = layout.build().unwrap();
    Files::new(view, Descriptors::empty(), &start).unwrap()
}

/// Every name that a directory lists from where it stands.
fn list_all(file: &OpenFile, limit: usize) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    loop {
        let records = file.directory()?.read_entries(limit)?;
        if records.is_empty() {
            return Ok(names);
        }
        names.extend(listed(&records));
    }
}

fn read_all(file: &OpenFile) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 1 << 16];
    let count = match file.object() {
        Object::Synthesized(handle) => return handle.read(None, bytes.len()),
        Object::PciBar(_) => return Err(Errno::EIO),
        Object::Memory(_) => return read_at(file, None, bytes.len()),
        _ => nix::unistd::read(file.host().ok_or(Errno::EISDIR)?, &mut bytes)?,
    };
    bytes.truncate(count);
    Ok(bytes)
}

/// Writes where the file stands, or at an offset, as the system calls do.
fn write_to(file: &OpenFile, offset: Option<u64>, bytes: &[u8]) -> Result<(), Errno> {
    let fd = file.host().ok_or(Errno::EBADF)?;
    let write = || match offset {
        Some(offset) => nix::sys::uio::pwrite(fd, bytes, offset.cast_signed()),
        None => nix::unistd::write(fd, bytes),
    };
    let Object::Memory(handle) = file.object() else { return write().map(drop) };
    let reserved = handle.reserve_write(offset, bytes.len())?;
    let count = write();
    handle.written(reserved, count.unwrap_or(0))?;
    count.map(drop)
}

/// Reads where the file stands, or at an offset, as the system calls do.
fn read_at(file: &OpenFile, offset: Option<u64>, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let fd = file.host().ok_or(Errno::EISDIR)?;
    let parts = match file.object() {
        Object::Memory(handle) => handle.parts(offset, length as u64)?.map(|parts| (handle, parts)),
        _ => None,
    };
    let Some((handle, parts)) = parts else {
        let count = match offset {
            Some(offset) => nix::sys::uio::pread(fd, &mut bytes, offset.cast_signed())?,
            None => nix::unistd::read(fd, &mut bytes)?,
        };
        bytes.truncate(count);
        return Ok(bytes);
    };
    let mut done = 0;
    for part in parts {
        let length = usize::try_from(part.bytes.end - part.bytes.start).unwrap();
        let into = &mut bytes[done..done + length];
        done +=
            handle.read_part(&part, |fd| nix::sys::uio::pread(fd, into, part.bytes.start.cast_signed()))?;
    }
    if offset.is_none() {
        handle.seek(i64::try_from(done).unwrap(), nix::unistd::Whence::SeekCur)?;
    }
    bytes.truncate(done);
    Ok(bytes)
}
