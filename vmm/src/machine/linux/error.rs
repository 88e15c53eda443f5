//! Why a Linux guest could not be booted, or not run to its end.

use std::io;
use std::path::PathBuf;

use crate::devices::bar_window::WindowFull;
use crate::devices::block::image::ImageError;
use crate::devices::entropy::EntropyError;
use crate::devices::pci_bus::PciBusError;
use crate::devices::queue_function::QueueFunctionError;
use crate::guest::linux::initramfs::InitramfsError;
use crate::guest::linux::loader::LoadError;
use crate::kvm::system::KvmError;
use crate::kvm::vcpu::Failure;
use crate::machine::helpers::HelperError;
use crate::machine::sandbox::SandboxError;
use crate::machine::storing::StoringError;
use crate::virtio::pci::FunctionError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No usable KVM.
    #[error("no guest can run on this host")]
    Kvm(#[from] KvmError),
    /// A KVM that emulates what a kernel does.
    #[error(
        "this host's KVM can't run a kernel, only programs (`cairn run`): it emulates privileged instructions, as \
         a KVM without VT-x or AMD-V does. To boot one in an emulated machine with AMD-V: cargo xtask nested"
    )]
    Software,
    /// The kernel can't be booted.
    #[error("the guest can't boot")]
    Load(#[from] LoadError),
    /// The program can't be put into the guest.
    #[error("the program can't run in the guest")]
    Program(#[from] InitramfsError),
    /// A file can't be read.
    #[error("{what} {path} can't be read")]
    File {
        /// What it should be.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// How reading it ended.
        #[source]
        source: io::Error,
    },
    /// A disk can't be used.
    #[error(transparent)]
    Disk(#[from] ImageError),
    /// There is no store.
    #[error("the guest was not started")]
    Store(#[from] StoringError),
    /// The devices don't fit, or get no thread.
    #[error("the machine's devices can't be made")]
    Devices(#[from] DevicesError),
    /// The monitor itself failed, not the host.
    #[error("cairn can't go on with the guest: {0}")]
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
    /// The guest's threads can't be confined.
    #[error("the guest was not started")]
    Sandbox(#[from] SandboxError),
    /// KVM can't run the guest any further.
    #[error("KVM can't go on with vCPU {index} at instruction {instruction:#x}: {failure}")]
    Stuck {
        /// Which vCPU.
        index: usize,
        /// Its next instruction.
        instruction: u64,
        /// Why.
        failure: Failure,
    },
}

/// Why there are no devices.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The bus is full.
    #[error(transparent)]
    Bus(#[from] PciBusError),
    /// No room for registers.
    #[error(transparent)]
    Window(#[from] WindowFull),
    /// A function can't be one.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// A device with a thread.
    #[error(transparent)]
    Queue(#[from] QueueFunctionError),
    /// The entropy device.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// No threads to help with checkpoints.
    #[error(transparent)]
    Helpers(#[from] HelperError),
    /// The host has no random bytes.
    #[error("the host has no random bytes for the keys of sessions")]
    Keys(#[source] io::Error),
}
