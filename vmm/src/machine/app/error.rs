//! Why a guest could not be run, or not to its end.

use std::io;
use std::path::PathBuf;

use crate::devices::bus::BusError;
use crate::guest::app::elf::LoadError;
use crate::guest::app::files::{GuestPath, ImageError, LayoutError, PublishError};
use crate::guest::app::image::ThawError;
use crate::guest::app::mapping::SpaceError;
use crate::guest::app::stack::MAX_ARGUMENTS;
use crate::kvm::system::KvmError;
use crate::machine::app::LEAST_MEMORY;
use crate::machine::bare::BareError;
use crate::machine::helpers::HelperError;
use crate::machine::sandbox::SandboxError;
use crate::machine::storing::StoringError;
use crate::machine::unit::UnitStateError;
use crate::machine::whole::{SavedError, StdoutError, Untrusted};
use crate::virtio::pci::FunctionError;

/// Why a guest could not be run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No usable KVM.
    #[error("no guest can run on this host")]
    Kvm(#[from] KvmError),
    /// The program isn't there or can't be opened.
    #[error("{program} can't be run")]
    Open {
        /// Its path.
        program: String,
        /// How opening ended.
        #[source]
        source: io::Error,
    },
    /// The program asks for an interpreter that isn't there.
    #[error(
        "{program} needs the dynamic linker {interpreter}, which this host doesn't have: install its C library, \
         or link the program statically"
    )]
    Interpreter {
        /// The program.
        program: String,
        /// The interpreter's path.
        interpreter: String,
        /// How opening it ended.
        #[source]
        source: io::Error,
    },
    /// The interpreter of a script isn't there.
    #[error("{} names {} in its first line, which is not there", script.display(), interpreter.display())]
    NoInterpreter {
        /// The script.
        script: PathBuf,
        /// The interpreter's path.
        interpreter: PathBuf,
    },
    /// The interpreter of a script can't open it.
    #[error(
        "{} is a script, and the program doesn't see {directory}: add --dir {directory}, or name the program itself",
        script.display(), directory = directory.display()
    )]
    HiddenScript {
        /// The script on the host.
        script: PathBuf,
        /// The directory that it is in.
        directory: PathBuf,
    },
    /// The program can't be loaded.
    #[error("the program can't be run")]
    Load(#[from] LoadError),
    /// The guest's memory is too small to start.
    #[error(
        "the guest's memory ({memory} bytes) is too small to start the program: give it more with --memory"
    )]
    Memory {
        /// What it has.
        memory: u64,
        /// What failed.
        #[source]
        source: SpaceError,
    },
    /// Less memory than any guest takes.
    #[error("a guest needs at least {} MiB of memory, and {memory} bytes are less", LEAST_MEMORY >> 20)]
    LessThanLeast {
        /// What was asked for.
        memory: u64,
    },
    /// Arguments and environment are too long.
    #[error("arguments and environment have {bytes} bytes, at most {MAX_ARGUMENTS} are possible")]
    Arguments {
        /// How many.
        bytes: usize,
    },
    /// The monitor itself failed, not the host.
    #[error("cairn can't go on with the program: {0}")]
    Broken(&'static str),
    /// The host refused memory or a thread.
    #[error("the host refused {what}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// No threads to help with checkpoints.
    #[error(transparent)]
    Helpers(#[from] HelperError),
    /// There is no store.
    #[error("the guest was not started")]
    Store(#[from] StoringError),
    /// The guest's threads can't be confined.
    #[error("the guest was not started")]
    Sandbox(#[from] SandboxError),
    /// KVM can't run the guest any further.
    #[error("KVM can't go on with the program at instruction {instruction:#x}: {failure}")]
    Stuck {
        /// Where.
        instruction: u64,
        /// Why.
        failure: crate::kvm::vcpu::Failure,
    },
    /// The program can't be given the files that it should see.
    #[error("the program's files can't be set up")]
    Files(#[from] LayoutError),
    /// The program can't start where it should.
    #[error("the program can't start in {directory}")]
    Directory {
        /// The directory in the guest.
        directory: GuestPath,
        /// Why.
        #[source]
        source: nix::errno::Errno,
    },
    /// A checkpoint can't be read.
    #[error("the program can't be brought back")]
    Saved(#[from] SavedError),
    /// The checkpoint isn't the user's, and asks for what the user hasn't agreed to.
    #[error(transparent)]
    Untrusted(Box<Untrusted>),
    /// There is no place for the record of changes that are being applied.
    #[error(
        "there is no place for a record of changes to directories while they are applied: HOME or XDG_STATE_HOME \
         must name one"
    )]
    NoRecords,
    /// A checkpoint can't be gone on with here.
    #[error("the program can't go on here")]
    Thaw(#[from] ThawError),
    /// The program's own checkpoint session can't be brought back.
    #[error("the program's own checkpoint session can't be brought back")]
    Session(#[from] UnitStateError),
    /// Its files aren't as they were.
    #[error("the program can't go on with the files that it had")]
    Image(#[from] ImageError),
    /// The file of standard output.
    #[error("the program was not started")]
    Stdout(#[from] StdoutError),
    /// The store has no checkpoint yet.
    #[error(
        "there is no whole checkpoint in {store}: none was completed yet, or it's damaged, which \
         `cairn store verify {store}` would tell"
    )]
    NoCheckpoint {
        /// Its directory.
        store: PathBuf,
    },
    /// The checkpoint would be dropped as soon as the store is opened, and its branch lost until the next one.
    #[error(
        "checkpoint {id} would be lost before another one follows it, as {newer} are newer and the newest {keep} are \
         kept: keep {} or more (--keep), or go on without checkpoints (--no-checkpoints)", newer + 1
    )]
    NotKept {
        /// The checkpoint.
        id: u64,
        /// How many are newer.
        newer: usize,
        /// How many are kept.
        keep: usize,
    },
    /// What an earlier run had begun to do to a directory can't be finished, and has to be before anything else.
    #[error("the program was not started: what an earlier run left undone in {} can't be finished", directory.display())]
    Unfinished {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: PublishError,
    },
    /// The program has ended, and its changes couldn't be applied to the directories.
    #[error("the changes in an overlay were not applied")]
    Publish(#[from] PublishError),
    /// The devices don't fit.
    #[error("the machine's devices don't fit together")]
    Devices(#[from] DeviceError),
}

impl From<BareError> for RunError {
    fn from(error: BareError) -> Self {
        match error {
            BareError::Kvm(error) => Self::Kvm(error),
            BareError::Memory(what, source) => Self::Host { what, source },
        }
    }
}

impl RunError {
    /// Whether more memory would help.
    #[must_use]
    pub fn is_too_small(&self) -> bool {
        match self {
            Self::Memory { .. } | Self::LessThanLeast { .. } => true,
            Self::Load(LoadError::Space { source, .. }) => matches!(source, SpaceError::Memory { .. }),
            _ => false,
        }
    }
}

/// Why the machine's devices don't fit: a fault of the monitor's own tables.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// On the bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// On PCI.
    #[error(transparent)]
    Function(#[from] FunctionError),
}
