//! The segment that is appended to.

use std::path::{Path, PathBuf};

use zerocopy::IntoBytes;

use crate::batch::{Batch, Content, Entry as BatchEntry};
use crate::catalogue::Catalogue;
use crate::disk::{Disk, DiskFile};
use crate::format::len64;
use crate::format::manifest::Entry;
use crate::format::segment::{SEGMENT_HEADER, SegmentHeader, file_name};
use crate::group::{GroupWriter, Label, QUICK};
use crate::writer::Level;
use crate::{CHUNK_SIZE, StoreError};

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active {
    path: PathBuf,
    number: u64,
    file: Box<dyn DiskFile>,
    /// Where the last checkpoint ends.
    end: u64,
    /// How much is known to be on the disk.
    synced: u64,
    /// Whether there may be bytes behind `end`.
    torn: bool,
}

impl Active {
    /// Opens the active segment of a store that is there.
    pub(crate) fn open(directory: &Path, disk: &dyn Disk, catalogue: &Catalogue) -> Result<Self, StoreError> {
        let number = catalogue.manifest.active;
        let path = directory.join(file_name(number));
        let file = disk.open(&file_name(number)).map_err(|error| StoreError::io("open", &path, error))?;
        Ok(Self {
            path,
            number,
            file,
            end: catalogue.end,
            synced: catalogue.synced,
            torn: catalogue.end < catalogue.len,
        })
    }

    /// Makes segment `number`, so that it is on the disk.
    pub(crate) fn create(
        directory: &Path,
        disk: &dyn Disk,
        store: [u8; 16],
        number: u64,
    ) -> Result<Self, StoreError> {
        let path = directory.join(file_name(number));
        let make = || {
            let file = disk.create(&file_name(number))?;
            file.write_at(0, SegmentHeader::new(store, number).as_bytes())?;
            file.sync()?;
            disk.sync_directory()?;
            Ok(file)
        };
        let file = make().map_err(|error| StoreError::io("begin", &path, error))?;
        let end = len64(SEGMENT_HEADER);
        Ok(Self { path, number, file, end, synced: end, torn: false })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// Appends a checkpoint. After an error there is none.
    pub(crate) fn append(
        &mut self,
        batch: &Batch,
        entries: &[BatchEntry],
        label: Label,
        level: Level,
    ) -> Result<Entry, StoreError> {
        self.cut()?;
        self.torn = true;
        let entry = self.write(batch, entries, label).and_then(|entry| {
            if level == Level::Synced {
                self.file.sync()?;
            }
            Ok(entry)
        });
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                // If this fails too, the next commit tries again.
                let _ = self.cut();
                return Err(StoreError::io("append to", &self.path, error));
            }
        };
        self.torn = false;
        self.end += entry.group.get();
        if level == Level::Synced {
            self.synced = self.end;
        }
        Ok(entry)
    }

    /// Cuts off what is behind the last checkpoint.
    fn cut(&mut self) -> Result<(), StoreError> {
        if self.torn {
            let cut = self.file.truncate(self.end);
            cut.map_err(|error| StoreError::io("cut", &self.path, error))?;
            self.torn = false;
        }
        Ok(())
    }

    /// Returns when all that was appended is on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if self.synced < self.end {
            self.file.sync().map_err(|error| StoreError::io("sync", &self.path, error))?;
            self.synced = self.end;
        }
        Ok(())
    }

    fn write(&self, batch: &Batch, entries: &[BatchEntry], label: Label) -> std::io::Result<Entry> {
        let id = batch.id().0;
        let mut group = GroupWriter::new(&*self.file, self.end, id, label.base == 0, QUICK)?;
        let mut left = entries;
        for (number, object) in batch.objects().iter().enumerate() {
            group.object(object.clone());
            let own = left.partition_point(|entry| entry.object as usize <= number);
            let (own, others) = left.split_at(own);
            left = others;
            for entry in own {
                match entry.content {
                    Content::Zero { count } => group.zero(entry.page, count)?,
                    Content::Page(place) => {
                        let bytes = batch.kept_page(place);
                        group.page(entry.page, bytes, place, |other| Ok(batch.kept_page(*other) == bytes))?;
                    }
                    Content::Chunks { mask, place } => {
                        let bytes = batch.kept(place, mask.count_ones() as usize * CHUNK_SIZE);
                        group.chunks(entry.page, mask, bytes)?;
                    }
                }
            }
        }
        for (name, bytes) in batch.sections() {
            group.section(name.clone(), bytes)?;
        }
        let commit = group.finish(label)?.commit;
        Ok(Entry {
            id: id.into(),
            parent: commit.parent,
            base: commit.base,
            time_ms: commit.time_ms,
            segment: self.number.into(),
            at: self.end.into(),
            group: commit.group,
            index_at: commit.index_at,
            index_crc: commit.index_crc,
            objects: commit.objects,
        })
    }
}
