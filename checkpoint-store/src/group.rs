//! A group: the records of one checkpoint, as they are appended to a segment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes;

use crate::disk::DiskFile;
use crate::format::index::{Index, IndexObject, Place, Run, Source};
use crate::format::record::{COMMIT, Commit, Encoding, Kind, Mark, RECORD_HEADER, RecordHeader};
use crate::format::{BLOCK_BYTES, COMPRESS_FROM, MAX_INDEX_BYTES, crc, len32, len64};
use crate::object::{Object, ObjectName};
use crate::{PAGE_SIZE, ZERO_PAGE};

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// Different pages remembered to find repeated ones: 32 bytes each.
const MOST_KNOWN: usize = 1 << 18;
/// zstd's level for what a program may wait for.
pub(crate) const QUICK: i32 = 1;
/// zstd's level for what nobody waits for.
pub(crate) const THOROUGH: i32 = 3;

/// Where a page was put, and the name by which the caller finds it again.
#[derive(Debug)]
struct Known<T> {
    block: u32,
    offset: u32,
    token: T,
}

/// Appends one checkpoint's records. Nothing counts before [`GroupWriter::finish`]. `T` is the caller's name for a
/// page that it has given, by which it can compare it with a later one.
pub(crate) struct GroupWriter<'a, T> {
    file: &'a dyn DiskFile,
    mark: Mark,
    /// Where the group begins in its segment.
    start: u64,
    /// Bytes of the group that are written.
    written: u64,
    /// Bytes of the group behind these.
    pending: Vec<u8>,
    id: u64,
    /// Without a base, zero pages needn't be said.
    complete: bool,
    block: Vec<u8>,
    index: Index,
    known: HashMap<u64, Known<T>>,
    compressor: zstd::bulk::Compressor<'static>,
}

/// What a commit record says beside what the group itself knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) parent: u64,
    pub(crate) base: u64,
    pub(crate) time_ms: u64,
    /// Bytes of the segment known to be on the disk.
    pub(crate) synced: u64,
}

impl<'a, T> GroupWriter<'a, T> {
    /// Begins the group of checkpoint `id` at byte `start` of `file`, a segment of the store with this mark.
    pub(crate) fn new(
        file: &'a dyn DiskFile,
        mark: Mark,
        start: u64,
        id: u64,
        complete: bool,
        level: i32,
    ) -> io::Result<Self> {
        Ok(Self {
            file,
            mark,
            start,
            written: 0,
            pending: Vec::new(),
            id,
            complete,
            block: Vec::with_capacity(BLOCK_BYTES),
            index: Index::default(),
            known: HashMap::new(),
            compressor: zstd::bulk::Compressor::new(level)?,
        })
    }

    /// Begins an object: what follows are its pages, ascending.
    pub(crate) fn object(&mut self, object: Object) {
        self.index.objects.push(IndexObject { object, runs: Vec::new() });
    }

    /// Adds a page. `same` tells whether the page of that token has these very bytes.
    pub(crate) fn page(
        &mut self,
        page: u64,
        bytes: &[u8; PAGE_SIZE],
        token: T,
        same: impl FnOnce(&T) -> io::Result<bool>,
    ) -> io::Result<()> {
        if *bytes == ZERO_PAGE {
            return self.zero(page, 1);
        }
        // A hash finds candidates, a comparison decides: a guest that constructs collisions gains nothing.
        let hash = xxh3_64(bytes);
        if let Some(known) = self.known.get(&hash)
            && same(&known.token)?
        {
            let (block, offset) = (known.block, known.offset);
            return self.pages(page, block, offset);
        }
        let (block, offset) = self.put(&[bytes])?;
        let room = self.known.len() < MOST_KNOWN;
        match self.known.entry(hash) {
            Entry::Vacant(vacant) if room => drop(vacant.insert(Known { block, offset, token })),
            _ => {}
        }
        self.pages(page, block, offset)
    }

    /// Adds zero pages.
    pub(crate) fn zero(&mut self, page: u64, count: u64) -> io::Result<()> {
        let (mut page, mut left) = (page, count);
        while !self.complete && left != 0 {
            let part = u32::try_from(left).unwrap_or(u32::MAX);
            self.run(Run { page, count: part, source: Source::Zero })?;
            page += u64::from(part);
            left -= u64::from(part);
        }
        Ok(())
    }

    /// Adds some chunks of a page.
    pub(crate) fn chunks(&mut self, page: u64, mask: u64, bytes: &[u8]) -> io::Result<()> {
        let (block, offset) = self.put(&[&mask.to_le_bytes(), bytes])?;
        self.run(Run { page, count: 1, source: Source::Chunks { block, offset } })
    }

