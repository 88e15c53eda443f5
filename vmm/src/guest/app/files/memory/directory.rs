//! An open directory of a memory tree.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    super::{
        backend::{Answer, Space},
        listing::{Entry, Records, entry_kind, records},
        open::OpenDirectory,
        path::GuestPath,
        status::Status,
    },
    node::{Directory, Inode},
    space,
    tree::Tree,
};

/// Listing positions from here on are those of names that only the overlay has, below those of mount points.
/// No file system gives the host's names such positions.
const OVERLAY_POSITIONS: i64 = i64::MAX - (1 << 32);

/// An open directory of a memory tree. Once it was removed its number is unknown to the tree: `ENOENT`.
#[derive(Debug)]
pub(super) struct MemoryDirectory {
    tree: Arc<Mutex<Tree>>,
    mount_point: GuestPath,
    inode: u64,
    /// The host's directory that shows through, if there is one and it can be listed.
    lower: Option<Box<dyn OpenDirectory>>,
    position: Mutex<Position>,
    /// Keeps the tree from forgetting the directory.
    _open: Arc<()>,
}

/// How far a directory was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Among the names of the host.
    Lower,
    /// Among the tree's own, by their listing positions.
    Own(i64),
}

impl MemoryDirectory {
    pub(super) fn new(
        tree: Arc<Mutex<Tree>>,
        mount_point: GuestPath,
        inode: u64,
        lower: Option<Box<dyn OpenDirectory>>,
        open: Arc<()>,
    ) -> Self {
        let position = if lower.is_some() { Position::Lower } else { Position::Own(0) };
        Self { tree, mount_point, inode, lower, position: Mutex::new(position), _open: open }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names that the host has, but for those that the guest removed; what took the place of one is in its
    /// place. Empty at the end.
    fn read_lower(&self, lower: &dyn OpenDirectory, limit: usize) -> Answer<Vec<u8>> {
        let tree = self.tree();
        let directory = tree.directory(self.inode)?;
        loop {
            let bytes = lower.read_entries(limit)?;
            if bytes.is_empty() {
                return Ok(bytes);
            }
            let mut shown = Vec::with_capacity(bytes.len());
            for record in records(&bytes) {
                match directory.get(record.name) {
                    _ if directory.hides(record.name) => {}
                    Some(_) if !directory.is_of_host(record.name) => {}
                    Some(inode) => {
                        let status = tree.status(inode)?;
                        shown.extend(record.instead(status.inode, entry_kind(status.mode)));
                    }
                    None => shown.extend_from_slice(record.bytes),
                }
            }
            if !shown.is_empty() {
                return Ok(shown);
            }
        }
    }

    fn read_own(&self, start: i64, limit: usize) -> Answer<(Vec<u8>, i64)> {
        let tree = self.tree();
        let directory = tree.directory(self.inode)?;
        let has_lower = self.lower.is_some();
        let mut next = start;
        let mut records = Records::new(limit);
        let mut left_one_out = false;
        for (name, inode, after) in
            dots(directory, self.inode, start, has_lower).chain(directory.names_from(start))
        {
            let status = tree.status(inode)?;
            let entry = Entry { inode: status.inode, kind: entry_kind(status.mode), name: name.to_vec() };
            left_one_out = !records.push(&entry, if has_lower { OVERLAY_POSITIONS + after } else { after });
            if left_one_out {
                break;
            }
            next = after;
        }
        Ok((records.finish(left_one_out)?, next))
    }
}

/// `.` and `..`, where the host's listing doesn't have them.
fn dots(
    directory: &Directory,
    inode: Inode,
    start: i64,
    has_lower: bool,
) -> impl Iterator<Item = (&[u8], Inode, i64)> {
    let dots = [(&b"."[..], inode, 1), (&b".."[..], directory.parent, 2)];
    dots.into_iter().filter(move |(_, _, position)| start < *position && !has_lower)
}

impl OpenDirectory for MemoryDirectory {
    fn status(&self) -> Answer<Status> {
        self.tree().status(self.inode)
    }

    fn current_path(&self) -> Answer<Option<GuestPath>> {
        let mut path = self.mount_point.clone();
        for name in self.tree().names_to(self.inode)? {
            path.push(&name);
        }
        Ok(Some(path))
    }

    fn read_entries(&self, limit: usize) -> Answer<Vec<u8>> {
        let mut next = self.next();
        if let (Some(lower), Position::Lower) = (&self.lower, *next) {
            let records = self.read_lower(&**lower, limit)?;
            if !records.is_empty() {
                return Ok(records);
            }
            *next = Position::Own(0);
        }
        let start = if let Position::Own(start) = *next { start } else { 0 };
        let (records, after) = self.read_own(start, limit)?;
        *next = Position::Own(after);
        Ok(records)
    }

    fn seek_entries(&self, position: i64) -> Answer<i64> {
        let mut next = self.next();
        match &self.lower {
            // The last position that a host's ext4 gives is the largest there is.
            Some(lower) if position < OVERLAY_POSITIONS || position == i64::MAX => {
                *next = Position::Lower;
                lower.seek_entries(position)
            }
            Some(_) => {
                *next = Position::Own(position - OVERLAY_POSITIONS);
                Ok(position)
            }
            None => {
                *next = Position::Own(position);
                Ok(position)
            }
        }
    }

    fn position(&self) -> Answer<i64> {
        match (*self.next(), &self.lower) {
            (Position::Lower, Some(lower)) => lower.position(),
            (Position::Own(position), Some(_)) => Ok(OVERLAY_POSITIONS + position),
            (Position::Own(position), None) => Ok(position),
            (Position::Lower, None) => Ok(0),
        }
    }

    fn space(&self) -> Answer<Space> {
        Ok(space(&self.tree().home().budget))
    }
}
