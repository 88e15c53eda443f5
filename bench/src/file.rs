//! Files that results are written to.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that appears with its whole content or not at all. Begun before the run, so that a path that can't be
/// written is known before minutes are spent.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl OutputFile {
    /// Begins the file that will be at `path`.
    ///
    /// # Errors
    /// Its directory can't be written to, or `path` names no file.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = File::create(&temporary)?;
        Ok(Self { path: path.to_owned(), temporary, file })
    }

    /// Writes the content and gives the file its name.
    ///
    /// # Errors
    /// The disk is full, or the like. What was at the path before is still there.
    pub fn commit(mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // After a commit there is no such file any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_appears_whole_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        drop(OutputFile::begin(&path).unwrap());
        assert!(!path.exists());
        OutputFile::begin(&path).unwrap().commit(b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_an_error_at_once() {
        assert!(OutputFile::begin(Path::new("/no/such/directory/x.json")).is_err());
        assert!(OutputFile::begin(Path::new("/")).is_err());
    }
}
