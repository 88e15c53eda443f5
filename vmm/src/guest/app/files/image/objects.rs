//! Open files as plain data, and back.

use std::sync::Arc;

use cairn_abi::CheckpointId;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open},
    sys::stat::Mode,
    unistd::{Whence, lseek},
};
use serde::{Deserialize, Serialize};

use super::{
    Files, Identity, ImageError, TreeFiles,
    pipes::{self, EventImage, PipeImage, Pipes, Watch},
    place_of,
};
use crate::guest::app::files::{
    OpenFile,
    facts::ProcessFacts,
    memory::MemoryHandle,
    open::Object,
    path::{GuestPath, PATH_MAX},
    synthetic::ForkPointImage,
};

/// An open file: its path and what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct OpenImage {
    path: Vec<u8>,
    changeable: bool,
    object: ObjectImage,
}

impl OpenImage {
    /// Its path, if it can't come back.
    pub(super) fn lost(&self) -> Option<&[u8]> {
        (self.object == ObjectImage::Lost).then_some(&self.path)
    }
}

/// The kinds of open files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum ObjectImage {
    /// Standard input, output or error of the monitor, whatever it is there.
    Standard(u8),
    /// A regular file of the host.
    Host { flags: i32, offset: i64, identity: Identity },
    /// A device or a synthesized file: opened again by its path.
    Again { flags: i32, offset: i64 },
    /// A file of a tree.
    Memory { tree: u32, inode: u64, flags: i32, offset: i64 },
    /// A directory and where its listing stands.
    Directory { flags: i32, position: i64 },
    /// An end of a pipe inside the program.
    Pipe(PipeImage),
    /// An event counter.
    Event(EventImage),
    /// An epoll instance.
    Epoll(Vec<Watch>),
    /// Something that leads to another process, or to a directory that was removed.
    Lost,
    /// /dev/cairn.
    ForkPoint { flags: i32, state: ForkPointImage },
}

/// The flags that an open file keeps.
fn kept() -> OFlag {
    OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_DIRECT | OFlag::O_SYNC | OFlag::O_PATH
}

/// All open files.
pub(super) fn image(files: &Files, open: &[Arc<OpenFile>]) -> Result<Vec<OpenImage>, ImageError> {
    let pipes = Pipes::find(open)?;
    open.iter()
        .map(|file| {
            let object = object(files, file, &pipes, open)?;
            let path = file.current_path().unwrap_or_else(|_| file.path().clone());
            Ok(OpenImage { path: path.as_bytes().to_vec(), changeable: file.is_changeable(), object })
        })
        .collect()
}

