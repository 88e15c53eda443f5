//! What a guest has open, as plain data, and back.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Files, path::GuestPath};

/// Bytes of a page of a file in an image.
pub const FILE_PAGE: usize = 4096;

/// Everything of [`Files`] but the bytes of the files in its trees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilesImage {
    umask: u32,
}

/// Takes the bytes of files for an image.
pub trait FilePages {
    /// Whether the pages of the last image are still there, so that only those that changed since are wanted.
    fn incremental(&self) -> bool;

    /// A file of so many pages, with a name that is its own in all images of a guest. Answers a number for it.
    ///
    /// # Errors
    /// As the taker says.
    fn file(&mut self, name: &str, pages: u64) -> Result<u32, ImageError>;

    /// One page of it, with zeros behind the file's end.
    ///
    /// # Errors
    /// As the taker says.
    fn page(&mut self, file: u32, page: u64, bytes: &[u8; FILE_PAGE]) -> Result<(), ImageError>;
}

/// Has the bytes of files of an image.
pub trait FilePagesSource {
    /// A page of a file by the name under which it was taken; zeros if it was never given.
    ///
    /// # Errors
    /// As the source says.
    fn page(&self, name: &str, page: u64, bytes: &mut [u8; FILE_PAGE]) -> Result<(), ImageError>;
}

/// Why files can't be put into an image, or not come back from one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The taker or the source of pages failed.
    #[error("the bytes of a file: {0}")]
    Pages(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file of the host that the program had open isn't there any more, or can't be opened.
    #[error("{path}, which the program had open, can't be opened any more: {}", source.desc())]
    Gone {
        /// The file, in the guest.
        path: GuestPath,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The image contradicts itself.
    #[error("the checkpoint's files are damaged: {0}")]
    Invalid(&'static str),
}

impl Files {
    /// The image.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn image(&mut self, _pages: &mut dyn FilePages) -> Result<FilesImage, ImageError> {
        Ok(FilesImage { umask: self.umask })
    }

    /// Back.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn restore(&mut self, image: FilesImage, _pages: &dyn FilePagesSource) -> Result<(), ImageError> {
        self.set_umask(image.umask);
        Ok(())
    }
}
