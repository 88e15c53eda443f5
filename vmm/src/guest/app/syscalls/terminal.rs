//! ioctl: what programs ask of terminals and pipes. Nothing else is passed on: a device's requests, and
//! those that put input into a terminal, would reach beyond the guest.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::guest::app::files::{Object, OpenFile};
use crate::guest::app::process::{PID, Process};
use crate::guest::app::syscalls::{Answer, Arguments, int};
use crate::host::calls::{self, SetTerminal, TERMIOS_BYTES};

pub(super) fn ioctl(process: &mut Process, &[number, request, argument, ..]: &Arguments) -> Answer {
    let number = int(number);
    let file = process.files.descriptors().get(number)?;
    let memory = process.memory();
    match request {
        libc::FIOCLEX => process.files.descriptors_mut().set_close_on_exec(number, true).map(|()| 0),
        libc::FIONCLEX => process.files.descriptors_mut().set_close_on_exec(number, false).map(|()| 0),
        libc::FIONBIO => {
            let on: i32 = memory.read(argument)?;
            set_nonblocking(&file, on != 0)
        }
        libc::FIONREAD => memory.write(argument, &calls::readable(host(&file)?)?).map(|()| 0),
        libc::TCGETS => memory.write(argument, &calls::terminal(host(&file)?)?).map(|()| 0),
        libc::TCSETS => set_terminal(process, &file, SetTerminal::Now, argument),
        libc::TCSETSW => set_terminal(process, &file, SetTerminal::AfterOutput, argument),
        libc::TCSETSF => set_terminal(process, &file, SetTerminal::AfterOutputFlushInput, argument),
        libc::TIOCGWINSZ => memory.write(argument, &calls::window_size(host(&file)?)?).map(|()| 0),
        libc::TIOCGPGRP => {
            // The program is always in the foreground of its terminal, and must find itself there.
            calls::terminal(host(&file)?)?;
            memory.write(argument, &i32::try_from(PID).unwrap_or(i32::MAX)).map(|()| 0)
        }
        libc::TIOCSPGRP => {
            calls::terminal(host(&file)?)?;
            let group: i32 = memory.read(argument)?;
            // It is there already, and there is no other group.
            if u64::try_from(group) == Ok(PID) { Ok(0) } else { Err(Errno::EPERM) }
        }
        _ => Err(Errno::ENOTTY),
    }
}

fn set_terminal(process: &Process, file: &OpenFile, when: SetTerminal, from: u64) -> Answer {
    let termios: [u8; TERMIOS_BYTES] = process.memory().read(from)?;
    calls::set_terminal(host(file)?, when, &termios).map(|()| 0)
}

fn set_nonblocking(file: &OpenFile, on: bool) -> Answer {
    if let Object::Synthesized(handle) = file.object() {
        let mut flags = handle.flags();
        flags.set(OFlag::O_NONBLOCK, on);
        return handle.set_flags(flags).map(|()| 0);
    }
    let Ok(fd) = host(file) else { return Ok(0) };
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(|_| 0)
}

/// The host's descriptor of what can be a terminal or pipe.
fn host(file: &OpenFile) -> Result<std::os::fd::BorrowedFd<'_>, Errno> {
    match file.object() {
        Object::Directory(_) => Err(Errno::ENOTTY),
        _ => file.host().ok_or(Errno::ENOTTY),
    }
}
