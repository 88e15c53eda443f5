//! A layer: the records of one checkpoint, to read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::StoreError;
use crate::format::index::{Index, Place, Run};
use crate::format::manifest::Entry;
use crate::format::record::{Encoding, Kind, Mark, RECORD_HEADER, RecordHeader};
use crate::format::{crc, len64};

/// An open segment.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// What its records begin with.
    pub(crate) mark: Mark,
}

impl SegmentFile {
    /// Reads bytes that must be there.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                StoreError::damage(&self.path, offset, "the file ends before its records do")
            }
            _ => StoreError::io("read", &self.path, error),
        })
    }

    /// The header of the record at `offset`.
    pub(crate) fn header(&self, offset: u64) -> Result<RecordHeader, StoreError> {
        let mut header = [0; RECORD_HEADER];
        self.read(offset, &mut header)?;
        RecordHeader::decode(header, self.mark).map_err(|what| StoreError::damage(&self.path, offset, what))
    }

    /// The payload of the record at `offset` as it is stored, checked. Its length was checked to be in the file.
    pub(crate) fn payload(&self, offset: u64, header: &RecordHeader) -> Result<Vec<u8>, StoreError> {
        let begin = offset + len64(RECORD_HEADER);
        let len = self.file.metadata().map_err(|error| StoreError::io("read", &self.path, error))?.len();
        if len < begin.saturating_add(u64::from(header.stored)) {
            return Err(StoreError::damage(&self.path, offset, "the file ends before this record does"));
        }
        let mut payload = vec![0; header.stored as usize];
        self.read(begin, &mut payload)?;
        if crc(&payload) != header.crc {
            return Err(StoreError::damage(
                &self.path,
                offset,
                "the record's bytes don't match their checksum",
            ));
        }
        Ok(payload)
    }
}

/// One checkpoint's own records.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) entry: Entry,
    pub(crate) index: Index,
}

impl Layer {
    /// Opens the records of `entry`.
    pub(crate) fn open(segment: Arc<SegmentFile>, entry: Entry) -> Result<Self, StoreError> {
        let index = Self::read_index(&segment, &entry)?;
        Ok(Self { segment, entry, index })
    }

    /// Reads the index of `entry`.
    pub(crate) fn read_index(segment: &SegmentFile, entry: &Entry) -> Result<Index, StoreError> {
        let at = entry.at.get().saturating_add(entry.index_at.get());
        let header = segment.header(at)?;
        let damage = |what| StoreError::damage(&segment.path, at, what);
        if header.kind != Kind::Index
            || header.checkpoint != entry.id.get()
            || header.crc != entry.index_crc.get()
        {
            return Err(damage("this is not the index of the checkpoint that should be here"));
        }
        let index = Index::decode(&segment.payload(at, &header)?, entry.index_at.get()).map_err(damage)?;
        if index.objects.len() != entry.objects.get() as usize {
            return Err(damage("the index has another number of objects than its checkpoint"));
        }
        Ok(index)
    }

    /// The unpacked bytes of a block or of a section.
    pub(crate) fn unpack(&self, place: &Place, kind: Kind) -> Result<Vec<u8>, StoreError> {
        let at = self.entry.at.get() + place.at.get();
        let header = self.segment.header(at)?;
        let checked = place.check(place.at.get(), &self.entry, kind, &header);
        checked.map_err(|what| StoreError::damage(&self.segment.path, at, what))?;
        unpacked(&self.segment, at, &header)
    }

    /// The run that `page` of object number `object` is in.
    pub(crate) fn find(&self, object: usize, page: u64) -> Option<Run> {
        let runs = &self.index.objects[object].runs;
        let after = runs.partition_point(|run| run.page() <= page);
        let run = runs[..after].last().filter(|run| page < run.end())?;
        Some(run.run())
    }
}

impl Place {
    /// Whether the record at `at`, from the first of its checkpoint's, is what the index says.
    pub(crate) fn check(
        &self,
        at: u64,
        entry: &Entry,
        kind: Kind,
        header: &RecordHeader,
    ) -> Result<(), &'static str> {
        let same = header.kind == kind
            && self.at.get() == at
            && header.encoding.byte() == self.encoding
            && header.checkpoint == entry.id.get()
            && header.stored == self.stored.get()
            && header.raw == self.raw.get()
            && header.crc == self.crc.get();
        if same { Ok(()) } else { Err("this is not the record that the index says is here") }
    }
}

/// The payload of the record at `at`, unpacked. It allocates no more than the bound of the record's kind, which the
/// header was checked against.
pub(crate) fn unpacked(segment: &SegmentFile, at: u64, header: &RecordHeader) -> Result<Vec<u8>, StoreError> {
    let damage = |what| StoreError::damage(&segment.path, at, what);
    let stored = segment.payload(at, header)?;
    let raw = header.raw as usize;
    let bytes = match header.encoding {
        Encoding::Raw => stored,
        Encoding::Zstd => {
            zstd::bulk::decompress(&stored, raw).map_err(|_| damage("the record can't be unpacked"))?
        }
    };
    if bytes.len() != raw {
        return Err(damage("the record unpacks to another length than it says"));
    }
    Ok(bytes)
}
