//! Reading the segment that is being appended to: which checkpoints it holds, and where it really ends.

use zerocopy::FromBytes;

use crate::StoreError;
use crate::error::Damage;
use crate::format::index::Index;
use crate::format::len64;
use crate::format::manifest::Entry;
use crate::format::record::{Commit, Kind, RECORD_HEADER, RecordHeader};
use crate::format::segment::SEGMENT_HEADER;
use crate::layer::SegmentFile;

/// Bytes looked through at a time for a record behind damage.
const SEARCH_BYTES: usize = 1 << 20;

/// What a segment holds.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Its checkpoints, in the order of the file.
    pub(crate) entries: Vec<Entry>,
    /// Where the last one ends: what is behind that never happened.
    pub(crate) end: u64,
    /// How much of it was known to be on the disk, by the last commit record that says so.
    pub(crate) synced: u64,
    /// Bytes of the file.
    pub(crate) len: u64,
    /// The first damage to what was on the disk for certain. What is only an unfinished end is no damage.
    pub(crate) damage: Option<Damage>,
}

/// Reads the records of segment `number` up to `limit`, by their headers.
///
/// A commit record that was written before those in front of it reached the disk can outlive them when the power
/// fails. So the checkpoints that weren't known to be on the disk are read as a whole, and the first incomplete one
/// ends the segment.
pub(crate) fn scan(segment: &SegmentFile, number: u64, limit: u64) -> Result<Scan, StoreError> {
    let len = segment.file.metadata().map_err(|error| StoreError::io("read", &segment.path, error))?.len();
    let begin = len64(SEGMENT_HEADER);
    let mut found = Scan { entries: Vec::new(), end: begin, synced: begin, len, damage: None };
    let len = len.min(limit);
    let mut at = begin;
    let mut proven = 0;
    while at < len {
        match group(segment, number, at, len) {
            Ok((entry, commit)) => {
                found.synced = found.synced.max(commit.synced.get().min(at));
                at = end_of(&entry);
                found.entries.push(entry);
            }
            Err(StoreError::Damaged(damage)) => {
                let Some((entry, commit)) = behind(segment, number, &damage, len, &mut proven)? else {
                    break;
                };
                found.synced = found.synced.max(commit.synced.get().min(entry.at.get()));
                at = end_of(&entry);
                found.damage.get_or_insert(damage);
                found.entries.push(entry);
            }
            Err(error) => return Err(error),
        }
        found.end = at;
    }
    let mut sound = found.entries.len();
    for (place, entry) in found.entries.iter().enumerate().rev() {
        if end_of(entry) <= found.synced {
            break;
        }
        match check_group(segment, entry, &mut |_| {}) {
            Ok(()) => {}
            Err(StoreError::Damaged(_)) => sound = place,
            Err(error) => return Err(error),
        }
    }
    if let Some(torn) = found.entries.get(sound) {
        found.end = torn.at.get();
    }
    found.entries.truncate(sound);
    Ok(found)
}

fn end_of(entry: &Entry) -> u64 {
    entry.at.get().saturating_add(entry.group.get())
}

/// The checkpoint whose records begin at `start`.
fn group(segment: &SegmentFile, number: u64, start: u64, len: u64) -> Result<(Entry, Commit), StoreError> {
    let mut at = start;
    loop {
        let header = segment.header(at)?;
        let end = at + len64(RECORD_HEADER) + u64::from(header.stored);
        if len < end {
            return Err(StoreError::damage(&segment.path, at, "the file ends before this record does"));
        }
        if header.kind == Kind::Commit {
            let (entry, commit) = committed(segment, number, at, &header)?;
            if entry.at.get() != start {
                let what = "a commit record that doesn't fit the records before it";
                return Err(StoreError::damage(&segment.path, at, what));
            }
            return Ok((entry, commit));
        }
        at = end;
    }
}

