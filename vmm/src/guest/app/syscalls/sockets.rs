//! Sockets: there is no network, and so no descriptor that is one.

use nix::errno::Errno;

use crate::guest::app::process::Process;
use crate::guest::app::syscalls::{Answer, Arguments, int};

/// A call on a socket: programs use some of them to find out whether a descriptor is one.
pub(super) fn on_descriptor(process: &Process, &[file, ..]: &Arguments) -> Answer {
    process.files.descriptors().get(int(file))?;
    Err(Errno::ENOTSOCK)
}
