//! What reaches a Linux guest from outside while it runs: the terminal, and signals to the VMM.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::devices::serial::SerialConsole;
use crate::machine::linux::end::LinuxEnd;
use crate::machine::linux::input::{self, InputEnd};
use crate::machine::linux::terminal::RawTerminal;
use crate::machine::linux::world::World;
use crate::tell;

/// The signals that end a guest.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Holds the signals that end a guest back, on the calling thread and those that it starts, until they're
/// looked for. Dropping it lets them through again.
#[derive(Debug)]
pub(super) struct HeldSignals {
    before: SigSet,
}

/// The way in from outside.
#[derive(Debug)]
pub(super) struct Outside {
    /// Signalled when the machine has ended.
    stop: Arc<EventFd>,
    signals: Option<JoinHandle<()>>,
    console: Arc<SerialConsole>,
    /// Restored when this is dropped.
    _terminal: Option<RawTerminal>,
}

/// Ends the machine from outside. The first reason stands.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    reason: Arc<OnceLock<LinuxEnd>>,
    world: Arc<World>,
}

impl Ending {
    pub(super) fn new(world: &Arc<World>) -> Self {
        Self { reason: Arc::default(), world: Arc::clone(world) }
    }

    /// Why the machine was ended, if somebody did.
    pub(super) fn reason(&self) -> Option<LinuxEnd> {
        self.reason.get().copied()
    }

    fn end(&self, reason: LinuxEnd) {
        let _ = self.reason.set(reason);
        self.world.stop();
    }
}

impl HeldSignals {
    pub(super) fn hold() -> Result<Self, Errno> {
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ending()), Some(&mut before))?;
        Ok(Self { before })
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        if let Err(errno) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None) {
            tracing::warn!(%errno, "signals stay held back");
        }
    }
}

impl Outside {
    /// Makes the terminal raw, and starts to hand input to `console` and to look for signals.
    pub(super) fn open(
        _held: &HeldSignals,
        ending: &Ending,
        console: &Arc<SerialConsole>,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let signals = SignalFd::with_flags(&self::ending(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let terminal = RawTerminal::enter()?;
        if terminal.is_some() {
            tell!("cairn: Ctrl-A x ends the guest; Ctrl-A twice is Ctrl-A for the guest");
        }
        let (of_signals, ends) = (Arc::clone(&stop), ending.clone());
        let signals = thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || watch(&signals, &of_signals, &ends))?;
        let outside = Self {
            stop: Arc::clone(&stop),
            signals: Some(signals),
            console: Arc::clone(console),
            _terminal: terminal,
        };
        let (commands, console, ends) = (outside._terminal.is_some(), Arc::clone(console), ending.clone());
        // Nobody waits for this thread's end: it may be in a read that only a key ends.
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            if input::run(&console, &stop, commands) == InputEnd::Quit {
                ends.end(LinuxEnd::Quit);
            }
        })?;
        Ok(outside)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.console.close();
        if let Err(errno) = self.stop.write(1) {
            tracing::warn!(%errno, "the console's threads could not be told to end");
            return;
        }
        if let Some(signals) = self.signals.take() {
            // A thread that panicked has told so.
            let _ = signals.join();
        }
    }
}

/// Waits for a signal or for `stop`.
fn watch(signals: &SignalFd, stop: &EventFd, ending: &Ending) {
    loop {
        let mut fds = [signals.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[1].any() == Some(true) => return,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => {
                tracing::warn!(%errno, "signals can't be waited for");
                return;
            }
        }
        let signal = signals.read_signal().ok().flatten();
        let signal = signal.and_then(|info| i32::try_from(info.ssi_signo).ok());
        if let Some(signal) = signal.and_then(|number| Signal::try_from(number).ok()) {
            ending.end(LinuxEnd::Signal(signal));
        }
    }
}

fn ending() -> SigSet {
    ENDING.into_iter().collect()
}
