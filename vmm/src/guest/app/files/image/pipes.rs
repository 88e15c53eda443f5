//! Pipes, event counters and epoll instances of an image.

use std::{
    collections::HashMap,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
        eventfd::{EfdFlags, EventFd},
        stat::fstat,
    },
    unistd::{pipe2, read},
};
use serde::{Deserialize, Serialize};

use super::ImageError;
use crate::guest::app::files::{OpenFile, backend::Answer, open::Object};
use crate::host::calls::readable;

/// What `/proc/self/fd` shows for an event counter.
pub(super) const EVENT_LABEL: &str = "anon_inode:[eventfd]";

/// How the label of a pipe begins that the program made itself.
const PIPE_LABEL: &[u8] = b"pipe:[";

/// Most bytes in a pipe that an image may have; the host's limit for users (/proc/sys/fs/pipe-max-size).
const PIPE_BYTES: usize = 1 << 20;

/// Longest `/proc/self/fdinfo` file that is read: an epoll instance has a line for each descriptor.
const FACTS_BYTES: u64 = 1 << 20;

/// An end of a pipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PipeImage {
    /// The same for both ends.
    pipe: u64,
    writes: bool,
    flags: i32,
    capacity: i32,
    /// What was written and not read, at the reading end.
    content: Vec<u8>,
}

/// An event counter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EventImage {
    count: u64,
    semaphore: bool,
    flags: i32,
}

/// What an epoll instance waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Index of the open file.
    file: u32,
    events: u32,
    data: u64,
}

/// The pipes among the open files.
pub(super) struct Pipes {
    ends: HashMap<*const OpenFile, PipeImage>,
}

impl Pipes {
    pub(super) fn find(open: &[Arc<OpenFile>]) -> Result<Self, ImageError> {
        let mut ends = HashMap::new();
        for file in open {
            let Object::Host(fd) = file.object() else { continue };
            if !file.path().as_bytes().starts_with(PIPE_LABEL) {
                continue;
            }
            let end = end(fd).map_err(ImageError::host("a pipe can't be put into a checkpoint"))?;
            if let Some(end) = end {
                ends.insert(Arc::as_ptr(file), end);
            }
        }
        Ok(Self { ends })
    }

    pub(super) fn end(&self, file: &Arc<OpenFile>) -> Option<PipeImage> {
        self.ends.get(&Arc::as_ptr(file)).cloned()
    }
}

/// None for what is no pipe.
fn end(fd: &OwnedFd) -> Answer<Option<PipeImage>> {
    let stat = fstat(fd)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFIFO {
        return Ok(None);
    }
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let capacity = fcntl(fd, FcntlArg::F_GETPIPE_SZ)?;
    let writes = flags & OFlag::O_ACCMODE == OFlag::O_WRONLY;
    let content = if writes { Vec::new() } else { content(fd, capacity)? };
    Ok(Some(PipeImage { pipe: stat.st_ino, writes, flags: flags.bits(), capacity, content }))
}

/// What is in a pipe, which stays there.
fn content(pipe: &OwnedFd, capacity: i32) -> Answer<Vec<u8>> {
    let count = usize::try_from(readable(pipe)?).unwrap_or(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(capacity))?;
    let copied = tee(pipe, &writer, count, SpliceFFlags::SPLICE_F_NONBLOCK)?;
    let mut bytes = vec![0; copied];
    let mut done = 0;
    while done < copied {
        match read(&reader, &mut bytes[done..])? {
            0 => return Err(Errno::EIO),
            count => done += count,
        }
    }
    if copied < count { Err(Errno::EIO) } else { Ok(bytes) }
}

/// The ends of new pipes that wait for their descriptors.
pub(super) struct Ends {
    ends: HashMap<(u64, bool), OwnedFd>,
}

impl Ends {
    pub(super) fn take(&mut self, pipe: &PipeImage) -> Option<OwnedFd> {
        self.ends.remove(&(pipe.pipe, pipe.writes))
    }
}

/// Makes the pipes again, with what was in them. An end that no descriptor has is closed, as it was.
pub(super) fn restore<'a>(images: impl Iterator<Item = &'a PipeImage>) -> Result<Ends, ImageError> {
    let mut pipes: HashMap<u64, Vec<&PipeImage>> = HashMap::new();
    for image in images {
        pipes.entry(image.pipe).or_default().push(image);
    }
    let mut ends = HashMap::new();
    for (pipe, images) in pipes {
        let made = make(&images).map_err(ImageError::host("a pipe of the program can't be made again"))?;
        let (reader, writer) = made.ok_or(ImageError::Invalid("a pipe has too much in it"))?;
        let mut fds = [Some(reader), Some(writer)];
        for image in images {
            if let Some(fd) = fds[usize::from(image.writes)].take() {
                ends.insert((pipe, image.writes), fd);
            }
        }
    }
    Ok(Ends { ends })
}

