//! Making a store, and taking away what a death left behind.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::StoreError;
use crate::active::Active;
use crate::disk::Disk;
use crate::format::len64;
use crate::format::manifest::{MANIFEST, MANIFEST_NEW, Manifest};
use crate::format::segment::{SEGMENT_HEADER, number_of};
use crate::lock::LOCK;

/// The number of a store's first segment.
const FIRST_SEGMENT: u64 = 1;

/// Makes the directory, for this user alone, if it isn't there.
pub(crate) fn directory(directory: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|error| StoreError::io("sync", parent, error))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("make", directory, error)),
    }
}

/// Whether there is no store yet in `directory`, and nothing that could have been one or is somebody else's.
pub(crate) fn is_new(directory: &Path) -> Result<bool, StoreError> {
    let no_store = |why| Err(StoreError::NotAStore { path: directory.to_owned(), why });
    let mut other = false;
    for entry in list(directory)? {
        let (name, len) = entry?;
        if name == MANIFEST {
            return Ok(false);
        }
        // Its making was interrupted: a lock, a first segment without checkpoints, a manifest without its name.
        let ours = name == LOCK || name == MANIFEST_NEW;
        let empty_segment = number_of(&name) == Some(FIRST_SEGMENT) && len <= len64(SEGMENT_HEADER);
        other |= !ours && !empty_segment;
    }
    // Whoever looks without the lock may have missed the manifest as it got its name.
    match other {
        true if directory.join(MANIFEST).symlink_metadata().is_ok() => Ok(false),
        true => no_store("it has other files, but no MANIFEST"),
        false => Ok(true),
    }
}

/// Makes a store without checkpoints.
pub(crate) fn store(directory: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let half = || RandomState::new().build_hasher().finish().to_le_bytes();
    let mut store = [0; 16];
    store[..8].copy_from_slice(&half());
    store[8..].copy_from_slice(&half());
    Active::create(directory, disk, store, FIRST_SEGMENT)?;
    let manifest = Manifest {
        store,
        generation: 1,
        active: FIRST_SEGMENT,
        next_segment: FIRST_SEGMENT + 1,
        oldest_kept: 0,
        keep: 0,
        segments: Vec::new(),
        checkpoints: Vec::new(),
    };
    put_manifest(directory, disk, &manifest)?;
    disk.sync_directory().map_err(|error| StoreError::io("sync", directory, error))
}

/// Puts a manifest in the place of the one there is. Whoever looks finds one or the other; until the directory is
/// synced, so does whoever looks after a loss of power.
pub(crate) fn put_manifest(directory: &Path, disk: &dyn Disk, manifest: &Manifest) -> Result<(), StoreError> {
    let write = || {
        let file = disk.create(MANIFEST_NEW)?;
        file.write_at(0, &manifest.encode())?;
        file.sync()?;
        disk.rename(MANIFEST_NEW, MANIFEST)
    };
    write().map_err(|error| StoreError::io("replace", &directory.join(MANIFEST), error))
}

/// Deletes segments that the manifest doesn't name: a compaction or a new segment that a death interrupted, or what
/// was no longer needed.
pub(crate) fn remove_leftovers(
    directory: &Path,
    disk: &dyn Disk,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    for entry in list(directory)? {
        let (name, _) = entry?;
        let left_over = match number_of(&name) {
            Some(number) => {
                number != manifest.active
                    && manifest.segments.iter().all(|segment| segment.number.get() != number)
            }
            None => name == MANIFEST_NEW,
        };
        if left_over {
            disk.remove(&name).map_err(|error| StoreError::io("delete", &directory.join(&name), error))?;
        }
    }
    Ok(())
}

/// The files of a directory and their lengths. A name that is no UTF-8 is none of ours.
fn list(directory: &Path) -> Result<impl Iterator<Item = Result<(String, u64), StoreError>>, StoreError> {
    let failed = |error| StoreError::io("list", directory, error);
    let entries = fs::read_dir(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            StoreError::NotAStore { path: directory.to_owned(), why: "it is no directory" }
        }
        _ => failed(error),
    })?;
    Ok(entries.map(move |entry| {
        let entry = entry.map_err(failed)?;
        let len = entry.metadata().map_err(failed)?.len();
        Ok((entry.file_name().to_string_lossy().into_owned(), len))
    }))
}
