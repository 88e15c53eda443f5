//! A program's state as plain values: what a checkpoint of the whole program keeps beside its memory, and how a
//! program is made of it again.
//!
//! Each `Frozen` type is a claim when it comes back: whoever thaws it checks it as if the program had asked for it
//! by a system call. The memory's bytes are not here; they are pages of the checkpoint's object.

mod clock;
mod cpu;
mod features;
mod process;
mod space;

pub use clock::FrozenClock;
pub use cpu::FrozenCpu;
pub use features::{Features, FeaturesError};
pub use process::{FreezeError, FrozenProcess, FrozenSignals, FrozenStart, FrozenWaiting};
pub use space::{FrozenContent, FrozenMapping, FrozenSpace};

/// The version of these values, of the stubs and of the clock page, which a program may be inside of or have
/// remembered. Another version's checkpoints are refused.
pub const VERSION: u32 = 4;

/// Why a state can't be brought back.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    /// It's none that this program could have been in.
    #[error("the checkpoint's {0} is none that a program can have")]
    Impossible(&'static str),
    /// The address space can't be made.
    #[error("the program's memory at {start:#x} can't be made")]
    Space {
        /// Where.
        start: u64,
        /// Why.
        #[source]
        source: crate::guest::app::mapping::SpaceError,
    },
    /// This CPU, or this KVM, isn't able to go on.
    #[error(transparent)]
    Features(#[from] FeaturesError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] crate::kvm::system::KvmError),
    /// The host's clocks can't be read.
    #[error("the host's clocks can't be read")]
    Clock(#[source] nix::errno::Errno),
}