fn make(images: &[&PipeImage]) -> Answer<Option<(OwnedFd, OwnedFd)>> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    for image in images {
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(image.capacity))?;
        if PIPE_BYTES < image.content.len()
            || !image.content.is_empty() && nix::unistd::write(&writer, &image.content)? < image.content.len()
        {
            return Ok(None);
        }
    }
    let mut flags = [OFlag::empty(); 2];
    for image in images {
        flags[usize::from(image.writes)] = OFlag::from_bits_retain(image.flags);
    }
    for (fd, flags) in [&reader, &writer].into_iter().zip(flags) {
        let changeable = OFlag::O_NONBLOCK | OFlag::O_DIRECT;
        fcntl(fd, FcntlArg::F_SETFL(flags & changeable))?;
    }
    Ok(Some((reader, writer)))
}

/// An event counter and what it stands at.
pub(super) fn event(fd: &OwnedFd, flags: OFlag) -> Answer<EventImage> {
    let facts = facts(fd)?;
    let field = |name: &str| {
        let value = facts.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim().to_owned())
    };
    let count = field("eventfd-count:").and_then(|text| u64::from_str_radix(&text, 16).ok());
    // Kernels before 6.5 don't tell, and few programs ask for it.
    let semaphore = field("eventfd-semaphore:").is_some_and(|text| text == "1");
    Ok(EventImage { count: count.ok_or(Errno::EIO)?, semaphore, flags: flags.bits() })
}

pub(super) fn restore_event(image: &EventImage) -> Result<OwnedFd, ImageError> {
    let failed = || ImageError::host("an event counter can't be made again");
    let mut flags = EfdFlags::EFD_CLOEXEC;
    flags.set(EfdFlags::EFD_NONBLOCK, OFlag::from_bits_retain(image.flags).contains(OFlag::O_NONBLOCK));
    flags.set(EfdFlags::EFD_SEMAPHORE, image.semaphore);
    let event = EventFd::from_value_and_flags(0, flags).map_err(failed())?;
    if image.count != 0 {
        event.write(image.count.min(u64::MAX - 1)).map_err(failed())?;
    }
    Ok(event.into())
}

/// What an epoll instance waits for, of what the program still has open.
pub(super) fn watches(epoll: &Epoll, open: &[Arc<OpenFile>]) -> Answer<Vec<Watch>> {
    let facts = facts(&epoll.0)?;
    let mut watches = Vec::new();
    for line in facts.lines().filter(|line| line.starts_with("tfd:")) {
        // tfd: 5 events: 19 data: ffff00000005 pos:0 ino:1 sdev:2
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, number, _, events, _, data, ..] = &words[..] else { return Err(Errno::EIO) };
        let number: i32 = number.parse().map_err(|_| Errno::EIO)?;
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).map_err(|_| Errno::EIO);
        let is_it = |file: &Arc<OpenFile>| file.pollable().is_some_and(|fd| fd.as_raw_fd() == number);
        let Some(index) = open.iter().position(is_it) else { continue };
        watches.push(Watch {
            file: u32::try_from(index).map_err(|_| Errno::EIO)?,
            events: u32::try_from(hexadecimal(events)?).map_err(|_| Errno::EIO)?,
            data: hexadecimal(data)?,
        });
    }
    Ok(watches)
}

pub(super) fn new_epoll() -> Result<Epoll, ImageError> {
    let flags = EpollCreateFlags::EPOLL_CLOEXEC;
    Epoll::new(flags).map_err(ImageError::host("an epoll instance can't be made again"))
}

/// Lets an epoll instance wait for what it waited for.
pub(super) fn watch(
    epoll: &OpenFile,
    watches: &[Watch],
    files: &[Option<Arc<OpenFile>>],
) -> Result<(), ImageError> {
    let Object::Epoll(epoll) = epoll.object() else { return Ok(()) };
    for watch in watches {
        let file = usize::try_from(watch.file).ok().and_then(|index| files.get(index));
        let file = file.ok_or(ImageError::Invalid("an epoll instance waits for no file"))?;
        let Some(fd) = file.as_ref().and_then(|file| file.pollable()) else { continue };
        let event = EpollEvent::new(EpollFlags::from_bits_retain(watch.events.cast_signed()), watch.data);
        epoll.add(fd, event).map_err(ImageError::host("an epoll instance can't be made again"))?;
    }
    Ok(())
}

/// What the host's kernel tells of one of the monitor's descriptors.
fn facts(fd: &impl AsFd) -> Answer<String> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FACTS_BYTES).read_to_string(&mut text));
    read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(text)
}
