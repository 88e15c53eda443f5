//! Reading a whole store against its checksums.

use std::collections::HashSet;
use std::path::Path;

use zerocopy::FromBytes;

use crate::catalogue::{Catalogue, chain, generation, open_segment};
use crate::error::Damage;
use crate::format::index::{Index, MASK_BYTES, Source};
use crate::format::len64;
use crate::format::manifest::Entry;
use crate::format::record::{Commit, Encoding, Kind, RECORD_HEADER, RecordHeader};
use crate::layer::{Layer, SegmentFile, unpacked};
use crate::{CHUNK_SIZE, StoreError};

/// Damaged records that are named: a store with more is lost anyway.
const MOST_NAMED: usize = 1000;

/// What was found in a store.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verified {
    /// Checkpoints that are kept and whole, with all that they take from others.
    pub whole: usize,
    /// Checkpoints that are kept.
    pub kept: usize,
    /// Bytes of records read.
    pub bytes: u64,
    /// Bytes behind the last checkpoint: what a commit leaves that didn't get through.
    pub unfinished: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// Reads all records of the store in `directory` that are of use, one after another, in memory that doesn't grow with
/// the store. `passed` is told of the bytes read, and of all that there are to read. A writer may go on meanwhile: what
/// it moves is read where it is now, and what it drops isn't read.
///
/// # Errors
/// No store, or the host's. Damage is no error here.
pub fn verify(directory: &Path, passed: &mut dyn FnMut(u64, u64)) -> Result<Verified, StoreError> {
    let catalogue = match Catalogue::load(directory) {
        Ok(catalogue) => catalogue,
        Err(StoreError::Damaged(damage)) => {
            return Ok(Verified { damage: vec![damage], ..Verified::default() });
        }
        Err(error) => return Err(error),
    };
    let total = catalogue.entries.values().map(|entry| entry.group.get()).sum();
    let mut found = Verified::default();
    if catalogue.lost.is_none() {
        found.unfinished = catalogue.len - catalogue.end;
    }
    found.damage.extend(catalogue.damage.iter().chain(&catalogue.lost).cloned());
    let mut entries: Vec<Entry> = catalogue.entries.values().copied().collect();
    let newest = catalogue.entries.last_key_value().map_or(0, |(id, _)| *id);
    entries.sort_unstable_by_key(|entry| (entry.segment.get(), entry.at.get()));
    let mut verifier =
        Verifier { directory, catalogue, found, total, segment: None, damaged: HashSet::new() };
    for entry in entries {
        verifier.entry(entry, passed)?;
    }
    verifier.count(newest)
}

/// A store that is being read.
struct Verifier<'a> {
    directory: &'a Path,
    /// The newest that was needed.
    catalogue: Catalogue,
    found: Verified,
    /// Bytes of records to read.
    total: u64,
    /// The segment that was read last, and its number.
    segment: Option<(u64, SegmentFile)>,
    /// Checkpoints whose own records are damaged.
    damaged: HashSet<u64>,
}

impl Verifier<'_> {
    /// Reads the records of `entry`, wherever they are by now.
    fn entry(&mut self, mut entry: Entry, passed: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
        loop {
            match self.read(&entry, passed) {
                Ok(()) => break,
                Err(StoreError::Damaged(damage)) => {
                    let now = self.now(&entry)?;
                    if now == Some(entry) {
                        self.damaged.insert(entry.id.get());
                        self.name(damage);
                        break;
                    }
                    self.total -= entry.group.get();
                    let Some(now) = now else { return Ok(()) };
                    self.total += now.group.get();
                    entry = now;
                }
                Err(error) => return Err(error),
            }
        }
        self.found.bytes += entry.group.get();
        passed(self.found.bytes, self.total);
        Ok(())
    }

    fn read(&mut self, entry: &Entry, passed: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
        let number = entry.segment.get();
        let segment = match self.segment.take().filter(|(open, _)| *open == number) {
            Some((_, segment)) => segment,
            None => open_segment(self.directory, self.catalogue.manifest.store, number)?,
        };
        let (before, total) = (self.found.bytes, self.total);
        let checked = check(&segment, entry, &mut |bytes| passed(before + bytes, total));
        self.segment = Some((number, segment));
        checked
    }

    /// Where the records of the checkpoint are that were in the place of `entry`: compaction may have written them anew
    /// since, or dropped the checkpoint. `None` for a checkpoint that is gone.
    fn now(&mut self, entry: &Entry) -> Result<Option<Entry>, StoreError> {
        if generation(self.directory) != Some(self.catalogue.manifest.generation) {
            match Catalogue::load(self.directory) {
                Ok(now) => self.catalogue = now,
                // Then it's still looked for where it was.
                Err(StoreError::Damaged(damage)) => self.name(damage),
                Err(error) => return Err(error),
            }
        }
        Ok(self.catalogue.entries.get(&entry.id.get()).copied())
    }

    /// Counts the checkpoints up to `newest` that are kept, and those of them that are whole.
    fn count(mut self, newest: u64) -> Result<Verified, StoreError> {
        let kept: Vec<u64> =
            self.catalogue.entries.range(self.catalogue.oldest_kept()..).map(|(id, _)| *id).collect();
        for id in kept.into_iter().filter(|id| *id <= newest) {
            self.found.kept += 1;
            match chain(&self.catalogue.entries, self.directory, id) {
                Ok(chain) if chain.iter().all(|entry| !self.damaged.contains(&entry.id.get())) => {
                    self.found.whole += 1;
                }
                Ok(_) => {}
                Err(StoreError::Damaged(damage)) => self.name(damage),
                Err(error) => return Err(error),
            }
        }
        Ok(self.found)
    }

    fn name(&mut self, damage: Damage) {
        if self.found.damage.len() < MOST_NAMED && !self.found.damage.contains(&damage) {
            self.found.damage.push(damage);
        }
    }
}

