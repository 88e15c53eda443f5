//! A command on a terminal of its own, and whoever types to it and reads what comes.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::openpty;
use nix::sys::signal::{self, Signal};
use nix::sys::termios::{self, Termios};
use nix::unistd::Pid;

/// Ctrl-C.
pub(super) const KEY_INTERRUPT: &str = "\x03";
/// Ctrl-A x.
pub(super) const KEYS_QUIT: &str = "\x01x";
/// What takes longer to come hangs: an emulated machine boots in half a minute.
const LIMIT: Duration = Duration::from_secs(100);
/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// The command while it runs. Dropping it ends it.
pub(super) struct Session {
    child: Child,
    /// The terminal's other end.
    terminal: File,
    before: Termios,
    output: Receiver<Vec<u8>>,
    /// What came and wasn't expected yet.
    seen: Vec<u8>,
    log: File,
}

impl Session {
    /// Starts the command. All that it writes is kept in `log` as well.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let pair = openpty(None, None).context("a terminal")?;
        let terminal = File::from(pair.master);
        // Of the other end: Linux answers so for both.
        let before = termios::tcgetattr(&terminal).context("the terminal's settings")?;
        command.stdin(pair.slave.try_clone()?).stdout(pair.slave.try_clone()?).stderr(pair.slave);
        let child = command.spawn().context("starting cairn")?;
        // The command has the only ends that are left, so that the last output is followed by an end.
        drop(command);
        let mut reader = terminal.try_clone()?;
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; CHUNK];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, terminal, before, output, seen: Vec::new(), log })
    }

    /// Waits until `text` comes, and forgets it with all that came before.
    ///
    /// # Errors
    /// It doesn't come.
    pub(super) fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|part| part == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            ensure!(self.receive(deadline)?, "it ended before it wrote {text:?}");
        }
    }

    /// Types keys.
    ///
    /// # Errors
    /// The terminal takes none.
    pub(super) fn press(&mut self, keys: &str) -> Result<()> {
        self.terminal.write_all(keys.as_bytes()).context("typing")
    }

    /// Types a line and waits for an answer.
    ///
    /// # Errors
    /// None comes.
    pub(super) fn ask(&mut self, line: &str, answer: &str) -> Result<()> {
        self.press(&format!("{line}\r"))?;
        self.expect(answer).with_context(|| format!("after {line:?}"))
    }

    /// Sends the command a signal.
    ///
    /// # Errors
    /// It isn't there any more.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        signal::kill(pid, signal).context("sending a signal")
    }

    /// Waits for the command's end.
    ///
    /// # Errors
    /// It doesn't end, or with another exit status than `status`, or leaves the terminal other than it was.
    pub(super) fn end(mut self, status: i32) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.receive(deadline)? {}
        let ended = self.child.wait().context("waiting for cairn")?;
        ensure!(ended.code() == Some(status), "cairn ended with {ended}, and not with exit status {status}");
        let after = termios::tcgetattr(&self.terminal).context("the terminal's settings")?;
        ensure!(after == self.before, "cairn left the terminal other than it was");
        Ok(())
    }

    /// Waits for more output; false at its end.
    fn receive(&mut self, deadline: Instant) -> Result<bool> {
        match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => {
                self.log.write_all(&chunk).context("writing the log")?;
                self.seen.extend(chunk);
                Ok(true)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(RecvTimeoutError::Timeout) => bail!("nothing happened within {} s", LIMIT.as_secs()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
