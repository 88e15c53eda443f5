//! Reading the segment that is being appended to: which checkpoints it holds, and where it really ends.

use std::collections::VecDeque;

use zerocopy::FromBytes;

use crate::StoreError;
use crate::error::Damage;
use crate::format::index::Index;
use crate::format::manifest::Entry;
use crate::format::record::{COMMIT, Commit, Kind, RECORD_HEADER, RecordHeader};
use crate::format::segment::SEGMENT_HEADER;
use crate::format::{MAX_ID, len64};
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
    /// The bad bytes that end the segment, if commit records of the store stand behind them. A death leaves no such
    /// thing: it's damage, or a loss of power before the disk had these bytes.
    pub(crate) lost: Option<Damage>,
}

impl Scan {
    fn push(&mut self, (entry, commit): (Entry, Commit)) {
        // A group that was copied from another segment says what was on the disk of that one.
        self.synced = self.synced.max(commit.synced.get().min(entry.at.get()));
        self.end = end_of(&entry);
        self.entries.push(entry);
    }
}

/// Reads the records of segment `number`, by their headers.
///
/// A commit record that was written before those in front of it reached the disk can outlive them when the power
/// fails. So the checkpoints that weren't known to be on the disk are read as a whole, and the first incomplete one
/// ends the segment.
pub(crate) fn scan(segment: &SegmentFile, number: u64) -> Result<Scan, StoreError> {
    let len = segment.file.metadata().map_err(|error| StoreError::io("read", &segment.path, error))?.len();
    let begin = len64(SEGMENT_HEADER);
    let mut found = Scan { entries: Vec::new(), end: begin, synced: begin, len, damage: None, lost: None };
    let mut behind: Option<Behind> = None;
    let mut bad = None;
    while found.end < len {
        match group(segment, number, found.end, len)? {
            Next::Group(entry, commit) => found.push((entry, commit)),
            Next::Cut => break,
            Next::Bad(damage) => {
                let behind = match &mut behind {
                    Some(behind) => behind,
                    none => none.insert(Behind::search(segment, number, &damage, len)?),
                };
                behind.pass(damage.offset);
                match behind.commits.front() {
                    Some(next) if damage.offset < behind.proven => {
                        found.push(*next);
                        found.damage.get_or_insert(damage);
                    }
                    _ => {
                        bad = Some(damage);
                        break;
                    }
                }
            }
        }
    }
    let mut hidden = behind.filter(|_| bad.is_some()).map_or(0, |behind| behind.commits.len());
    let mut sound = found.entries.len();
    for (place, entry) in found.entries.iter().enumerate().rev() {
        if end_of(entry) <= found.synced {
            break;
        }
        match check_group(segment, entry, &mut |_| {}) {
            Ok(()) => {}
            Err(StoreError::Damaged(damage)) => (sound, bad) = (place, Some(damage)),
            Err(error) => return Err(error),
        }
    }
    hidden += found.entries.len() - sound;
    if let Some(torn) = found.entries.get(sound) {
        found.end = torn.at.get();
        found.synced = found.synced.min(found.end);
    }
    found.entries.truncate(sound);
    found.lost = bad.filter(|_| hidden != 0).map(|bad| {
        let what = format!("{}; checkpoints from here on that can't be reached: {hidden}", bad.what);
        Damage { what, ..bad }
    });
    Ok(found)
}

fn end_of(entry: &Entry) -> u64 {
    entry.at.get().saturating_add(entry.group.get())
}

/// What is next in a segment.
enum Next {
    /// A checkpoint, by the headers of its records.
    Group(Entry, Commit),
    /// Records that are as they should be, but for the file's end within the last one: there is nothing behind them. So
    /// a death leaves a segment, and so it is while the writer writes.
    Cut,
    /// Something else.
    Bad(Damage),
}

/// What begins at `start`.
fn group(segment: &SegmentFile, number: u64, start: u64, len: u64) -> Result<Next, StoreError> {
    let mut at = start;
    loop {
        if len < at + len64(RECORD_HEADER) {
            return Ok(Next::Cut);
        }
        let header = match segment.header(at) {
            Ok(header) => header,
            Err(StoreError::Damaged(damage)) => return Ok(Next::Bad(damage)),
            Err(error) => return Err(error),
        };
        let end = at + len64(RECORD_HEADER) + u64::from(header.stored);
        if len < end {
            return Ok(Next::Cut);
        }
        if header.kind == Kind::Commit {
            return match committed(segment, number, at, &header) {
                Ok((entry, commit)) if entry.at.get() == start => Ok(Next::Group(entry, commit)),
                Ok(_) => {
                    let what = "a commit record that doesn't fit the records before it".to_owned();
                    Ok(Next::Bad(Damage { path: segment.path.clone(), offset: at, what }))
                }
                Err(StoreError::Damaged(damage)) => Ok(Next::Bad(damage)),
                Err(error) => Err(error),
            };
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
    let start = start.filter(|start| *start <= at);
    let start = start.ok_or_else(|| damage("a commit record of more or fewer bytes than there are"))?;
    let id = header.checkpoint;
    if MAX_ID < id {
        return Err(damage("a commit record whose id is beyond its bound"));
    }
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

/// The commit records behind the first bad bytes of a segment. They are looked for once: a file that is bad in many
/// places costs no more than one that is bad in one.
struct Behind {
    /// In the order of the file.
    commits: VecDeque<(Entry, Commit)>,
    /// How much of the segment was on the disk, as they show. What was there and is bad is damaged; what wasn't is an
    /// unfinished end.
    proven: u64,
}

impl Behind {
    fn search(segment: &SegmentFile, number: u64, damage: &Damage, len: u64) -> Result<Self, StoreError> {
        let mut found = Self { commits: VecDeque::new(), proven: 0 };
        let mut at = damage.offset.saturating_add(1);
        let mut bytes = vec![0; SEARCH_BYTES];
        while at + len64(RECORD_HEADER) <= len {
            let part = usize::try_from(len - at).unwrap_or(usize::MAX).min(SEARCH_BYTES);
            segment.read(at, &mut bytes[..part])?;
            for (place, window) in bytes[..part].windows(RECORD_HEADER).enumerate() {
                let window: [u8; RECORD_HEADER] = window.try_into().expect("windows have this length");
                let Ok(header) = RecordHeader::decode(window, segment.mark) else { continue };
                if header.kind != Kind::Commit {
                    continue;
                }
                match committed(segment, number, at + len64(place), &header) {
                    Ok((entry, commit)) => {
                        found.proven = found.proven.max(commit.synced.get().min(entry.at.get()));
                        found.commits.push_back((entry, commit));
                    }
                    Err(StoreError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            at += len64(part - (RECORD_HEADER - 1));
        }
        Ok(found)
    }

    /// Forgets what isn't behind byte `offset`.
    fn pass(&mut self, offset: u64) {
        while let Some((entry, _)) = self.commits.front()
            && end_of(entry) <= offset + len64(RECORD_HEADER + COMMIT)
        {
            self.commits.pop_front();
        }
    }
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
