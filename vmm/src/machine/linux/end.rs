//! How a Linux guest ended.

use nix::sys::signal::Signal;

use crate::devices::calling_cpu::PauseFigures;
use crate::machine::linux::report::Report;

/// A guest that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinuxEnded {
    /// Why.
    pub end: LinuxEnd,
    /// What its init said of the program that it ran.
    pub report: Option<Report>,
    /// How often and how long its vCPUs were held for one of them.
    pub pauses: PauseFigures,
}

/// Why a guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinuxEnd {
    /// It switched itself off.
    Off,
    /// It wanted to start again: a reboot, a panic, or a triple fault.
    Reset,
    /// The user ended it by the keys for that.
    Quit,
    /// A signal to the VMM.
    Signal(Signal),
}
