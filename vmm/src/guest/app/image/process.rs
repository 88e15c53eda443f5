//! What the monitor knows of a program beside its memory, registers and files.

use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::guest::app::clock::Clock;
use crate::guest::app::facts::StartFacts;
use crate::guest::app::files::Files;
use crate::guest::app::image::{FrozenClock, FrozenSpace};
use crate::guest::app::process::{Process, Segments, Waiting};
use crate::guest::app::signals::Signals;
use crate::guest::app::space::{AddressSpace, UnfreezableError};

/// Most limits that a process can have set: Linux has 16.
const MAX_LIMITS: usize = 64;

/// The state of a process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenProcess {
    /// What is mapped.
    pub space: FrozenSpace,
    /// What it was started with.
    pub start: FrozenStart,
    /// Its clocks.
    pub clock: FrozenClock,
    /// What it does with signals.
    pub signals: FrozenSignals,
    /// Its name, padded with zeros.
    pub name: [u8; 16],
    /// Resource limits that it set itself.
    pub limits: Vec<(u64, [u64; 2])>,
    /// How nice it says it is.
    pub nice: i32,
    /// The call that it waits in.
    pub waiting: Option<FrozenWaiting>,
}

/// What it was started with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenStart {
    /// Its path in the guest.
    pub executable: Vec<u8>,
    /// Its arguments, each ended by a zero.
    pub arguments: Vec<u8>,
    /// Its environment, each ended by a zero.
    pub environment: Vec<u8>,
    /// The kernel release that it was told.
    pub release: String,
    /// The boot id that it was told.
    pub boot_id: String,
    /// For how long it has run, nanoseconds.
    pub up: u64,
}

/// Signals.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenSignals {
    /// Handler, flags, restorer and mask of each signal that hasn't the default, by its number.
    pub actions: Vec<(u64, [u64; 4])>,
    /// The blocked ones.
    pub blocked: u64,
    /// Those that wait.
    pub pending: u64,
    /// Base, size and flags of the alternative stack.
    pub alt_stack: (u64, u64, u32),
}

/// A call that was to end at a certain time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenWaiting {
    /// Its number and arguments.
    pub call: (u64, [u64; 6]),
    /// When it ends by CLOCK_MONOTONIC, nanoseconds.
    pub until: u64,
}

/// Why a process can't be part of a checkpoint now.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// Something that it has mapped.
    #[error(transparent)]
    Mapping(#[from] UnfreezableError),
    /// The host's clocks can't be read.
    #[error("the host's clocks can't be read")]
    Clock(#[from] Errno),
}

impl Process {
    /// As values, on the vCPU's thread. The files are another matter.
    ///
    /// # Errors
    /// [`FreezeError`].
    pub fn freeze(&mut self) -> Result<FrozenProcess, FreezeError> {
        let waiting = self.waiting.map(|Waiting { call, until }| FrozenWaiting {
            call,
            until: u64::try_from(until.as_nanos()).unwrap_or(u64::MAX),
        });
        Ok(FrozenProcess {
            space: self.space.freeze()?,
            start: self.start.freeze(),
            clock: self.clock.freeze()?,
            signals: self.signals.freeze(),
            name: self.name,
            limits: self.limits.clone(),
            nice: self.nice,
            waiting,
        })
    }

    /// From values, with a memory, files and clocks that were brought back already.
    #[must_use]
    pub fn thaw(
        space: AddressSpace,
        files: Files,
        clock: Clock,
        segments: Segments,
        frozen: &FrozenProcess,
    ) -> Self {
        let mut process = Self::new(space, files, clock, StartFacts::thaw(&frozen.start), "");
        process.segments = segments;
        process.name = frozen.name;
        process.name[15] = 0;
        process.signals = Signals::thaw(&frozen.signals);
        process.limits = frozen.limits.iter().take(MAX_LIMITS).copied().collect();
        process.nice = frozen.nice.clamp(-20, 19);
        let until = Duration::from_nanos;
        process.waiting =
            frozen.waiting.map(|waiting| Waiting { call: waiting.call, until: until(waiting.until) });
        if let Some((_, [soft, _])) =
            process.limits.iter().find(|(number, _)| *number == u64::from(libc::RLIMIT_NOFILE))
        {
            let soft = *soft;
            process.files.descriptors_mut().set_limit(soft);
        }
        process
    }
}
