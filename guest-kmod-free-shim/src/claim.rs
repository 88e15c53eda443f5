//! A function that is this process's alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::lock;

/// Functions that this process has claimed, and its id: a forked child has its parent's list. Needed beside the record lock, which doesn't hold between the
/// threads of a process; and closing *any* of its descriptors of a file drops a process's locks of it, so a
/// claimed file must not be opened at all.
static CLAIMED: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());

/// A claimed resource file. Other processes and threads find it taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Open and locked. Stands before `_name`, so that it's closed before the name is free: a thread that
    /// locked the file in between would lose its lock by the close.
    file: File,
    _name: ClaimedName,
}

/// Why a resource file can't be claimed.
#[derive(Debug)]
pub(crate) enum Unclaimed {
    /// It's somebody's.
    Taken {
        /// The process that has it, if this one can see it.
        owner: Option<u32>,
    },
    /// It can't be opened for reading and writing.
    Open(io::Error),
    /// The file system has no record locks.
    Lock(Errno),
}

impl Claim {
    /// Claims the file at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self, Unclaimed> {
        let mut claimed = claimed();
        if let Some(&owner) = claimed.get(path) {
            return Err(Unclaimed::Taken { owner: Some(owner) });
        }
        let file = File::options().read(true).write(true).open(path).map_err(Unclaimed::Open)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // POSIX lets a system choose between these two.
            Err(Errno::AGAIN | Errno::ACCESS) => {
                return Err(Unclaimed::Taken { owner: lock::holder(&file) });
            }
            Err(errno) => return Err(Unclaimed::Lock(errno)),
        }
        claimed.insert(path.to_owned(), std::process::id());
        Ok(Self { file, _name: ClaimedName(path.to_owned()) })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// An entry of [`CLAIMED`].
#[derive(Debug)]
struct ClaimedName(PathBuf);

impl Drop for ClaimedName {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}

/// A panic elsewhere can't leave the set half changed.
fn claimed() -> MutexGuard<'static, BTreeMap<PathBuf, u32>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_claimed_once_until_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("cairn-claim-{}", std::process::id()));
        std::fs::write(&path, "").expect("a temporary file");
        let claim = Claim::new(&path).expect("a free file");
        let me = std::process::id();
        assert!(matches!(Claim::new(&path), Err(Unclaimed::Taken { owner: Some(pid) }) if pid == me));
        assert!(matches!(
            std::thread::spawn({
                let path = path.clone();
                move || Claim::new(&path)
            })
            .join(),
            Ok(Err(Unclaimed::Taken { .. }))
        ));
        drop(claim);
        assert!(Claim::new(&path).is_ok());
        std::fs::remove_file(&path).expect("the file just made");
        assert!(
            matches!(Claim::new(&path), Err(Unclaimed::Open(error)) if error.kind() == io::ErrorKind::NotFound)
        );
    }

    /// Runs itself in a second process, which finds the path in its environment and tells by its exit code.
    #[test]
    fn another_process_finds_it_taken() {
        const PATH: &str = "CAIRN_CLAIM_TEST_PATH";
        if let Some(path) = std::env::var_os(PATH) {
            let parent = std::os::unix::process::parent_id();
            let taken = matches!(
                Claim::new(Path::new(&path)),
                Err(Unclaimed::Taken { owner: Some(pid) }) if pid == parent
            );
            std::process::exit(if taken { 42 } else { 43 });
        }
        let path = std::env::temp_dir().join(format!("cairn-claim-other-{}", std::process::id()));
        std::fs::write(&path, "").expect("a temporary file");
        let code_of_other = || {
            std::process::Command::new(std::env::current_exe().expect("a test binary"))
                .args(["--exact", "claim::tests::another_process_finds_it_taken"])
                .env(PATH, &path)
                .output()
                .expect("a second process")
                .status
                .code()
        };
        let claim = Claim::new(&path).expect("a free file");
        assert_eq!(code_of_other(), Some(42));
        drop(claim);
        assert_eq!(code_of_other(), Some(43));
        std::fs::remove_file(&path).expect("the file just made");
    }
}
