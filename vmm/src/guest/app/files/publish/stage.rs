//! The directory in which new files wait for their place.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::{
        stat::{Mode, fchmod, futimens},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchown, fsync, ftruncate},
};

use super::{
    super::{
        backend::{Backend, Follow, OpenRequest, Opened, Removal, Renaming, Times},
        host::HostTree,
        memory::MemoryFile,
        open::Object as OpenObject,
        path::Inside,
        status::Time,
        synthetic::random_uuid,
    },
    Object, Plan, PublishError, Staged, Step,
};

/// What its name begins with; a UUID follows.
const PREFIX: &str = ".cairn-";

/// Bytes of its name.
pub(super) const NAME_BYTES: u64 = 43;

/// Whether a file says the name of a staging directory.
pub(super) fn is_name(name: &str) -> bool {
    let uuid = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    name.len() as u64 == NAME_BYTES && name.strip_prefix(PREFIX).is_some_and(uuid)
}

/// A name for a new one.
pub(in crate::guest::app::files) fn new_name() -> String {
    format!("{PREFIX}{}", random_uuid())
}

/// The staging directory of one publishing.
pub(in crate::guest::app::files) struct Stage<'a> {
    host: &'a HostTree,
    directory: &'a Path,
    name: String,
}

impl<'a> Stage<'a> {
    pub(in crate::guest::app::files) fn make(
        host: &'a HostTree,
        directory: &'a Path,
        name: String,
    ) -> Result<Self, PublishError> {
        let stage = Self { host, directory, name };
        stage
            .host
            .make_directory(Inside::new(stage.name.as_bytes()), 0o700)
            .map_err(stage.failed("no directory for new files can be made in it"))?;
        Ok(stage)
    }

    pub(in crate::guest::app::files) fn name(&self) -> &str {
        &self.name
    }

    /// Writes everything that is new and makes it durable.
    pub(in crate::guest::app::files) fn fill(&self, plan: &Plan) -> Result<(), PublishError> {
        for (id, staged, path) in &plan.staged {
            let at = object_path(&self.name, Object::Staged(*id));
            let written = match staged {
                Staged::File(file) => self.write_file(&at, file),
                Staged::Link { target, times } => self.write_link(&at, target, times),
            };
            let what = format!("{} can't be written", String::from_utf8_lossy(path));
            written.map_err(self.failed(&what))?;
        }
        Ok(())
    }

    fn write_file(&self, at: &[u8], file: &MemoryFile) -> Result<(), Errno> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let opened = self.host.open_file(Inside::new(at), &OpenRequest::new(flags, 0o600))?;
        let Opened::New(OpenObject::Host(fd)) = opened else { return Err(Errno::EIO) };
        let status = file.copy_to(fd.as_fd())?;
        if let Some((user, group)) = file.owner_beneath() {
            // The new file stands for the old one. Who may not give it away keeps it.
            let kept = fchown(&fd, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            if let Err(error) = kept {
                tracing::debug!(%error, "a file's owner isn't kept");
            }
        }
        ftruncate(&fd, status.size)?;
        fchmod(&fd, Mode::from_bits_truncate(status.mode & super::super::PERMISSIONS))?;
        set_times(fd.as_fd(), [status.accessed, status.modified])?;
        fsync(&fd)
    }

    fn write_link(&self, at: &[u8], target: &[u8], times: &[Time; 2]) -> Result<(), Errno> {
        self.host.make_symlink(target, Inside::new(at))?;
        self.host.change_times(Inside::new(at), Follow::No, &host_times(times))
    }

    /// Leaves what the guest wrote, under the names that it has there. Answers where.
    pub(in crate::guest::app::files) fn keep(&self, plan: &Plan) -> Result<PathBuf, PublishError> {
        for (id, _, path) in &plan.staged {
            let mut at = self.name.clone().into_bytes();
            let Some((above, last)) = Inside::new(path).split_last() else { continue };
            for name in above.names() {
                at.push(b'/');
                at.extend_from_slice(name);
                match self.host.make_directory(Inside::new(&at), 0o700) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(self.failed("the program's files can't be kept")(error)),
                }
            }
            at.push(b'/');
            at.extend_from_slice(last);
            let staged = object_path(&self.name, Object::Staged(*id));
            self.host
                .rename(Inside::new(&staged), Inside::new(&at), Renaming::default())
                .map_err(self.failed("the program's files can't be kept"))?;
        }
        Ok(self.directory.join(&self.name))
    }

    /// Takes back what was written before anything was changed.
    pub(in crate::guest::app::files) fn remove(&self) {
        let path = self.directory.join(&self.name);
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "files that are of no use stay behind");
        }
    }

    fn failed(&self, what: &str) -> impl FnOnce(Errno) -> PublishError {
        let (directory, what) = (self.directory.to_owned(), what.to_owned());
        move |source| PublishError::Unchanged { directory, what, source }
    }
}

/// Where an object is, below the granted directory.
pub(in crate::guest::app::files) fn object_path(stage: &str, object: Object) -> Vec<u8> {
    let name = match object {
        Object::Staged(id) => format!("{stage}/new-{id}"),
        Object::Moved(id) => format!("{stage}/moved-{id}"),
    };
    name.into_bytes()
}

/// The place where a link is made before it takes the place of another name.
pub(in crate::guest::app::files) fn link_path(stage: &str) -> Vec<u8> {
    format!("{stage}/link").into_bytes()
}

/// Removes the empty staging directory.
pub(in crate::guest::app::files) fn remove(host: &HostTree, stage: &str) -> Result<(), Errno> {
    match host.remove(Inside::new(stage.as_bytes()), Removal::Directory) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(in crate::guest::app::files) fn host_times(times: &[Time; 2]) -> Times {
    let [accessed, modified] = times.map(|time| TimeSpec::new(time.seconds, time.nanoseconds.into()));
    Times { accessed, modified }
}

fn set_times(fd: BorrowedFd<'_>, times: [Time; 2]) -> Result<(), Errno> {
    let Times { accessed, modified } = host_times(&times);
    futimens(fd, &accessed, &modified)
}

/// What a step does, for a person.
pub(in crate::guest::app::files) fn told(step: &Step) -> String {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    match step {
        Step::MoveOut { from, .. } => format!("{} can't be moved", text(from)),
        Step::Remove { path, .. } => format!("{} can't be removed", text(path)),
        Step::MakeDirectory { path, .. } => format!("{} can't be made", text(path)),
        Step::Place { path, .. } => format!("{} can't be put in its place", text(path)),
        Step::Link { to, .. } => format!("{} can't be linked", text(to)),
        Step::Attributes { path, .. } => format!("{} can't have its mode and times", text(path)),
    }
}

/// A step that was taken, for a person; None for one that another tells of.
pub(super) fn done(directory: &Path, step: &Step) -> Option<String> {
    let (what, path) = match step {
        Step::MoveOut { .. } => return None,
        Step::Remove { path, .. } => ("removed", path),
        Step::MakeDirectory { path, .. } => ("made directory", path),
        Step::Place { object: Object::Staged(_), path } => ("wrote", path),
        Step::Place { object: Object::Moved(_), path } => ("moved to", path),
        Step::Link { to, .. } => ("linked", to),
        Step::Attributes { path, .. } => ("set mode or times of", path),
    };
    let path = directory.join(OsStr::from_bytes(path));
    Some(format!("{what} {}", path.to_string_lossy().escape_debug()))
}
