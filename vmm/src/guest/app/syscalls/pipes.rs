//! Pipes and event counters.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::fstat;

use crate::guest::app::files::OpenFile;
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::{Answer, Arguments, int, low};

pub(super) fn pipe(process: &mut Process, &[to, ..]: &Arguments) -> Answer {
    pipe2(process, &[to, 0, 0, 0, 0, 0])
}

pub(super) fn pipe2(process: &mut Process, &[to, flags, ..]: &Arguments) -> Answer {
    let flags = OFlag::from_bits_retain(int(flags));
    if !(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let close_on_exec = flags.contains(OFlag::O_CLOEXEC);
    let (reader, writer) = nix::unistd::pipe2(flags | OFlag::O_CLOEXEC)?;
    let label = format!("pipe:[{}]", fstat(&reader)?.st_ino);
    let mut ends = Vec::new();
    let told = [reader, writer].into_iter().try_for_each(|end| {
        ends.push(insert(process, end, &label, close_on_exec)?);
        Ok(())
    });
    let told = told.and_then(|()| process.memory().write(to, &[ends[0], ends[1]]));
    if told.is_err() {
        for number in ends {
            process.files.descriptors_mut().close(number)?;
        }
    }
    told.map(|()| 0)
}

pub(super) fn eventfd(process: &mut Process, &[value, ..]: &Arguments) -> Answer {
    eventfd2(process, &[value, 0, 0, 0, 0, 0])
}

pub(super) fn eventfd2(process: &mut Process, &[value, flags, ..]: &Arguments) -> Answer {
    let flags = EfdFlags::from_bits(int(flags)).ok_or(Errno::EINVAL)?;
    let event = EventFd::from_value_and_flags(low(value), flags | EfdFlags::EFD_CLOEXEC)?;
    let close_on_exec = flags.contains(EfdFlags::EFD_CLOEXEC);
    let number = insert(process, event.into(), "anon_inode:[eventfd]", close_on_exec)?;
    u64::try_from(number).map_err(|_| Errno::EMFILE)
}

fn insert(process: &mut Process, fd: OwnedFd, label: &str, close_on_exec: bool) -> Result<i32, Errno> {
    process.files.descriptors_mut().insert(Arc::new(OpenFile::unnamed(fd, label)), close_on_exec)
}
