//! Whose turn it is to change a directory.
//!
//! Two runs with the same directory must not take each other's steps, and what a killed one had only begun to write
//! is to be removed by the next. So whoever publishes holds a lock on a file of the directory's beside the records,
//! in which the name of its staging directory is. The lock goes with its process, the file stays until somebody
//! has looked after what it names.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    PublishError,
    record::{self, Record, place},
    stage,
};
use crate::host::private;

/// The turn. It ends when this is dropped.
pub(in crate::guest::app::files) struct Claim {
    lock: File,
    path: PathBuf,
}

/// What an earlier run had left of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// New files that weren't all written when it was killed: they are removed, and nothing was changed.
    Remains,
    /// Changes of which some were done: all are, now.
    Changes,
}

impl Claim {
    /// Waits for the turn.
    pub(in crate::guest::app::files) fn take(records: &Path, directory: &Path) -> Result<Self, PublishError> {
        let path = place(records, directory, "lock")?;
        let lock = lock(records, directory, &path);
        let lock = lock.map_err(|source| PublishError::Record { path: path.clone(), source })?;
        Ok(Self { lock, path })
    }

    /// Notes the name of the staging directory, durably, before there is one.
    pub(in crate::guest::app::files) fn note(&mut self, stage: &str) -> Result<(), PublishError> {
        let noted = self.lock.rewind().and_then(|()| self.lock.write_all(stage.as_bytes()));
        let records = self.path.parent().unwrap_or(Path::new("/"));
        let noted = noted.and_then(|()| self.lock.sync_all()).and_then(|()| File::open(records)?.sync_all());
        noted.map_err(|source| PublishError::Record { path: self.path.clone(), source })
    }

    /// Finishes what an earlier run had begun, or removes what is left of it.
    pub(in crate::guest::app::files) fn finish(
        &mut self,
        records: &Path,
        directory: &Path,
    ) -> Result<Left, PublishError> {
        if let Some(record) = Record::read(records, directory)? {
            record.apply(&record::open(directory, record.file())?)?;
            return Ok(Left::Changes);
        }
        let failed = |source| PublishError::Record { path: self.path.clone(), source };
        private::check(&self.lock).and_then(|alone| alone.map_err(io::Error::other)).map_err(failed)?;
        let mut name = String::new();
        self.lock.rewind().map_err(failed)?;
        Read::by_ref(&mut self.lock).take(stage::NAME_BYTES).read_to_string(&mut name).map_err(failed)?;
        // A name that is cut off is of a directory that wasn't made yet.
        if !stage::is_name(&name) {
            return Ok(Left::Nothing);
        }
        let remains = directory.join(name);
        match fs::remove_dir_all(&remains) {
            Ok(()) => Ok(Left::Remains),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Left::Nothing),
            Err(source) => Err(PublishError::Record { path: remains, source }),
        }
    }
}

#[cfg(test)]
impl Claim {
    /// Ends the turn as a kill does: the lock goes, its file stays.
    pub(in crate::guest::app::files) fn die(self) {
        let this = std::mem::ManuallyDrop::new(self);
        this.lock.unlock().expect("a lock that is held can be given up");
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the lock is still held: who waits for it sees then that the file is none any more.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a file that is of no use stays behind");
        }
    }
}

fn lock(records: &Path, directory: &Path, path: &Path) -> io::Result<File> {
    private::make_directory(records)?;
    loop {
        let lock = private::create(path, false)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::info!(directory = %directory.display(), "waiting for another run that changes it");
                lock.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it may have removed the file meanwhile.
        if fs::symlink_metadata(path).is_ok_and(|now| is_same(&lock, &now)) {
            return Ok(lock);
        }
    }
}

fn is_same(file: &File, now: &fs::Metadata) -> bool {
    file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
}

/// Finishes what an earlier run began to apply to a directory, or removes what is left of it.
///
/// # Errors
/// [`PublishError`]: `Halfway` when it can't be finished now either.
pub fn resume(directory: &Path, records: &Path) -> Result<Left, PublishError> {
    for kind in ["lock", "json"] {
        let path = place(records, directory, kind)?;
        if path.try_exists().map_err(|source| PublishError::Record { path, source })? {
            return Claim::take(records, directory)?.finish(records, directory);
        }
    }
    Ok(Left::Nothing)
}
