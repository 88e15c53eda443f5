//! The segment that is appended to.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use zerocopy::IntoBytes;

use crate::batch::{Batch, Content, Entry as BatchEntry};
use crate::catalogue::Catalogue;
use crate::disk::{Disk, DiskFile};
use crate::format::len64;
use crate::format::manifest::Entry;
use crate::format::record::Mark;
use crate::format::segment::{SEGMENT_HEADER, SegmentHeader, file_name};
use crate::group::{GroupWriter, Label, QUICK};
use crate::layer::SegmentFile;
use crate::scan::check_group;
use crate::writer::Level;
use crate::{CHUNK_SIZE, StoreError};

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active {
    path: PathBuf,
    number: u64,
    mark: Mark,
    file: Box<dyn DiskFile>,
    /// Where the last checkpoint ends.
    end: u64,
    /// How much is known to be on the disk.
    synced: u64,
    /// Whether there may be bytes behind `end`.
    torn: bool,
    /// Whether an fsync failed: nothing behind `synced` may be believed any more.
    given_up: bool,
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
            mark: Mark::of(catalogue.manifest.store),
            file,
            end: catalogue.end,
            synced: catalogue.synced,
            torn: catalogue.end < catalogue.len,
            given_up: false,
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
        let file = make().map_err(|error| {
            // No manifest names it; if it can't be deleted, the next writer does.
            let _ = disk.remove(&file_name(number));
            StoreError::io("begin", &path, error)
        })?;
        let end = len64(SEGMENT_HEADER);
        Ok(Self { path, number, mark: Mark::of(store), file, end, synced: end, torn: false, given_up: false })
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

    pub(crate) fn is_empty(&self) -> bool {
        self.end <= len64(SEGMENT_HEADER)
    }

    /// Whether an fsync failed, so that another segment must take its place.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Whether somebody deleted the file: what is written to it is lost with its last holder.
    pub(crate) fn is_deleted(&self) -> bool {
        self.file.is_deleted().unwrap_or(false)
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
        let written = self.write(batch, entries, label);
        let written = written.and_then(|entry| {
            if level == Level::Synced {
                self.file.sync().inspect_err(|_| self.given_up = true)?;
            }
            Ok(entry)
        });
        let entry = match written {
            Ok(entry) => entry,
            Err(error) => {
                // If this fails too, the next commit tries again.
                let _ = self.cut();
                return Err(StoreError::io("append to", &self.path, error));
            }
        };
        if self.is_deleted() {
            let directory = self.path.parent().unwrap_or(&self.path);
            return Err(StoreError::Deleted { path: directory.to_owned() });
        }
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
            self.file.sync().map_err(|error| {
                self.given_up = true;
                StoreError::io("sync", &self.path, error)
            })?;
            self.synced = self.end;
        }
        Ok(())
    }

    /// Copies checkpoints of another segment, as they are, so that they are on the disk. Those whose bytes are no
    /// longer what was written are left out, and those
    /// that take from them.
    pub(crate) fn copy(&mut self, from: &SegmentFile, entries: &[Entry]) -> Result<Vec<Entry>, StoreError> {
        let (mut copied, mut lost) = (Vec::new(), HashSet::new());
        for entry in entries {
            if let Err(error) = check_group(from, entry, &mut |_| {}) {
                tracing::error!("checkpoint {} is lost after a failed fsync: {error}", entry.id);
                lost.insert(entry.id.get());
                continue;
            }
            if lost.contains(&entry.base.get()) {
                lost.insert(entry.id.get());
                continue;
            }
            let mut piece = vec![0; COPY_BYTES];
            let mut done = 0;
            while done < entry.group.get() {
                let part = usize::try_from(entry.group.get() - done).unwrap_or(COPY_BYTES).min(COPY_BYTES);
                from.read(entry.at.get() + done, &mut piece[..part])?;
                let put = self.file.write_at(self.end + done, &piece[..part]);
                put.map_err(|error| StoreError::io("write", &self.path, error))?;
                done += len64(part);
            }
            copied.push(Entry { segment: self.number.into(), at: self.end.into(), ..*entry });
            self.end += entry.group.get();
        }
        self.sync()?;
        Ok(copied)
    }

    fn write(&self, batch: &Batch, entries: &[BatchEntry], label: Label) -> std::io::Result<Entry> {
        let id = batch.id().0;
        let mut group = GroupWriter::new(&*self.file, self.mark, self.end, id, label.base == 0, QUICK)?;
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
