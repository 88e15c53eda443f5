//! The program as its system calls see it.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::time::ClockId;

use crate::guest::app::clock::Clock;
use crate::guest::app::facts::{Facts, StartFacts};
use crate::guest::app::files::Files;
use crate::guest::app::signals::Signals;
use crate::guest::app::space::AddressSpace;
use crate::memory::program::ProgramMemory;

/// The program's process id: not 1, because programs take that for "I am init".
pub const PID: u64 = 2;
/// Its parent's.
pub const PARENT_PID: u64 = 1;

/// The state of the program that isn't memory or registers.
#[derive(Debug)]
pub struct Process {
    /// Its memory, and what is mapped.
    pub space: AddressSpace,
    /// The files that it sees and has open.
    pub files: Files,
    /// What it was started with.
    pub start: StartFacts,
    /// Its clocks.
    pub clock: Clock,
    /// What it does with signals.
    pub signals: Signals,
    /// Bases of the FS and GS segments, which arch_prctl sets.
    pub segments: Segments,
    /// Its name (prctl PR_SET_NAME), padded with zeros.
    pub name: [u8; 16],
    /// Resource limits that it set itself, by number: soft and hard.
    pub limits: Vec<(u64, [u64; 2])>,
    /// How nice it says it is: -20 to 19.
    pub nice: i32,
    /// Names of system calls that were refused because they aren't there, each once.
    pub refused: Vec<&'static str>,
    /// The call that is being served: its number and arguments.
    pub(super) call: (u64, [u64; 6]),
    /// The call that waits, or waited when it was interrupted.
    pub(super) waiting: Option<Waiting>,
}

/// A call that ends at a certain time. It may be interrupted, and is made again then, as Linux restarts what a signal
/// without a handler interrupts: it still ends when it was to end at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    /// Its number and arguments.
    pub(super) call: (u64, [u64; 6]),
    /// When it ends by the program's CLOCK_MONOTONIC.
    pub(super) until: Duration,
}

/// How nice this process of the host is, which a program inherits: 0 where /proc doesn't tell it (field 19 of
/// proc_pid_stat(5); the name before may have spaces).
fn own_nice() -> i32 {
    let nice = |stat: &str| stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse().ok();
    std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| nice(&stat)).unwrap_or(0)
}

/// The bases of the thread-local segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    /// FS, glibc's thread pointer.
    pub fs: u64,
    /// GS.
    pub gs: u64,
}

impl Process {
    /// A program that starts with this memory, these files and these clocks.
    #[must_use]
    pub fn new(space: AddressSpace, files: Files, clock: Clock, start: StartFacts, name: &str) -> Self {
        let mut process = Self {
            space,
            files,
            start,
            clock,
            signals: Signals::default(),
            segments: Segments::default(),
            name: [0; 16],
            limits: Vec::new(),
            nice: own_nice(),
            refused: Vec::new(),
            call: (0, [0; 6]),
            waiting: None,
        };
        process.set_name(name.as_bytes());
        process
    }

    /// Gives it a name, of which 15 bytes count.
    pub(super) fn set_name(&mut self, name: &[u8]) {
        let len = name.len().min(self.name.len() - 1);
        self.name = [0; 16];
        self.name[..len].copy_from_slice(&name[..len]);
    }

    /// How long the present call still waits that waits for `span`, from when it was made first.
    ///
    /// # Errors
    /// What the host's clock says.
    pub(super) fn remaining(&mut self, span: Duration) -> Result<Duration, Errno> {
        let now = Duration::from(self.clock.now(ClockId::CLOCK_MONOTONIC)?);
        let call = self.call;
        let waiting = self.waiting.filter(|waiting| waiting.call == call);
        let until = waiting.map_or(now.saturating_add(span), |waiting| waiting.until);
        self.waiting = Some(Waiting { call, until });
        Ok(until.saturating_sub(now))
    }

    /// What /proc tells of it.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts { space: &self.space, limits: &self.limits, start: &self.start, name: &self.name }
    }

    /// Its files, to change them, and what /proc tells of it meanwhile.
    pub fn files_and_facts(&mut self) -> (&mut Files, Facts<'_>) {
        let facts = Facts { space: &self.space, limits: &self.limits, start: &self.start, name: &self.name };
        (&mut self.files, facts)
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<ProgramMemory> {
        self.space.memory()
    }
}
