//! How a program ended, and what a person is told about it.

use std::fmt;

use nix::sys::signal::Signal;

/// A program that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Names of system calls that it made and that aren't there: perhaps why.
    pub refused: Vec<&'static str>,
}

/// A program's end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It exited with this status.
    Exited(u8),
    /// A signal that it sent itself, or would have got, killed it.
    Killed(Signal),
    /// It did what a CPU or a memory doesn't allow.
    Faulted(Fault),
}

/// An exception that the program caused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What Linux would have killed it with.
    pub signal: Signal,
    /// What it did.
    pub what: String,
    /// The instruction's address, and what is mapped there.
    pub instruction: (u64, String),
    /// For memory: the address, and what is mapped there.
    pub address: Option<(u64, String)>,
}

impl End {
    /// The exit status of `cairn run`: the program's, or 128 and the signal's number.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Exited(status) => *status,
            Self::Killed(signal) | Self::Faulted(Fault { signal, .. }) => {
                u8::try_from(128 + *signal as i32).unwrap_or(u8::MAX)
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the program {}", self.what)?;
        if let Some((address, mapped)) = &self.address {
            write!(f, " at address {address:#x} ({mapped})")?;
        }
        let (instruction, mapped) = &self.instruction;
        write!(f, ", by the instruction at {instruction:#x} ({mapped}); killed by {}", self.signal)
    }
}
