//! Directory listings in the records of getdents64.

use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::open::OpenDirectory;

/// Most bytes of records that one call gives; bounds what the monitor allocates for a guest's length.
pub const LISTING_BYTES: usize = 64 << 10;

/// Positions from here on are those of mount points that the directory itself doesn't list. File systems
/// that hash names use nearly all of the 63 bits, but none of these last values except the very last.
const EXTRA_POSITIONS: i64 = i64::MAX - (1 << 16);

/// Bytes of a record before its name.
const RECORD_HEADER: usize = 19;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub inode: u64,
    /// A `DT_` constant.
    pub kind: u8,
    pub name: Vec<u8>,
}

/// Records of getdents64, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Records {
    bytes: Vec<u8>,
    limit: usize,
}

impl Records {
    /// Room for `limit` bytes, at most [`LISTING_BYTES`].
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit: limit.min(LISTING_BYTES) }
    }

    /// Adds a record whose successor is found at position `next`; false when it doesn't fit any more.
    pub(super) fn push(&mut self, entry: &Entry, next: i64) -> bool {
        let length = (RECORD_HEADER + entry.name.len() + 1).next_multiple_of(8);
        let Ok(record_length) = u16::try_from(length) else { return false };
        if self.bytes.len() + length > self.limit {
            return false;
        }
        let end = self.bytes.len() + length;
        self.bytes.extend_from_slice(&entry.inode.to_le_bytes());
        self.bytes.extend_from_slice(&next.to_le_bytes());
        self.bytes.extend_from_slice(&record_length.to_le_bytes());
        self.bytes.push(entry.kind);
        self.bytes.extend_from_slice(&entry.name);
        self.bytes.resize(end, 0);
        true
    }

    /// The records; `EINVAL` when there was an entry that the caller's buffer can't hold.
    pub(super) fn finish(self, left_one_out: bool) -> Result<Vec<u8>, Errno> {
        if self.bytes.is_empty() && left_one_out { Err(Errno::EINVAL) } else { Ok(self.bytes) }
    }
}

/// One record among those that the host's kernel gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    pub name: &'a [u8],
}

impl Record<'_> {
    /// The record with another file behind the name.
    pub(super) fn instead(&self, inode: u64, kind: u8) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        bytes[..8].copy_from_slice(&inode.to_le_bytes());
        bytes[RECORD_HEADER - 1] = kind;
        bytes
    }
}

/// The records in what getdents64 gave.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_le_bytes(bytes.get(16..18)?.try_into().ok()?));
        let (record, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let name = record.get(RECORD_HEADER..)?.split(|byte| *byte == 0).next()?;
        Some(Record { bytes: record, name })
    })
}

/// An open directory's listing: its own names, then the mount points that it lacks.
#[derive(Debug)]
pub(super) struct Listing {
    extra: Vec<Entry>,
    /// How many of `extra` were given, once the directory's own names are at their end.
    given: Mutex<Option<usize>>,
}

impl Listing {
    pub(super) fn new(extra: Vec<Entry>) -> Self {
        Self { extra, given: Mutex::new(None) }
    }

    /// The next records, at most `limit` bytes; empty at the end.
    pub(super) fn read(&self, directory: &dyn OpenDirectory, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.is_none() {
            let records = directory.read_entries(limit)?;
            if !records.is_empty() || self.extra.is_empty() {
                return Ok(records);
            }
        }
        let mut next = given.unwrap_or(0);
        let mut records = Records::new(limit);
        while let Some(entry) = self.extra.get(next) {
            if !records.push(entry, extra_position(next + 1)) {
                break;
            }
            next += 1;
        }
        *given = Some(next);
        records.finish(next < self.extra.len())
    }

    /// Goes on at a position that an earlier record gave, or at 0.
    pub(super) fn seek(&self, directory: &dyn OpenDirectory, position: i64) -> Result<i64, Errno> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let extra = position.checked_sub(EXTRA_POSITIONS).and_then(|index| usize::try_from(index).ok());
        if let Some(index) = extra.filter(|index| *index <= self.extra.len() && !self.extra.is_empty()) {
            *given = Some(index);
            return Ok(position);
        }
        *given = None;
        directory.seek_entries(position)
    }

    /// Where the next record is; none when the directory itself knows.
    pub(super) fn position(&self) -> Option<i64> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).map(extra_position)
    }
}

fn extra_position(index: usize) -> i64 {
    EXTRA_POSITIONS.saturating_add(i64::try_from(index).unwrap_or(0))
}

/// The `DT_` constant of a mode's type bits.
pub(super) fn entry_kind(mode: u32) -> u8 {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => libc::DT_DIR,
        libc::S_IFLNK => libc::DT_LNK,
        libc::S_IFREG => libc::DT_REG,
        libc::S_IFCHR => libc::DT_CHR,
        _ => libc::DT_UNKNOWN,
    }
}

#[cfg(test)]
pub(super) fn listed(bytes: &[u8]) -> Vec<String> {
    records(bytes).map(|record| String::from_utf8_lossy(record.name).into_owned()).collect()
}