/// What the commit record at `at` says, checked against itself.
fn committed(
    segment: &SegmentFile,
    number: u64,
    at: u64,
    header: &RecordHeader,
) -> Result<(Entry, Commit), StoreError> {
    let payload = segment.payload(at, header)?;
    let damage = |what| StoreError::damage(&segment.path, at, what);
    let commit =
        Commit::read_from_bytes(&payload).map_err(|_| damage("a commit record of another length"))?;
    let end = at + len64(RECORD_HEADER + payload.len());
    let start = end.checked_sub(commit.group.get()).filter(|start| len64(SEGMENT_HEADER) <= *start);
    let start = start.ok_or_else(|| damage("a commit record of more bytes than there are"))?;
    let id = header.checkpoint;
    if id == 0 || id <= commit.parent.get() || id <= commit.base.get() {
        return Err(damage("a commit record of a checkpoint that is older than its parent"));
    }
    if commit.group.get() < commit.index_at.get() {
        return Err(damage("a commit record whose index is elsewhere"));
    }
    let entry = Entry {
        id: id.into(),
        parent: commit.parent,
        base: commit.base,
        time_ms: commit.time_ms,
        segment: number.into(),
        at: start.into(),
        group: commit.group,
        index_at: commit.index_at,
        index_crc: commit.index_crc,
        objects: commit.objects,
    };
    Ok((entry, commit))
}

/// The first commit record behind `damage`, if it shows that the damaged bytes were on the disk: if they weren't, the
/// segment ends at them. `proven` is how much was shown to have been, so far.
fn behind(
    segment: &SegmentFile,
    number: u64,
    damage: &Damage,
    len: u64,
    proven: &mut u64,
) -> Result<Option<(Entry, Commit)>, StoreError> {
    let mut first = None;
    let mut at = damage.offset.saturating_add(1);
    let mut bytes = vec![0; SEARCH_BYTES];
    while at + len64(RECORD_HEADER) <= len {
        let part = usize::try_from(len - at).unwrap_or(usize::MAX).min(SEARCH_BYTES);
        segment.read(at, &mut bytes[..part])?;
        for (place, window) in bytes[..part].windows(RECORD_HEADER).enumerate() {
            let window: [u8; RECORD_HEADER] = window.try_into().expect("windows have this length");
            let Ok(header) = RecordHeader::decode(window) else { continue };
            if header.kind != Kind::Commit {
                continue;
            }
            let Ok((entry, commit)) = committed(segment, number, at + len64(place), &header) else {
                continue;
            };
            *proven = commit.synced.get().max(*proven);
            let first = *first.get_or_insert((entry, commit));
            if damage.offset < *proven {
                return Ok(Some(first));
            }
        }
        at += len64(part - (RECORD_HEADER - 1));
    }
    Ok(None)
}

/// Reads all records of `entry` against their checksums, and tells of the bytes passed.
pub(crate) fn check_group(
    segment: &SegmentFile,
    entry: &Entry,
    passed: &mut dyn FnMut(u64),
) -> Result<(), StoreError> {
    let (mut at, end) = (entry.at.get(), end_of(entry));
    while at < end {
        let header = segment.header(at)?;
        let damage = |what| Err(StoreError::damage(&segment.path, at, what));
        if header.checkpoint != entry.id.get() {
            return damage("a record of another checkpoint");
        }
        let payload = segment.payload(at, &header)?;
        match header.kind {
            Kind::Index => {
                let fits = at - entry.at.get() == entry.index_at.get() && header.crc == entry.index_crc.get();
                if !fits {
                    return damage("this is not the index that the commit record means");
                }
                if let Err(what) = Index::decode(&payload, entry.index_at.get()) {
                    return damage(what);
                }
            }
            Kind::Commit if at + len64(RECORD_HEADER + payload.len()) != end => {
                return damage("a commit record in the midst of a checkpoint");
            }
            Kind::Block | Kind::Section | Kind::Commit => {}
        }
        let bytes = len64(RECORD_HEADER + payload.len());
        at += bytes;
        passed(bytes);
    }
    Ok(())
}
