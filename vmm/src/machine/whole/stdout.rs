//! Standard output in a file that goes back with the program.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::unistd::{Whence, ftruncate, lseek};

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
    let file = match position {
        None => File::create(path).map_err(fail(path))?,
        Some(position) => open_at(path, position)?,
    };
    nix::unistd::dup2_stdout(&file).map_err(|source| StdoutError::Refused { path: path.to_owned(), source })
}

/// Checks that standard output, which is `path`, can be cut back to `position`.
///
/// # Errors
/// [`StdoutError`].
pub(crate) fn check_length(path: &Path, position: u64) -> Result<(), StdoutError> {
    let size = fstat(io::stdout()).map_err(|errno| fail(path)(errno.into()))?.st_size;
    let len = u64::try_from(size).unwrap_or(0);
    if len < position {
        return Err(StdoutError::TooShort { path: path.to_owned(), len, position });
    }
    Ok(())
}

/// Cuts standard output, which is `path`, back to `position`, and goes on writing there.
///
/// # Errors
/// [`StdoutError::Write`].
pub(crate) fn cut_back(path: &Path, position: u64) -> Result<(), StdoutError> {
    let to = i64::try_from(position).map_err(|error| fail(path)(io::Error::other(error)))?;
    ftruncate(io::stdout(), to)
        .and_then(|()| lseek(io::stdout(), to, Whence::SeekSet))
        .map_err(|errno| fail(path)(errno.into()))?;
    Ok(())
}

fn fail(path: &Path) -> impl Fn(io::Error) -> StdoutError {
    move |source| StdoutError::Write { path: path.to_owned(), source }
}

fn open_at(path: &Path, position: u64) -> Result<File, StdoutError> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(fail(path))?;
    let len = file.metadata().map_err(fail(path))?.len();
    if len < position {
        return Err(StdoutError::TooShort { path: path.to_owned(), len, position });
    }
    file.set_len(position).and_then(|()| file.seek(SeekFrom::Start(position))).map_err(fail(path))?;
    Ok(file)
}
