//! Writing a checkpoint anew: several layers in one.

use std::io;

use crate::compaction::plan::Merge;
use crate::disk::DiskFile;
use crate::format::manifest::Entry;
use crate::format::record::{Kind, Mark};
use crate::group::{GroupWriter, Label};
use crate::layer::Layer;
use crate::object::ObjectIndex;
use crate::snapshot::{Piece, Snapshot};
use crate::{CHUNK_SIZE, PAGE_SIZE, StoreError};

/// Where groups are written.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) file: &'a dyn DiskFile,
    pub(crate) mark: Mark,
    pub(crate) segment: u64,
    /// Where the next group begins.
    pub(crate) end: u64,
    /// zstd's level.
    pub(crate) level: i32,
}

/// Why a checkpoint wasn't written anew.
#[derive(Debug)]
pub(crate) enum MergeError {
    /// Reading what is there.
    Read(StoreError),
    /// Writing the new one.
    Write(io::Error),
    /// It was told to stop.
    Stopped,
}

impl From<StoreError> for MergeError {
    fn from(error: StoreError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for MergeError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Writes the newest layers of `merge` as one group behind what `target` has. `layers` are those of its chain.
/// `go_on` is told of the pages written, and says whether to go on.
pub(crate) fn write(
    target: &mut Target<'_>,
    merge: &Merge,
    layers: Vec<Layer>,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Entry, MergeError> {
    let newest = &merge.chain[0];
    let base = merge.chain.get(merge.take).map_or(0, |entry| entry.id.get());
    let id = newest.id.get();
    let mut group = GroupWriter::new(target.file, target.mark, target.end, id, base == 0, target.level)?;
    let snapshot = Snapshot::new(layers);
    for (number, object) in (0..).zip(snapshot.objects()) {
        group.object(object.clone());
        let object = ObjectIndex(number);
        for piece in snapshot.pieces(object, merge.take, base == 0) {
            write_piece(&mut group, &snapshot, object, merge.take, &piece, go_on)?;
        }
    }
    let own = snapshot.newest_layer();
    for (name, place) in &own.index.sections {
        group.section(name.clone(), &own.unpack(place, Kind::Section)?)?;
    }
    let label = Label { parent: newest.parent.get(), base, time_ms: newest.time_ms.get(), synced: 0 };
    let commit = group.finish(label)?.commit;
    let entry = Entry {
        id: newest.id,
        parent: commit.parent,
        base: commit.base,
        time_ms: commit.time_ms,
        segment: target.segment.into(),
        at: target.end.into(),
        group: commit.group,
        index_at: commit.index_at,
        index_crc: commit.index_crc,
        objects: commit.objects,
    };
    target.end += commit.group.get();
    Ok(entry)
}

type Group<'a> = GroupWriter<'a, (ObjectIndex, u64)>;

fn write_piece(
    group: &mut Group<'_>,
    snapshot: &Snapshot,
    object: ObjectIndex,
    take: usize,
    piece: &Piece,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<(), MergeError> {
    if piece.zero {
        group.zero(piece.pages.start, piece.pages.end - piece.pages.start)?;
        return Ok(());
    }
    let (mut bytes, mut other) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for page in piece.pages.clone() {
        if !go_on(1) {
            return Err(MergeError::Stopped);
        }
        bytes.fill(0);
        let known = snapshot.resolve(object, page, take, &mut bytes)?;
        if known.chunks == u64::MAX || piece.bottomless {
            let mut failed = None;
            let same = |(object, page): &(ObjectIndex, u64)| {
                other.fill(0);
                match snapshot.resolve(*object, *page, take, &mut other) {
                    Ok(_) => Ok(other == bytes),
                    Err(error) => {
                        failed = Some(error);
                        Ok(false)
                    }
                }
            };
            group.page(page, &bytes, (object, page), same)?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        } else {
            let chunks: Vec<u8> = (0..64)
                .filter(|chunk| known.chunks & 1 << chunk != 0)
                .flat_map(|chunk| bytes[chunk * CHUNK_SIZE..][..CHUNK_SIZE].iter().copied())
                .collect();
            group.chunks(page, known.chunks, &chunks)?;
        }
    }
    Ok(())
}
