//! A disk image: a raw file or block device, or qcow2.
//!
//! The format is decided once, by the first bytes when the image is opened, and then stays. Two rules keep a
//! guest from making more of it:
//!
//! - A qcow2 image with a backing file or an external data file is refused: whoever wrote the image could have
//!   named any file of the host.
//! - Of a raw image, the first bytes can't be made those of qcow2: the next run would take it for one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use super::qcow2_check;

/// Bytes of a sector, virtio's unit of capacity.
pub const SECTOR: u64 = 512;
/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// How an image holds the disk's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageFormat {
    /// As they are.
    Raw,
    /// In qcow2's clusters.
    Qcow2,
}

/// An open image. The file is locked as long as the value lives; dropping it writes back what is cached.
#[derive(Debug)]
pub struct Image {
    access: FormatAccess<imago::file::File>,
    format: ImageFormat,
    read_only: bool,
}

/// Why an image can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file can't be opened.
    #[error("the disk image {path:?} can't be opened{}", if *.read_only { "" } else { " for writing" })]
    Open {
        /// The image.
        path: PathBuf,
        /// It should only be read.
        read_only: bool,
        /// What the operating system says.
        source: io::Error,
    },
    /// It isn't a file that holds bytes.
    #[error("{0:?} is neither a regular file nor a block device")]
    Kind(PathBuf),
    /// Another machine has it.
    #[error("the disk image {0:?} is in use by another machine; two may share it only if both have it `:ro`")]
    InUse(PathBuf),
    /// It can't be read, or isn't what its first bytes promise.
    #[error("the disk image {path:?} can't be used")]
    Content {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// A part of it is in another file.
    #[error(
        "the disk image {path:?} needs another file, {other:?}, which is not opened because any image could \
         name any file; make one image of both with `qemu-img convert -O qcow2`"
    )]
    OtherFile {
        /// The image.
        path: PathBuf,
        /// The file that it names.
        other: String,
    },
}

impl Image {
    /// Opens the image at `path`, which it locks: shared if it's only read.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, ImageError> {
        let content = |source| ImageError::Content { path: path.to_owned(), source };
        let mut file = open_file(path, read_only)?;
        let format = detect(&mut file).map_err(content)?;
        if format == ImageFormat::Qcow2 && !read_only {
            qcow2_check::check(&file).map_err(content)?;
        }
        let options = StorageOpenOptions::new().write(!read_only);
        let storage = imago::file::File::from_open_file(file, options).map_err(content)?;
        let access = match format {
            ImageFormat::Raw => FormatAccess::new(Raw::open_image(storage, !read_only).map_err(content)?),
            ImageFormat::Qcow2 => {
                // imago panics at some headers that can't be. Nothing of what it had begun is kept then.
                let opened = catch_unwind(AssertUnwindSafe(|| open_qcow2(path, storage, read_only)));
                let panicked = |_| content(io::Error::other("its header makes no sense"));
                FormatAccess::new(opened.map_err(panicked)??)
            }
        };
        let image = Self { access, format, read_only };
        let bytes = image.access.size();
        tracing::info!(?path, ?format, bytes, read_only, "disk image");
        if !bytes.is_multiple_of(SECTOR) {
            tracing::warn!(?path, "the image's last {} bytes are no whole sector: left out", bytes % SECTOR);
        }
        Ok(image)
    }

    /// How the image holds the disk's bytes.
    #[must_use]
    pub fn format(&self) -> ImageFormat {
        self.format
    }

    /// Whether the disk can't be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Sectors of the disk.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.access.size() / SECTOR
    }

    /// Reads the bytes from `offset` on into all of `data`; what is beyond the end reads as zero.
    ///
    /// # Errors
    /// What the host or the image's format says.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.access.read(data, offset)
    }

    /// Writes all of `data` from `offset` on.
    ///
    /// # Errors
    /// What the host or the image's format says; `PermissionDenied` if it would make qcow2 of a raw image.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.format == ImageFormat::Raw && offset < QCOW2_MAGIC.len() as u64 {
            self.check_magic(offset, data)?;
        }
        self.access.write(data, offset)
    }

    /// Makes what was written survive a crash of the host.
    ///
    /// # Errors
    /// What the host says.
    pub fn sync(&self) -> io::Result<()> {
        self.access.flush()?;
        self.access.sync()
    }

    /// Refuses `data` if the image began as qcow2 does afterwards.
    fn check_magic(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut first = [0; QCOW2_MAGIC.len()];
        self.read(0, &mut first)?;
        for (to, from) in first.iter_mut().skip(usize::try_from(offset).unwrap_or(usize::MAX)).zip(data) {
            *to = *from;
        }
        if first == QCOW2_MAGIC {
            let text = "the guest would turn its raw image into qcow2, as which the next run would open it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(())
    }
}

fn open_file(path: &Path, read_only: bool) -> Result<File, ImageError> {
    let open = |source| ImageError::Open { path: path.to_owned(), read_only, source };
    // Looked at before it's opened too: opening a pipe waits for its other end.
    let is_bytes = |kind: std::fs::FileType| kind.is_file() || kind.is_block_device();
    let named = std::fs::metadata(path).map_err(open)?;
    if !is_bytes(named.file_type()) {
        return Err(ImageError::Kind(path.to_owned()));
    }
    let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(open)?;
    if !is_bytes(file.metadata().map_err(open)?.file_type()) {
        return Err(ImageError::Kind(path.to_owned()));
    }
    let locked = if read_only { file.try_lock_shared() } else { file.try_lock() };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ImageError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(open(source)),
    }
}

fn detect(file: &mut File) -> io::Result<ImageFormat> {
    let mut first = Vec::new();
    file.take(QCOW2_MAGIC.len() as u64).read_to_end(&mut first)?;
    file.rewind()?;
    Ok(if first == QCOW2_MAGIC { ImageFormat::Qcow2 } else { ImageFormat::Raw })
}

fn open_qcow2(
    path: &Path,
    storage: imago::file::File,
    read_only: bool,
) -> Result<Qcow2<imago::file::File>, ImageError> {
    let content = |source| ImageError::Content { path: path.to_owned(), source };
    // Nothing that the image names is opened; a gate that denies stands behind that.
    let image = Qcow2::<imago::file::File>::builder(storage)
        .write(!read_only)
        .backing(None)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .map_err(content)?;
    let other = match image.implicit_backing_file() {
        Some(name) => Some(name.clone()),
        None if image.requires_external_data_file() => {
            Some(image.implicit_external_data_file().cloned().unwrap_or_default())
        }
        None => None,
    };
    match other {
        None => Ok(image),
        Some(other) => Err(ImageError::OtherFile { path: path.to_owned(), other }),
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
pub(super) mod tests;
