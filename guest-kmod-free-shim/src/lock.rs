//! Who holds a record lock. Unsafe: the call that fills in a structure.

use std::fs::File;
use std::os::fd::AsRawFd;

/// The process that keeps `file` from being locked, if there is one and this process can see it: in a
/// container it may not.
pub(crate) fn holder(file: &File) -> Option<u32> {
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).ok()?,
        l_whence: i16::try_from(libc::SEEK_SET).ok()?,
        l_start: 0,
        // To the end, wherever that is.
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: F_GETLK reads and fills in the one structure that it's given, which outlives the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    let found = answer == 0 && i32::from(lock.l_type) != libc::F_UNLCK;
    // 0 is a process of another namespace, -1 a lock that belongs to no process.
    u32::try_from(lock.l_pid).ok().filter(|&pid| found && pid != 0)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, fcntl_lock};

    use super::*;

    #[test]
    fn nobody_holds_what_is_free_or_only_this_process_has() {
        let path = std::env::temp_dir().join(format!("cairn-holder-{}", std::process::id()));
        let file = File::create(&path).expect("a temporary file");
        std::fs::remove_file(&path).expect("the file just made");
        assert_eq!(holder(&file), None);
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("a lock");
        assert_eq!(holder(&file), None, "a process's own lock is never in its way");
    }
}
