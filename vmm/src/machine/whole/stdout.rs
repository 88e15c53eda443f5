//! Standard output in a file that goes back with the program.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::output::Output;

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
        "{path} has {len} bytes, and had {position} when the checkpoint was taken: it isn't the program's output any \
         more. cairn restore --stdout FILE with a file that isn't there yet goes on without what it had"
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// What it has.
        len: u64,
        /// What it had.
        position: u64,
    },
    /// It isn't what the program had written.
    #[error(
        "{path} isn't the program's output any more: its first {position} bytes are not those that it had when the \
         checkpoint was taken, as somebody else has written there, or another run that was killed before its first \
         checkpoint. cairn restore --stdout FILE with a file that isn't there yet goes on without what it had"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes that it had.
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

/// Makes `path` the standard output of this process: a file that is made where there is none, or one that can be made what
/// `output` says. What it has isn't touched yet, as the program may still turn out not to start: see [`turn_own`].
///
/// # Errors
/// [`StdoutError`].
pub(crate) fn direct(path: &Path, output: Option<&Output>) -> Result<(), StdoutError> {
    let is_new = output.is_none();
    let file =
        OpenOptions::new().write(true).create(is_new).truncate(false).open(path).map_err(fail(path))?;
    if let Some(output) = output {
        check(path, &file, output)?;
    }
    nix::unistd::dup2_stdout(&file).map_err(|source| StdoutError::Refused { path: path.to_owned(), source })
}

/// Checks that standard output, which is `path`, can be made what `output` says.
///
/// # Errors
/// [`StdoutError`].
pub(crate) fn check_own(path: &Path, output: &Output) -> Result<(), StdoutError> {
    check(path, &own(path)?, output)
}

/// Makes standard output, which is `path`, what `output` says, and goes on writing at its end. What is behind that is
/// lost, so that nobody else may be writing there.
///
/// # Errors
/// [`StdoutError::Write`].
pub(crate) fn turn_own(path: &Path, output: &Output) -> Result<(), StdoutError> {
    turn(path, &own(path)?, output)
}

fn own(path: &Path) -> Result<File, StdoutError> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(fail(path))
}

/// Standard output once more, to be read. None if it isn't a file.
///
/// # Errors
/// Whoever may write it may not read it.
pub(super) fn to_read() -> io::Result<Option<File>> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if file.metadata()?.is_file() { read_again(&file).map(Some) } else { Ok(None) }
}

fn read_again(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn check(path: &Path, file: &File, output: &Output) -> Result<(), StdoutError> {
    let metadata = file.metadata().map_err(fail(path))?;
    let (len, path) = (metadata.len(), path.to_owned());
    if len < output.start {
        return Err(StdoutError::TooShort { path, len, position: output.start });
    }
    // What isn't a file can't be read back, and doesn't go back.
    let fits =
        !metadata.is_file() || read_again(file).and_then(|file| output.fits(&file)).map_err(fail(&path))?;
    if fits { Ok(()) } else { Err(StdoutError::Changed { path, position: output.length() }) }
}

fn turn(path: &Path, mut file: &File, output: &Output) -> Result<(), StdoutError> {
    if !file.metadata().map_err(fail(path))?.is_file() {
        // A device or a pipe has no length.
        return Ok(());
    }
    file.write_all_at(&output.put, output.start)
        .and_then(|()| file.set_len(output.length()))
        .and_then(|()| file.seek(SeekFrom::Start(output.length())))
        .map_err(fail(path))?;
    Ok(())
}

fn fail(path: &Path) -> impl Fn(io::Error) -> StdoutError {
    move |source| StdoutError::Write { path: path.to_owned(), source }
}