fn object(
    files: &Files,
    file: &Arc<OpenFile>,
    pipes: &Pipes,
    open: &[Arc<OpenFile>],
) -> Result<ObjectImage, ImageError> {
    let path = file.path();
    let failed = || ImageError::host(format!("{path} can't be put into a checkpoint"));
    if let Some(stream) = files.standard(file) {
        return Ok(ObjectImage::Standard(stream));
    }
    Ok(match file.object() {
        Object::Host(fd) => {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).map_err(failed())?) & kept();
            if let Some(pipe) = pipes.end(file) {
                return Ok(ObjectImage::Pipe(pipe));
            }
            if path.as_bytes() == pipes::EVENT_LABEL.as_bytes() {
                return Ok(ObjectImage::Event(pipes::event(fd, flags).map_err(failed())?));
            }
            let status = file.status().map_err(failed())?;
            let seeks = !flags.contains(OFlag::O_PATH);
            let offset = || if seeks { lseek(fd, 0, Whence::SeekCur) } else { Ok(0) };
            match status.kind() {
                libc::S_IFREG => ObjectImage::Host {
                    flags: flags.bits(),
                    offset: offset().map_err(failed())?,
                    identity: Identity::from(&status),
                },
                libc::S_IFCHR | libc::S_IFLNK => ObjectImage::Again { flags: flags.bits(), offset: 0 },
                _ => ObjectImage::Lost,
            }
        }
        Object::Memory(handle) => {
            let flags = handle.flags().map_err(failed())? & kept();
            let seeks = !flags.contains(OFlag::O_PATH);
            let offset = if seeks { handle.seek(0, Whence::SeekCur).map_err(failed())? } else { 0 };
            let (tree, inode) =
                place_of(files, handle.file()).ok_or(ImageError::Invalid("a file of no tree"))?;
            ObjectImage::Memory { tree, inode, flags: flags.bits(), offset }
        }
        Object::Directory(handle) => {
            // One that is only a place to start from, as the working directory is, can't be listed.
            let seeks = !handle.flags().contains(OFlag::O_PATH);
            let position = if seeks { handle.seek(0, libc::SEEK_CUR) } else { Ok(0) };
            match (file.current_path(), position) {
                // One whose path became longer than a call can name couldn't be opened again.
                (Ok(path), Ok(position)) if path.as_bytes().len() < PATH_MAX => {
                    ObjectImage::Directory { flags: handle.flags().bits(), position }
                }
                _ => ObjectImage::Lost,
            }
        }
        Object::Synthesized(handle) => {
            let flags = handle.flags().bits();
            match handle.fork_point() {
                Some(fork_point) => ObjectImage::ForkPoint { flags, state: fork_point.image() },
                None => {
                    ObjectImage::Again { flags, offset: handle.seek(0, libc::SEEK_CUR).map_err(failed())? }
                }
            }
        }
        // Only standard output is one, which comes first.
        Object::Stream(_) => ObjectImage::Lost,
        Object::PciBar(_) => ObjectImage::Again { flags: OFlag::O_RDWR.bits(), offset: 0 },
        Object::Epoll(epoll) => ObjectImage::Epoll(pipes::watches(epoll, open).map_err(failed())?),
    })
}

/// All open files again; none for a standard stream that is closed here.
pub(super) fn restore(
    files: &Files,
    facts: &dyn ProcessFacts,
    images: &[OpenImage],
    trees: &[TreeFiles],
    from: CheckpointId,
) -> Result<Vec<Option<Arc<OpenFile>>>, ImageError> {
    let mut ends = pipes::restore(images.iter().filter_map(|image| match &image.object {
        ObjectImage::Pipe(pipe) => Some(pipe),
        _ => None,
    }))?;
    let mut restored = Vec::new();
    for image in images {
        let path = GuestPath::from_image(&image.path)
            .or_else(|| std::str::from_utf8(&image.path).ok().map(GuestPath::label))
            .ok_or(ImageError::Invalid("a file's path"))?;
        let new = |object| Some(Arc::new(OpenFile::new(path.clone(), image.changeable, object)));
        restored.push(match &image.object {
            ObjectImage::Standard(stream) => standard(files, *stream)?,
            ObjectImage::Memory { tree, inode, flags, offset } => {
                new(Object::Memory(memory(trees, (*tree, *inode), *flags, *offset)?))
            }
            ObjectImage::Pipe(pipe) => {
                let end = ends.take(pipe).ok_or(ImageError::Invalid("a pipe has an end twice"))?;
                new(Object::Host(end))
            }
            ObjectImage::Event(event) => new(Object::Host(pipes::restore_event(event)?)),
            ObjectImage::Epoll(_) => new(Object::Epoll(pipes::new_epoll()?)),
            ObjectImage::Lost => {
                tracing::warn!(%path, "this could not come back: reading and writing it is an error now");
                new(Object::Host(dead_end()?))
            }
            ObjectImage::Host { flags, offset, identity } => {
                Some(host(files, facts, (&path, *flags), *offset, identity)?)
            }
            ObjectImage::Again { flags, offset } => Some(again(files, facts, (&path, *flags), *offset)?),
            ObjectImage::ForkPoint { flags, state } => {
                let file = files.reopen(facts, &path, OFlag::from_bits_retain(*flags) & kept())?;
                let fork_point = match file.object() {
                    Object::Synthesized(handle) => handle.fork_point(),
                    _ => None,
                };
                fork_point.ok_or(ImageError::Invalid("a file that isn't /dev/cairn"))?.restore(state, from);
                Some(file)
            }
            ObjectImage::Directory { flags, position } => {
                let file =
                    files.reopen(facts, &path, OFlag::from_bits_retain(*flags) | OFlag::O_DIRECTORY)?;
                if *position != 0 {
                    let seek = file.directory().and_then(|handle| handle.seek(*position, libc::SEEK_SET));
                    seek.map_err(ImageError::host(format!("the listing of {path}")))?;
                }
                Some(file)
            }
        });
    }
    for (image, file) in images.iter().zip(&restored) {
        if let (ObjectImage::Epoll(watches), Some(file)) = (&image.object, file) {
            pipes::watch(file, watches, &restored)?;
        }
    }
    Ok(restored)
}

