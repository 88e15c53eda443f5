//! The catalogue: which checkpoints a store holds, and where.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use zerocopy::FromBytes;

use crate::StoreError;
use crate::disk::open_plain;
use crate::error::Damage;
use crate::format::manifest::{Entry, MANIFEST, Manifest, ManifestError};
use crate::format::record::Mark;
use crate::format::segment::{SEGMENT_HEADER, SegmentHeader, file_name};
use crate::format::{MAX_CHAIN, MAX_MANIFEST_BYTES, VERSION};
use crate::layer::{Layer, SegmentFile};
use crate::scan::{Scan, scan};
use crate::state::oldest_kept;

/// How often a reader starts again because compaction took away what the manifest named.
pub(crate) const MOST_TRIES: usize = 64;

/// What a store holds.
#[derive(Debug)]
pub(crate) struct Catalogue {
    pub(crate) manifest: Manifest,
    /// All checkpoints, those too that are only there because others take from them.
    pub(crate) entries: BTreeMap<u64, Entry>,
    /// Where the active segment ends.
    pub(crate) end: u64,
    /// How much of it was known to be on the disk.
    pub(crate) synced: u64,
    /// Bytes of its file.
    pub(crate) len: u64,
    /// Damage that was met while looking.
    pub(crate) damage: Option<Damage>,
    /// What hides checkpoints at the end of the active segment: see [`Scan::lost`].
    pub(crate) lost: Option<Damage>,
}

impl Catalogue {
    /// Reads the manifest and the active segment.
    pub(crate) fn load(directory: &Path) -> Result<Self, StoreError> {
        let mut manifest = read_manifest(directory)?;
        for _ in 0..MOST_TRIES {
            match Self::with(directory, manifest.clone()) {
                Err(error) => {
                    // Another active segment by now, and the one that was is deleted: look again.
                    let now = read_manifest(directory)?;
                    if now.generation == manifest.generation {
                        return Err(error);
                    }
                    manifest = now;
                }
                found => return found,
            }
        }
        Self::with(directory, manifest)
    }

    fn with(directory: &Path, manifest: Manifest) -> Result<Self, StoreError> {
        let active = manifest.active;
        let segment = open_segment(directory, manifest.store, active)?;
        let Scan { entries: found, end, synced, len, damage, lost } = scan(&segment, active)?;
        let mut entries: BTreeMap<u64, Entry> =
            found.into_iter().map(|entry| (entry.id.get(), entry)).collect();
        // Compaction may have written a checkpoint of the active segment anew.
        entries.extend(manifest.checkpoints.iter().map(|entry| (entry.id.get(), *entry)));
        Ok(Self { manifest, entries, end, synced, len, damage, lost })
    }

    /// The checkpoint's layers, its own first, the last one complete.
    pub(crate) fn layers(&self, directory: &Path, id: u64) -> Result<Vec<Layer>, StoreError> {
        layers_of(directory, self.manifest.store, &chain(&self.entries, directory, id)?)
    }

    /// The oldest checkpoint that may be asked for.
    pub(crate) fn oldest_kept(&self) -> u64 {
        oldest_kept(&self.manifest, &self.entries)
    }

    /// Whether `id` is one that may be asked for.
    pub(crate) fn is_kept(&self, id: u64) -> bool {
        self.oldest_kept() <= id && self.entries.contains_key(&id)
    }
}

/// Opens the layers of a chain.
pub(crate) fn layers_of(
    directory: &Path,
    store: [u8; 16],
    chain: &[Entry],
) -> Result<Vec<Layer>, StoreError> {
    let mut files: BTreeMap<u64, Arc<SegmentFile>> = BTreeMap::new();
    let mut layers = Vec::with_capacity(chain.len());
    for entry in chain {
        let number = entry.segment.get();
        let file = match files.get(&number) {
            Some(file) => Arc::clone(file),
            None => Arc::new(open_segment(directory, store, number)?),
        };
        files.insert(number, Arc::clone(&file));
        layers.push(Layer::open(file, *entry)?);
    }
    Ok(layers)
}

/// The checkpoints that `id` takes its pages from, itself first.
pub(crate) fn chain(
    entries: &BTreeMap<u64, Entry>,
    directory: &Path,
    id: u64,
) -> Result<Vec<Entry>, StoreError> {
    let mut found: Vec<Entry> = Vec::new();
    let mut wanted = id;
    while wanted != 0 {
        let Some(entry) = entries.get(&wanted) else {
            let Some(last) = found.last() else {
                return Err(StoreError::Unknown { path: directory.to_owned(), id });
            };
            let path = directory.join(file_name(last.segment.get()));
            let what = format!("checkpoint {} takes pages from checkpoint {wanted}, which is lost", last.id);
            return Err(StoreError::damage(&path, last.at.get(), what));
        };
        if MAX_CHAIN < found.len() {
            return Err(StoreError::Chain { path: directory.to_owned(), id, length: found.len() });
        }
        found.push(*entry);
        wanted = entry.base.get();
    }
    Ok(found)
}

/// Reads a store's manifest.
pub(crate) fn read_manifest(directory: &Path) -> Result<Manifest, StoreError> {
    let path = directory.join(MANIFEST);
    let no_store = |why| StoreError::NotAStore { path: directory.to_owned(), why };
    let file = open_plain(OpenOptions::new().read(true), &path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if directory.is_dir() => no_store("it has no MANIFEST"),
        io::ErrorKind::NotFound => no_store("there is no such directory"),
        io::ErrorKind::NotADirectory => no_store("it is no directory"),
        _ => StoreError::io("open", &path, error),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| StoreError::io("read", &path, error))?;
    if MAX_MANIFEST_BYTES < bytes.len() {
        return Err(StoreError::damage(&path, 0, "longer than a manifest may be"));
    }
    Manifest::decode(&bytes).map_err(|error| match error {
        ManifestError::Version(found) => StoreError::Version { path, found, known: VERSION },
        ManifestError::Damaged(what) => StoreError::damage(&path, 0, what),
    })
}

/// The generation of the manifest that a store has now, unchecked: to find out cheaply whether it's another one.
pub(crate) fn generation(directory: &Path) -> Option<u64> {
    let file = open_plain(OpenOptions::new().read(true), &directory.join(MANIFEST)).ok()?;
    Manifest::generation_of(file).ok()
}

/// Opens segment `number` and checks that it is that.
pub(crate) fn open_segment(
    directory: &Path,
    store: [u8; 16],
    number: u64,
) -> Result<SegmentFile, StoreError> {
    let path = directory.join(file_name(number));
    let file = open_plain(OpenOptions::new().read(true), &path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::damage(&path, 0, "the segment is missing"),
        _ => StoreError::io("open", &path, error),
    })?;
    let segment = SegmentFile { file, path, mark: Mark::of(store) };
    let mut bytes = [0; SEGMENT_HEADER];
    segment.read(0, &mut bytes)?;
    let header = SegmentHeader::read_from_bytes(&bytes).expect("as many bytes as a header has");
    header.check(store, number).map_err(|what| StoreError::damage(&segment.path, 0, what))?;
    if header.version() != VERSION {
        return Err(StoreError::Version { path: segment.path, found: header.version(), known: VERSION });
    }
    Ok(segment)
}
