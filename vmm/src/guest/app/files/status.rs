//! What stat tells of a file, and its encodings for the guest.

use nix::sys::stat::FileStat;
use serde::{Deserialize, Serialize};

/// Bytes of x86-64's `struct stat`.
pub const STAT_BYTES: usize = 144;

/// Bytes of `struct statx`.
pub const STATX_BYTES: usize = 256;

/// The fields that [`Status::to_statx`] fills: `STATX_BASIC_STATS`.
const STATX_BASIC_STATS: u32 = 0x7ff;

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What stat(2) tells of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Number of the file system.
    pub device: u64,
    /// Number of the file in it.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Names that the file has.
    pub links: u64,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Device number of a device node.
    pub node: u64,
    /// Bytes.
    pub size: i64,
    /// Bytes that a read should take at a time.
    pub block_size: i64,
    /// Units of 512 bytes that are allocated.
    pub blocks: i64,
    /// Last read.
    pub accessed: Time,
    /// Last write.
    pub modified: Time,
    /// Last change of this status.
    pub changed: Time,
}

impl Status {
    /// The type bits of the mode (`S_IFMT`).
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }

    /// The bytes of `struct stat` (Linux arch/x86/include/uapi/asm/stat.h).
    #[must_use]
    pub fn to_stat(&self) -> [u8; STAT_BYTES] {
        let mut record = Record::<STAT_BYTES>::new();
        record.put(0, self.device.to_le_bytes());
        record.put(8, self.inode.to_le_bytes());
        record.put(16, self.links.to_le_bytes());
        record.put(24, self.mode.to_le_bytes());
        record.put(28, self.user.to_le_bytes());
        record.put(32, self.group.to_le_bytes());
        record.put(40, self.node.to_le_bytes());
        record.put(48, self.size.to_le_bytes());
        record.put(56, self.block_size.to_le_bytes());
        record.put(64, self.blocks.to_le_bytes());
        for (offset, time) in [(72, self.accessed), (88, self.modified), (104, self.changed)] {
            record.put(offset, time.seconds.to_le_bytes());
            record.put(offset + 8, u64::from(time.nanoseconds).to_le_bytes());
        }
        record.0
    }

    /// The bytes of `struct statx` (Linux include/uapi/linux/stat.h), with the basic fields.
    #[must_use]
    pub fn to_statx(&self) -> [u8; STATX_BYTES] {
        let mut record = Record::<STATX_BYTES>::new();
        record.put(0, STATX_BASIC_STATS.to_le_bytes());
        record.put(4, u32::try_from(self.block_size).unwrap_or(0).to_le_bytes());
        record.put(16, u32::try_from(self.links).unwrap_or(u32::MAX).to_le_bytes());
        record.put(20, self.user.to_le_bytes());
        record.put(24, self.group.to_le_bytes());
        record.put(28, u16::try_from(self.mode).unwrap_or(0).to_le_bytes());
        record.put(32, self.inode.to_le_bytes());
        record.put(40, self.size.to_le_bytes());
        record.put(48, self.blocks.to_le_bytes());
        for (offset, time) in [(64, self.accessed), (96, self.changed), (112, self.modified)] {
            record.put(offset, time.seconds.to_le_bytes());
            record.put(offset + 8, time.nanoseconds.to_le_bytes());
        }
        record.put(128, number(libc::major(self.node)));
        record.put(132, number(libc::minor(self.node)));
        record.put(136, number(libc::major(self.device)));
        record.put(140, number(libc::minor(self.device)));
        record.0
    }
}

impl From<&FileStat> for Status {
    fn from(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            links: stat.st_nlink,
            user: stat.st_uid,
            group: stat.st_gid,
            node: stat.st_rdev,
            size: stat.st_size,
            block_size: stat.st_blksize,
            blocks: stat.st_blocks,
            accessed: Time::new(stat.st_atime, stat.st_atime_nsec),
            modified: Time::new(stat.st_mtime, stat.st_mtime_nsec),
            changed: Time::new(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

impl Time {
    fn new(seconds: i64, nanoseconds: i64) -> Self {
        Self { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) }
    }

    /// The present, by the host's real-time clock.
    #[must_use]
    pub fn now() -> Self {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: since.subsec_nanos(),
            },
            Err(_) => Self::default(),
        }
    }
}

/// A C structure that is filled field by field; what isn't filled is zero.
struct Record<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> Record<BYTES> {
    fn new() -> Self {
        Self([0; BYTES])
    }

    fn put<const FIELD: usize>(&mut self, offset: usize, bytes: [u8; FIELD]) {
        self.0[offset..offset + FIELD].copy_from_slice(&bytes);
    }
}

fn number(device: u32) -> [u8; 4] {
    device.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{mem, os::unix::fs::MetadataExt};

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn sizes_are_those_of_the_c_structures() {
        assert_eq!(mem::size_of::<libc::stat>(), STAT_BYTES);
        assert_eq!(mem::size_of::<libc::statx>(), STATX_BYTES);
        assert_eq!(mem::offset_of!(libc::stat, st_mode), 24);
        assert_eq!(mem::offset_of!(libc::stat, st_blocks), 64);
        assert_eq!(mem::offset_of!(libc::stat, st_ctime), 104);
        assert_eq!(mem::offset_of!(libc::statx, stx_ino), 32);
        assert_eq!(mem::offset_of!(libc::statx, stx_mtime), 112);
        assert_eq!(mem::offset_of!(libc::statx, stx_dev_minor), 140);
    }

    #[test]
    fn a_real_file_is_encoded_with_its_own_values() {
        let file = std::fs::metadata("/usr").unwrap();
        let status = Status::from(&nix::sys::stat::stat("/usr").unwrap());
        let bytes = status.to_stat();
        assert_eq!(u64_at(&bytes, 8), file.ino());
        assert_eq!(u64_at(&bytes, 88), file.mtime().cast_unsigned());
        let bytes = status.to_statx();
        assert_eq!(u64_at(&bytes, 32), file.ino());
        assert_eq!(u64_at(&bytes, 112), file.mtime().cast_unsigned());
        assert!(status.is_directory());
    }
}
