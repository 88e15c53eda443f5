//! The console's input: from the VMM's own standard input to the guest's serial port.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::unistd;

use crate::devices::serial::SerialConsole;

/// Bytes that are read at once.
const PIECE: usize = 1024;
/// The key that begins a command to the VMM: Ctrl-A.
const ESCAPE: u8 = 1;
/// What ends the guest after it.
const QUIT: u8 = b'x';

/// Finds commands among what is typed.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

/// Why there is no more input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InputEnd {
    /// The command to quit.
    Quit,
    /// The end of the file, an error, or the end of the machine.
    Over,
}

impl Keys {
    /// What of `typed` is for the guest, and whether the command to quit was behind that.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut rest = Vec::with_capacity(typed.len());
        for key in typed {
            match (std::mem::take(&mut self.escaped), *key) {
                (false, ESCAPE) => self.escaped = true,
                (true, QUIT) => return (rest, true),
                // Twice is once for the guest.
                (true, ESCAPE) | (false, _) => rest.push(*key),
                (true, other) => rest.extend([ESCAPE, other]),
            }
        }
        (rest, false)
    }
}

/// Hands input to the console until there is none, or `stop` is signalled. With `commands`, keys can be
/// commands.
pub(super) fn run(console: &SerialConsole, stop: &EventFd, commands: bool) -> InputEnd {
    let mut keys = Keys::default();
    let mut piece = [0; PIECE];
    loop {
        let len = match wait_and_read(stop, &mut piece) {
            Ok(0) => return InputEnd::Over,
            Ok(len) => len,
            Err(errno) => {
                tracing::info!(%errno, "the console has no more input");
                return InputEnd::Over;
            }
        };
        let (input, quit) = if commands { keys.take(&piece[..len]) } else { (piece[..len].to_vec(), false) };
        if quit {
            return InputEnd::Quit;
        }
        if !enqueue(console, &input) {
            return InputEnd::Over;
        }
    }
}

/// Reads what there is: nothing at its end, or if `stop` is signalled.
fn wait_and_read(stop: &EventFd, piece: &mut [u8]) -> Result<usize, Errno> {
    // Not through the library's buffer: what waits there, poll wouldn't tell.
    let stdin = io::stdin();
    loop {
        let mut fds = [&stdin.as_fd(), &stop.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[1].any() == Some(true) => return Ok(0),
            Ok(_) => match unistd::read(&stdin, piece) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                done => return done,
            },
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// False when the console is closed.
fn enqueue(console: &SerialConsole, mut input: &[u8]) -> bool {
    while !input.is_empty() {
        let taken = console.enqueue(input);
        input = input.get(taken..).unwrap_or_default();
        if !input.is_empty() && !console.wait_for_room() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::default();
        let mut all = Vec::new();
        for piece in pieces {
            let (rest, quit) = keys.take(piece);
            all.extend(rest);
            if quit {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn the_escape_key_is_for_the_vmm() {
        assert_eq!(typed(&[b"ls\r"]), (b"ls\r".to_vec(), false));
        assert_eq!(typed(&[b"a\x01xb"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"a\x01", b"x"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
        assert_eq!(typed(&[b"\x01", b"c"]), (b"\x01c".to_vec(), false));
        assert_eq!(typed(&[b"x\x01"]), (b"x".to_vec(), false));
    }
}
