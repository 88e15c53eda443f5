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
    /// It isn't there, and was.
    #[error(
        "{path} isn't there any more. cairn restore --stdout FILE with a file that isn't there yet goes on without what \
         it had"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// It can be written, and not be read.
    #[error("{path} can't be read, and a checkpoint tells what it has")]
    Read {
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
    let file = OpenOptions::new().write(true).create(is_new).truncate(false).open(path);
    let file = file.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if !is_new => StdoutError::Gone { path: path.to_owned() },
        _ => fail(path)(source),
    })?;
    // Whoever can't be told what it has gets no checkpoint, and learns it before anything is cut off.
    let unreadable = |source| StdoutError::Read { path: path.to_owned(), source };
    let content = readable(&file).map_err(unreadable)?;
    if let Some(output) = output {
        check(path, &file, output)?;
        let fits = content.map_or(Ok(true), |content| output.fits(&content)).map_err(unreadable)?;
        if !fits {
            return Err(StdoutError::Changed { path: path.to_owned(), position: output.length() });
        }
    }
    nix::unistd::dup2_stdout(&file).map_err(|source| StdoutError::Refused { path: path.to_owned(), source })
}

/// Checks that standard output, which is `path`, and which nobody else writes, can be made what `output` says.
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
    readable(&File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// A file that is written, to be read. None if it isn't one.
fn readable(file: &File) -> io::Result<Option<File>> {
    if file.metadata()?.is_file() { File::open(again(file)).map(Some) } else { Ok(None) }
}

/// The path by which this process opens a file that it has open.
fn again(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn check(path: &Path, file: &File, output: &Output) -> Result<(), StdoutError> {
    let len = file.metadata().map_err(fail(path))?.len();
    if len < output.start {
        return Err(StdoutError::TooShort { path: path.to_owned(), len, position: output.start });
    }
    Ok(())
}

fn turn(path: &Path, mut file: &File, output: &Output) -> Result<(), StdoutError> {
    if !file.metadata().map_err(fail(path))?.is_file() {
        // A device or a pipe has no length.
        return Ok(());
    }
    // By another description: the program may have made this one append, wherever one writes.
    let own = OpenOptions::new().write(true).open(again(file)).map_err(fail(path))?;
    own.write_all_at(&output.put, output.start)
        .and_then(|()| own.set_len(output.length()))
        .and_then(|()| file.seek(SeekFrom::Start(output.length())))
        .map_err(fail(path))?;
    Ok(())
}

fn fail(path: &Path) -> impl Fn(io::Error) -> StdoutError {
    move |source| StdoutError::Write { path: path.to_owned(), source }
}
