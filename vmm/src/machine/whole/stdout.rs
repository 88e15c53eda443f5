//! Standard output in a file that goes back with the program.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Why the file isn't the standard output.
#[derive(Debug, thiserror::Error)]
pub enum StdoutError {
    /// It can't be opened, made, or cut back.
    #[error("{path} can't be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is shorter than what the program had written.
    #[error(
        "{path} has {len} bytes, and had {position} when the checkpoint was taken: it isn't the program's output any more"
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// What it has.
        len: u64,
        /// What it had.
        position: u64,
    },
    /// The process doesn't get it.
    #[error("{path} can't be the standard output")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Makes `path` the standard output of this process: from its beginning, or cut back to `position`. What is behind that
/// is lost, so that nobody else may be writing there.
///
/// # Errors
/// [`StdoutError`].
pub(crate) fn direct(path: &Path, position: Option<u64>) -> Result<(), StdoutError> {
    let fail = |source| StdoutError::Write { path: path.to_owned(), source };
    let file = match position {
        None => File::create(path).map_err(fail)?,
        Some(position) => cut_back(path, position)?,
    };
    nix::unistd::dup2_stdout(&file).map_err(|source| StdoutError::Refused { path: path.to_owned(), source })
}

fn cut_back(path: &Path, position: u64) -> Result<File, StdoutError> {
    let fail = |source| StdoutError::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).open(path).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    if len < position {
        return Err(StdoutError::TooShort { path: path.to_owned(), len, position });
    }
    file.set_len(position).and_then(|()| file.seek(SeekFrom::Start(position))).map_err(fail)?;
    Ok(file)
}
