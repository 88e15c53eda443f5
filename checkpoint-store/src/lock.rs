//! One writer for each store: a lock that ends with its holder, and says who holds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::StoreError;
use crate::disk::open_plain;

/// The file that is locked.
pub(crate) const LOCK: &str = "LOCK";
/// Bytes of it that are read to name the owner.
const MOST_BYTES: u64 = 512;

/// The lock, held. An OFD lock: it belongs to this open file alone, so that closing another one of the same process
/// doesn't end it, and it ends with the process however that dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the store in `directory`. A writer does that by itself; this is for whoever wants that there
    /// is none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another writer has it.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file =
            open_plain(&mut options, &path).map_err(|error| StoreError::io("open", &path, error))?;
        let kind = i16::try_from(libc::F_WRLCK).expect("a lock's kind is a small number");
        let whole = libc::flock { l_type: kind, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let owner = owner(&mut file).unwrap_or_else(|_| "another process".to_owned());
                return Err(StoreError::Locked { path: directory.to_owned(), owner });
            }
            Err(errno) => return Err(StoreError::io("lock", &path, errno.into())),
        }
        write_owner(&file).map_err(|error| StoreError::io("write", &path, error))?;
        Ok(Self { _file: file })
    }
}

fn write_owner(file: &File) -> io::Result<()> {
    let host = nix::unistd::gethostname()?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = format!("{} {} {since}\n", std::process::id(), host.to_string_lossy());
    file.set_len(0)?;
    file.write_all_at(text.as_bytes(), 0)
}

/// Who has the lock, as the file says: its text is anybody's, so it's shown without control characters.
fn owner(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    let owner = match words[..] {
        [pid, host, since] => format!("process {pid} on {host} since {}", ago(since)),
        _ => "another process".to_owned(),
    };
    Ok(owner.chars().filter(|letter| !letter.is_control()).collect())
}

fn ago(since: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match since.parse::<u64>().map(|since| now.checked_sub(since)) {
        Ok(Some(seconds)) => format!("{seconds} s"),
        _ => "an unknown time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_who_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let held = Lock::take(directory.path()).unwrap();
        let refused = Lock::take(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {} on", std::process::id())), "{refused}");
        // Closing another open file of the same process leaves the lock alone.
        drop(File::open(directory.path().join(LOCK)).unwrap());
        assert!(Lock::take(directory.path()).is_err());
        drop(held);
        Lock::take(directory.path()).unwrap();
    }
}
