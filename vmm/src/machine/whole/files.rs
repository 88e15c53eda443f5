//! Pages of the program's own files, on their way into a checkpoint and back.

use cairn_store::PAGE_SIZE;

use crate::guest::app::files::{FILE_PAGE, FilePages, FilePagesSource, ImageError};
use crate::store::signature::CheckedSnapshot;

/// What the names of files' objects begin with.
const PREFIX: &str = "file:";

/// Pages of files that a checkpoint has.
#[derive(Debug, Default)]
pub(super) struct TakenFiles {
    /// Whether the checkpoint before has the others.
    pub(super) incremental: bool,
    /// Each file's name and its number of pages.
    pub(super) files: Vec<(String, u64)>,
    /// The file, the page, the bytes.
    pub(super) pages: Vec<(u32, u64, Box<[u8; FILE_PAGE]>)>,
}

impl FilePages for TakenFiles {
    fn incremental(&self) -> bool {
        self.incremental
    }

    fn file(&mut self, name: &str, pages: u64) -> Result<u32, ImageError> {
        let number = u32::try_from(self.files.len()).map_err(|_| ImageError::Invalid("too many files"))?;
        self.files.push((name.to_owned(), pages));
        Ok(number)
    }

    fn page(&mut self, file: u32, page: u64, bytes: &[u8; FILE_PAGE]) -> Result<(), ImageError> {
        self.pages.push((file, page, Box::new(*bytes)));
        Ok(())
    }
}

/// The object of a file.
pub(super) fn object_name(file: &str) -> String {
    format!("{PREFIX}{file}")
}

/// Pages of files of a checkpoint that is in a store.
#[derive(Debug)]
pub(crate) struct StoredFiles<'a>(pub(crate) &'a CheckedSnapshot);

impl FilePagesSource for StoredFiles<'_> {
    fn page(&self, name: &str, page: u64, bytes: &mut [u8; FILE_PAGE]) -> Result<(), ImageError> {
        match self.0.find(&object_name(name)) {
            Some(object) => {
                self.0.read_page(object, page, bytes).map_err(|error| ImageError::Pages(Box::new(error)))
            }
            None => {
                bytes.fill(0);
                Ok(())
            }
        }
    }
}

const _: () = assert!(FILE_PAGE == PAGE_SIZE);
