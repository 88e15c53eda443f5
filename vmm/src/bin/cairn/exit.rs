//! What `cairn` exits with, and how it says why.

use std::io::ErrorKind;
use std::process::ExitCode;

use cairn_store::StoreError;
use cairn_vmm::guest::linux::loader::LoadError;
use cairn_vmm::kvm::system::KvmError;
use cairn_vmm::machine::app::RunError;
use cairn_vmm::machine::linux::error::BootError;
use cairn_vmm::machine::storing::StoringError;
use cairn_vmm::machine::whole::SavedError;
use cairn_vmm::tell;

/// A store is damaged.
pub(crate) const DAMAGED: u8 = 121;
/// A guest with a kernel wanted to start again: a reboot or a panic.
pub(crate) const GUEST_RESET: u8 = 122;
/// KVM couldn't go on with the program, or the host refused something while it ran.
pub(crate) const GUEST_FAILED: u8 = 123;
/// The memory that the guest was given is too small.
pub(crate) const TOO_SMALL: u8 = 124;
/// No usable KVM, or the guest couldn't be confined.
pub(crate) const NO_KVM: u8 = 125;
/// The program is there but can't be run: no ELF, another machine, no interpreter, no permission.
pub(crate) const NOT_RUNNABLE: u8 = 126;
/// There is no such program.
pub(crate) const NOT_FOUND: u8 = 127;
/// Anything else, as anyhow's callers have it.
pub(crate) const OTHER: u8 = 1;

/// Prints an error and its causes in one line each, and answers the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut line = format!("cairn: {error}");
    for cause in error.chain().skip(1) {
        line.push_str(": ");
        line.push_str(&cause.to_string());
    }
    tell!("{line}");
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<BootError>() {
        return boot_code(error);
    }
    if let Some(StoreError::Damaged(_)) = error.downcast_ref::<StoreError>() {
        return DAMAGED;
    }
    match error.downcast_ref::<RunError>() {
        Some(
            RunError::Saved(SavedError::Store(StoreError::Damaged(_)))
            | RunError::Store(StoringError::Open(StoreError::Damaged(_))),
        ) => DAMAGED,
        Some(RunError::Kvm(_) | RunError::Sandbox(_)) => NO_KVM,
        Some(RunError::Open { source, .. }) if source.kind() == ErrorKind::NotFound => NOT_FOUND,
        Some(error) if error.is_too_small() => TOO_SMALL,
        Some(
            RunError::Open { .. }
            | RunError::Interpreter { .. }
            | RunError::NoInterpreter { .. }
            | RunError::HiddenScript { .. }
            | RunError::Load(_)
            | RunError::Arguments { .. },
        ) => NOT_RUNNABLE,
        Some(
            RunError::Store(_)
            | RunError::Untrusted(_)
            | RunError::NoRecords
            | RunError::Saved(_)
            | RunError::Thaw(_)
            | RunError::Session(_)
            | RunError::Image(_)
            | RunError::Files(_)
            | RunError::Directory { .. }
            | RunError::Stdout(_)
            | RunError::Unfinished { .. }
            | RunError::Publish(_)
            | RunError::NoCheckpoint { .. }
            | RunError::NotKept { .. },
        ) => OTHER,
        Some(_) => GUEST_FAILED,
        None if error.downcast_ref::<KvmError>().is_some() => NO_KVM,
        None => OTHER,
    }
}

fn boot_code(error: &BootError) -> u8 {
    match error {
        BootError::Kvm(_) | BootError::Software | BootError::Sandbox(_) => NO_KVM,
        BootError::Load(LoadError::Open { source, .. }) if source.kind() == ErrorKind::NotFound => NOT_FOUND,
        BootError::Load(LoadError::TooSmall { .. }) => TOO_SMALL,
        BootError::Load(_) | BootError::Program(_) => NOT_RUNNABLE,
        BootError::Stuck { .. } => GUEST_FAILED,
        BootError::Store(StoringError::Open(StoreError::Damaged(_))) => DAMAGED,
        BootError::File { .. }
        | BootError::Disk(_)
        | BootError::Devices(_)
        | BootError::Store(_)
        | BootError::Broken(_)
        | BootError::Host { .. } => OTHER,
    }
}
