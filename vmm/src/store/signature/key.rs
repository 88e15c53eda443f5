//! The user's key, in a file of the user's own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::form::Keys;
use crate::host::private::{self, Exposed};
use crate::host::random::Source;

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// The key's file in the directory of the monitor's state.
const FILE: &str = "key";

/// What the checkpoints of one user are signed with.
#[derive(Clone)]
pub struct Key(pub(super) Keys);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read or made.
    #[error("the key {path} can't be {what}")]
    Host {
        /// The file.
        path: PathBuf,
        /// "read" or "made".
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read or change it, or it's another user's.
    #[error(
        "the key {path} is not this user's alone (owner {owner}, mode {mode:03o}), so others may have signed with it: \
         remove it, and a new one is made"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
        /// The permissions.
        mode: u32,
    },
    /// It isn't one.
    #[error("{path} is no key: it must be a file of {KEY_BYTES} bytes; remove it, and a new one is made")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

impl Key {
    /// The key that is kept in `directory`, which is made with it if there is none.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of(directory: &Path) -> Result<Self, KeyError> {
        match Self::read(directory) {
            Ok(Some(key)) => return Ok(key),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        let path = directory.join(FILE);
        make(directory, &path).map_err(|source| KeyError::Host {
            path: path.clone(),
            what: "made",
            source,
        })?;
        let gone = || KeyError::Host { path, what: "read", source: io::ErrorKind::NotFound.into() };
        Self::read(directory)?.ok_or_else(gone)
    }

    /// The key that is kept in `directory`, if there is one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(directory: &Path) -> Result<Option<Self>, KeyError> {
        let path = directory.join(FILE);
        let host = |source| KeyError::Host { path: path.clone(), what: "read", source };
        let Some(mut file) = private::open(&path).map_err(host)? else { return Ok(None) };
        let about = file.metadata().map_err(host)?;
        if !about.is_file() || about.len() != KEY_BYTES as u64 {
            return Err(KeyError::NoKey { path });
        }
        if let Err(Exposed { owner, mode }) = private::check(&file).map_err(host)? {
            return Err(KeyError::Exposed { path, owner, mode });
        }
        let mut bytes = [0; KEY_BYTES];
        file.read_exact(&mut bytes).map_err(host)?;
        Ok(Some(Self(Keys::new(&bytes))))
    }
}

/// Makes a key and puts it, whole and durable, where no other is: of two that are made at once one stays.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    private::make_directory(directory)?;
    let mut random = Source::open()?;
    let bytes = [random.bits()?, random.bits()?].concat();
    // What a kill leaves of it is in nobody's way.
    let new = directory.join(format!("{FILE}.{:x}", u128::from_le_bytes(random.bits()?)));
    let mut file = private::create(&new, true)?;
    let linked =
        file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&new, path));
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(directory)?.sync_all(),
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_users_alone() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("a/b");
        assert!(Key::read(&directory).unwrap().is_none());
        let key = Key::of(&directory).unwrap();
        assert_eq!(Key::of(&directory).unwrap().0.id(), key.0.id());
        let path = directory.join(FILE);
        let about = fs::metadata(&path).unwrap();
        assert_eq!((about.mode() & 0o777, about.len()), (0o600, 32));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::of(&directory), Err(KeyError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert_eq!(Key::of(&directory).unwrap().0.id(), key.0.id());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for bytes in [&[0; 31][..], &[0; 33], &[]] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(Key::of(&directory), Err(KeyError::NoKey { .. })));
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(Key::of(&directory), Err(KeyError::Host { what: "read", .. })));
        fs::remove_file(&path).unwrap();
        assert_ne!(Key::of(&directory).unwrap().0.id(), key.0.id());
    }

    #[test]
    fn many_at_once_have_the_same() {
        let state = tempfile::tempdir().unwrap();
        let (path, barrier) = (state.path(), std::sync::Barrier::new(8));
        let ids: Vec<_> = std::thread::scope(|scope| {
            let make = || {
                barrier.wait();
                Key::of(path).unwrap().0.id()
            };
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
        assert!(ids.iter().all(|id| *id == ids[0]));
    }
}