fn standard(files: &Files, stream: u8) -> Result<Option<Arc<OpenFile>>, ImageError> {
    let stream = files.descriptors.standard_streams().get(usize::from(stream));
    let file = stream.ok_or(ImageError::Invalid("there are three standard streams"))?.upgrade();
    if file.is_none() {
        tracing::warn!("a standard stream that the program has is closed here, and so it is for the program");
    }
    Ok(file)
}

fn memory(
    trees: &[TreeFiles],
    (tree, inode): (u32, u64),
    flags: i32,
    offset: i64,
) -> Result<MemoryHandle, ImageError> {
    let tree = usize::try_from(tree).ok().and_then(|tree| trees.get(tree));
    let file =
        tree.and_then(|files| files.get(&inode)).ok_or(ImageError::Invalid("an open file of no tree"))?;
    let failed = || ImageError::host("a file of the program can't be opened");
    let flags = OFlag::from_bits_retain(flags) & kept();
    let handle = MemoryHandle::open_any(Arc::clone(file), flags | OFlag::O_CLOEXEC).map_err(failed())?;
    if !flags.contains(OFlag::O_PATH) {
        handle.seek(offset, Whence::SeekSet).map_err(failed())?;
    }
    Ok(handle)
}

/// A file of the host, if it still is what it was.
///
/// One that only has more bytes than it had is a warning and no error: a program that follows a log or a
/// growing file expects just that.
fn host(
    files: &Files,
    facts: &dyn ProcessFacts,
    (path, flags): (&GuestPath, i32),
    offset: i64,
    identity: &Identity,
) -> Result<Arc<OpenFile>, ImageError> {
    let file = files.reopen(facts, path, OFlag::from_bits_retain(flags) & kept())?;
    let failed = || ImageError::host(format!("{path} can't be opened again"));
    let now = Identity::from(&file.status().map_err(failed())?);
    if now.has_grown(identity) {
        tracing::warn!(%path, "the file has grown since the checkpoint");
    } else if !now.is_still(identity) {
        return Err(ImageError::Changed { path: path.clone() });
    }
    if let (Some(fd), 1..) = (file.host(), offset) {
        lseek(fd, offset, Whence::SeekSet).map_err(failed())?;
    }
    Ok(file)
}

fn again(
    files: &Files,
    facts: &dyn ProcessFacts,
    (path, flags): (&GuestPath, i32),
    offset: i64,
) -> Result<Arc<OpenFile>, ImageError> {
    let file = files.reopen(facts, path, OFlag::from_bits_retain(flags) & kept())?;
    if let Object::Synthesized(handle) = file.object() {
        handle
            .seek(offset, libc::SEEK_SET)
            .map_err(ImageError::host(format!("{path} can't be opened again")))?;
    }
    Ok(file)
}

/// What stands where something was lost: its number stays taken, and every access is `EBADF`.
fn dead_end() -> Result<std::os::fd::OwnedFd, ImageError> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    open("/dev/null", flags, Mode::empty())
        .map_err(|source: Errno| ImageError::Host { what: "/dev/null can't be opened".to_owned(), source })
}