/// Checks all records of `entry` against checksums and index, each read once. `passed` is told of the bytes of those
/// that are read.
fn check(segment: &SegmentFile, entry: &Entry, passed: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
    let index = Layer::read_index(segment, entry)?;
    let mut chunks = chunk_places(&index).into_iter().peekable();
    let (mut blocks, mut sections) = ((0_u32..).zip(&index.blocks), index.sections.iter());
    let start = entry.at.get();
    let mut at = start;
    while at < start + entry.group.get() {
        let header = segment.header(at)?;
        let damage = |what| StoreError::damage(&segment.path, at, what);
        let elsewhere = || damage("a record that the checkpoint's index doesn't name");
        match header.kind {
            Kind::Block => {
                let (number, place) = blocks.next().ok_or_else(elsewhere)?;
                place.check(at - start, entry, Kind::Block, &header).map_err(damage)?;
                let bytes = unpacked(segment, at, &header)?;
                while let Some((_, offset)) = chunks.next_if(|(block, _)| *block == number) {
                    check_chunks(&bytes[offset as usize..]).map_err(damage)?;
                }
            }
            Kind::Section => {
                let (_, place) = sections.next().ok_or_else(elsewhere)?;
                place.check(at - start, entry, Kind::Section, &header).map_err(damage)?;
                unpacked(segment, at, &header)?;
            }
            Kind::Index if at - start == entry.index_at.get() => {}
            Kind::Index => return Err(elsewhere()),
            Kind::Commit => check_commit(&segment.payload(at, &header)?, &header, entry).map_err(damage)?,
        }
        at += len64(RECORD_HEADER) + u64::from(header.stored);
        passed(at - start);
    }
    if blocks.next().is_some() || sections.next().is_some() {
        return Err(StoreError::damage(&segment.path, start, "records that the index names are missing"));
    }
    Ok(())
}

/// Where pages are stored in chunks, by block.
fn chunk_places(index: &Index) -> Vec<(u32, u32)> {
    let runs = index.objects.iter().flat_map(|object| &object.runs);
    let mut places: Vec<(u32, u32)> = runs
        .filter_map(|run| match run.run().source {
            Source::Chunks { block, offset } => Some((block, offset)),
            _ => None,
        })
        .collect();
    places.sort_unstable();
    places
}

fn check_chunks(bytes: &[u8]) -> Result<(), &'static str> {
    let (mask, chunks) =
        bytes.split_first_chunk::<MASK_BYTES>().ok_or("chunks of a page leave their block")?;
    let wanted = u64::from_le_bytes(*mask).count_ones() as usize * CHUNK_SIZE;
    if wanted == 0 || chunks.len() < wanted { Err("chunks of a page leave their block") } else { Ok(()) }
}

fn check_commit(payload: &[u8], header: &RecordHeader, entry: &Entry) -> Result<(), &'static str> {
    let commit = Commit::read_from_bytes(payload).map_err(|_| "a commit record of another length")?;
    let same = header.checkpoint == entry.id.get()
        && header.encoding == Encoding::Raw
        && commit.parent == entry.parent
        && commit.base == entry.base
        && commit.group == entry.group
        && commit.index_at == entry.index_at
        && commit.index_crc == entry.index_crc
        && commit.objects == entry.objects;
    if same { Ok(()) } else { Err("the commit record contradicts the manifest") }
}