    /// Adds a section.
    pub(crate) fn section(&mut self, name: ObjectName, bytes: &[u8]) -> io::Result<()> {
        let place = self.record(Kind::Section, bytes)?;
        self.index.sections.push((name, place));
        Ok(())
    }

    /// Writes index and commit record, and answers where the index begins, its checksum, and the group's bytes.
    pub(crate) fn finish(mut self, label: Label) -> io::Result<Finished> {
        self.end_block()?;
        if MAX_INDEX_BYTES < self.index.encoded_len() {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "more scattered pages than an index holds",
            ));
        }
        let index = self.index.encode();
        let place = self.record(Kind::Index, &index)?;
        let group = place.at.get() + len64(RECORD_HEADER + index.len() + RECORD_HEADER + COMMIT);
        let commit = Commit {
            parent: label.parent.into(),
            base: label.base.into(),
            time_ms: label.time_ms.into(),
            group: group.into(),
            index_at: place.at,
            index_crc: place.crc,
            objects: len32(self.index.objects.len()).into(),
            synced: label.synced.into(),
        };
        self.record(Kind::Commit, commit.as_bytes())?;
        self.flush()?;
        debug_assert_eq!(self.written, group);
        Ok(Finished { commit })
    }

    /// Says that `page` is what is at this place.
    fn pages(&mut self, page: u64, block: u32, offset: u32) -> io::Result<()> {
        self.run(Run { page, count: 1, source: Source::Pages { block, offset } })
    }

    /// Adds a run, to the one before where it continues that.
    fn run(&mut self, run: Run) -> io::Result<()> {
        let object =
            self.index.objects.last_mut().ok_or_else(|| io::Error::other("pages before any object"))?;
        if let Some(last) = object.runs.last_mut() {
            let before = last.run();
            if let Some(source) = continued(&before, &run)
                && let Some(count) = before.count.checked_add(run.count)
            {
                *last = Run { page: before.page, count, source }.into();
                return Ok(());
            }
        }
        object.runs.push(run.into());
        Ok(())
    }

    /// Puts `parts` into a block, one after another, and answers where.
    fn put(&mut self, parts: &[&[u8]]) -> io::Result<(u32, u32)> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if BLOCK_BYTES < self.block.len() + len {
            self.end_block()?;
        }
        let at = (len32(self.index.blocks.len()), len32(self.block.len()));
        parts.iter().for_each(|part| self.block.extend_from_slice(part));
        Ok(at)
    }

    fn end_block(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            let block = std::mem::take(&mut self.block);
            let place = self.record(Kind::Block, &block)?;
            self.index.blocks.push(place);
            self.block = block;
            self.block.clear();
        }
        Ok(())
    }

    /// Appends a record, compressed if that saves an eighth at least.
    fn record(&mut self, kind: Kind, payload: &[u8]) -> io::Result<Place> {
        let may = matches!(kind, Kind::Block | Kind::Section) && COMPRESS_FROM <= payload.len();
        let compressed = if may { Some(self.compressor.compress(payload)?) } else { None };
        let (encoding, stored) = match &compressed {
            Some(compressed) if compressed.len() <= payload.len() / 8 * 7 => {
                (Encoding::Zstd, compressed.as_slice())
            }
            _ => (Encoding::Raw, payload),
        };
        let header = RecordHeader {
            kind,
            encoding,
            checkpoint: self.id,
            stored: len32(stored.len()),
            raw: len32(payload.len()),
            crc: crc(stored),
        };
        let at = self.written + len64(self.pending.len());
        self.pending.extend_from_slice(&header.encode(self.mark));
        self.pending.extend_from_slice(stored);
        if WRITE_BYTES <= self.pending.len() {
            self.flush()?;
        }
        Ok(Place::new(at, stored.len(), payload.len(), header.crc, encoding))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.start + self.written, &self.pending)?;
        self.written += len64(self.pending.len());
        self.pending.clear();
        Ok(())
    }
}

/// A group that is written.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) commit: Commit,
}

/// What both runs are together, if the second continues the first.
fn continued(first: &Run, second: &Run) -> Option<Source> {
    if first.page + u64::from(first.count) != second.page {
        return None;
    }
    match (first.source, second.source) {
        (Source::Zero, Source::Zero) => Some(Source::Zero),
        (Source::Pages { block, offset }, Source::Pages { block: next_block, offset: next })
            if block == next_block =>
        {
            if first.count == 1 && offset == next {
                return Some(Source::Repeat { block, offset });
            }
            let end = u64::from(offset) + u64::from(first.count) * len64(PAGE_SIZE);
            (end == u64::from(next)).then_some(first.source)
        }
        (Source::Repeat { block, offset }, Source::Pages { block: next_block, offset: next }) => {
            (block == next_block && offset == next).then_some(first.source)
        }
        _ => None,
    }
}
