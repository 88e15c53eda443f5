//! Where the console's output goes.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

/// The VMM's own output, byte by byte as the guest sends it. When nobody reads it any more, it's dropped and
/// the guest goes on.
#[derive(Debug, Default)]
pub(super) struct Output {
    closed: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not through the library's buffer, which would keep a prompt until the line ends.
        let stdout = io::stdout();
        loop {
            if self.closed {
                return Ok(bytes.len());
            }
            match unistd::write(&stdout, bytes) {
                Err(Errno::EPIPE) => {
                    tracing::info!("nobody reads the console any more; the guest goes on without");
                    self.closed = true;
                }
                // The signal by which vCPUs' threads interrupt each other.
                Err(Errno::EINTR) => {}
                // Somebody who shares it made it non-blocking.
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut fds, PollTimeout::NONE)?;
                }
                done => return Ok(done?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
