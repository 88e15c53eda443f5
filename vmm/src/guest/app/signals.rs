//! What the program wants done with signals. They are not delivered to handlers yet: a signal whose
//! handler would run is refused to its sender, and the others do what they do by default.

use crate::guest::app::image::FrozenSignals;
use nix::sys::signal::Signal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of the last signal.
pub const LAST: u64 = 64;
/// Entries of a table by signal number, 0 unused.
const ENTRIES: usize = 65;
const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;

/// The kernel's `struct sigaction` on x86-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Action {
    /// The handler's address, or 0 for the default, or 1 to ignore.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Signals that are blocked while it runs.
    pub mask: u64,
}

/// `stack_t` on x86-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AltStack {
    /// Its lowest address.
    pub base: u64,
    /// SS_*.
    pub flags: u32,
    /// Fills up.
    pub padding: u32,
    /// Bytes.
    pub size: u64,
}

/// Dispositions, the mask, and what is pending.
#[derive(Debug)]
pub struct Signals {
    actions: [Action; ENTRIES],
    /// The blocked signals: bit n - 1 is signal n.
    pub blocked: u64,
    /// Signals that were sent while they were blocked.
    pub pending: u64,
    /// The alternative stack.
    pub alt_stack: AltStack,
}

/// What happens when a signal is sent to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    Ignored,
    /// It waits until it's no longer blocked.
    Pending,
    /// The program ends.
    Kills(Signal),
    /// A handler should run, which isn't supported yet.
    Handler,
}

impl Default for Signals {
    fn default() -> Self {
        let alt_stack = AltStack { base: 0, flags: libc::SS_DISABLE.cast_unsigned(), padding: 0, size: 0 };
        Self { actions: [Action::default(); ENTRIES], blocked: 0, pending: 0, alt_stack }
    }
}

impl Signals {
    /// What a program has that replaces this one: its handlers are gone with its memory, and what it ignored or blocked
    /// stays (signal(7)).
    pub fn begin_program(&mut self) {
        for action in &mut self.actions {
            if action.handler != IGNORE {
                *action = Action::default();
            }
        }
        self.alt_stack = Self::default().alt_stack;
    }

    /// As values.
    #[must_use]
    pub fn freeze(&self) -> FrozenSignals {
        let set = (0..).zip(&self.actions).filter(|(_, action)| **action != Action::default());
        let words = |action: &Action| [action.handler, action.flags, action.restorer, action.mask];
        FrozenSignals {
            actions: set.map(|(number, action)| (number, words(action))).collect(),
            blocked: self.blocked,
            pending: self.pending,
            alt_stack: (self.alt_stack.base, self.alt_stack.size, self.alt_stack.flags),
        }
    }

    /// From values; what no program can set stays as it is.
    #[must_use]
    pub fn thaw(frozen: &FrozenSignals) -> Self {
        let mut signals = Self { blocked: frozen.blocked, pending: frozen.pending, ..Self::default() };
        for (number, [handler, flags, restorer, mask]) in &frozen.actions {
            let action = Action { handler: *handler, flags: *flags, restorer: *restorer, mask: *mask };
            signals.set_action(*number, action);
        }
        let (base, size, flags) = frozen.alt_stack;
        signals.alt_stack = AltStack { base, flags, padding: 0, size };
        signals
    }

    /// The disposition of signal `number`, if there is such a signal.
    #[must_use]
    pub fn action(&self, number: u64) -> Option<Action> {
        if number == 0 { None } else { self.actions.get(usize::try_from(number).ok()?).copied() }
    }

    /// Sets the disposition of signal `number`; false if that can't be done (SIGKILL, SIGSTOP).
    pub fn set_action(&mut self, number: u64, action: Action) -> bool {
        let fixed = [libc::SIGKILL, libc::SIGSTOP].map(i32::cast_unsigned).map(u64::from);
        match usize::try_from(number).ok().and_then(|index| self.actions.get_mut(index)) {
            Some(slot) if number != 0 && !fixed.contains(&number) => {
                *slot = action;
                true
            }
            _ => false,
        }
    }

    /// What sending signal `number` does now; a blocked one becomes pending.
    pub fn send(&mut self, number: u64) -> Effect {
        let effect = self.effect(number);
        let unblockable = number == libc::SIGKILL as u64;
        if effect != Effect::Ignored && !unblockable && self.blocked & (1 << (number - 1)) != 0 {
            self.pending |= 1 << (number - 1);
            return Effect::Pending;
        }
        effect
    }

    /// The lowest pending signal that is no longer blocked, taken off the list.
    pub fn take_unblocked(&mut self) -> Option<u64> {
        self.take_pending(!self.blocked)
    }

    /// The lowest pending signal of `set`, taken off the list.
    pub fn take_pending(&mut self, set: u64) -> Option<u64> {
        let ready = self.pending & set;
        if ready == 0 {
            return None;
        }
        self.pending &= !(ready & ready.wrapping_neg());
        Some(u64::from(ready.trailing_zeros()) + 1)
    }

    /// What a signal that isn't blocked does.
    #[must_use]
    pub fn effect(&self, number: u64) -> Effect {
        match self.action(number).unwrap_or_default().handler {
            IGNORE => Effect::Ignored,
            DEFAULT => default_effect(number),
            _ => Effect::Handler,
        }
    }
}

/// signal(7), "Default action". Stopping isn't something that a program without a parent can do.
fn default_effect(number: u64) -> Effect {
    match i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok()) {
        // Real-time signals have no name; they end a program like SIGTERM.
        None => Effect::Kills(Signal::SIGTERM),
        Some(
            Signal::SIGCHLD
            | Signal::SIGURG
            | Signal::SIGWINCH
            | Signal::SIGCONT
            | Signal::SIGSTOP
            | Signal::SIGTSTP
            | Signal::SIGTTIN
            | Signal::SIGTTOU,
        ) => Effect::Ignored,
        Some(signal) => Effect::Kills(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler() -> Action {
        Action { handler: 0x40_0000, ..Action::default() }
    }

    #[test]
    fn defaults_are_linuxs() {
        let mut signals = Signals::default();
        assert_eq!(signals.send(libc::SIGTERM as u64), Effect::Kills(Signal::SIGTERM));
        assert_eq!(signals.send(libc::SIGCHLD as u64), Effect::Ignored);
        assert!(signals.set_action(libc::SIGTERM as u64, handler()));
        assert_eq!(signals.send(libc::SIGTERM as u64), Effect::Handler);
        assert!(!signals.set_action(libc::SIGKILL as u64, handler()));
        assert!(!signals.set_action(0, handler()) && !signals.set_action(65, handler()));
    }

    #[test]
    fn a_blocked_signal_waits() {
        let mut signals = Signals { blocked: 1 << (libc::SIGINT - 1), ..Signals::default() };
        assert_eq!(signals.send(libc::SIGINT as u64), Effect::Pending);
        assert_eq!(signals.take_unblocked(), None);
        assert_eq!(signals.take_pending(1 << (libc::SIGTERM - 1)), None);
        signals.blocked = 0;
        assert_eq!(signals.take_unblocked(), Some(libc::SIGINT as u64));
        assert_eq!(signals.take_unblocked(), None);
    }
}
