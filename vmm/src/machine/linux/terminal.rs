//! The terminal that a guest's console is on: raw while the guest runs, and as it was afterwards.

use std::io::{self, IsTerminal, Stdin};

use nix::sys::termios::{self, OutputFlags, SetArg, Termios};

/// A raw terminal. Dropping it makes it what it was.
#[derive(Debug)]
pub(super) struct RawTerminal {
    stdin: Stdin,
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input raw, if it's a terminal: keys reach the guest as they are pressed, and those that
    /// send signals too. Output is still processed, because the VMM's own messages go there.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        raw.output_flags.set(OutputFlags::OPOST, before.output_flags.contains(OutputFlags::OPOST));
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { stdin, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(errno) = termios::tcsetattr(&self.stdin, SetArg::TCSANOW, &self.before) {
            tracing::warn!(%errno, "the terminal stays raw: `stty sane` repairs it");
        }
    }
}
