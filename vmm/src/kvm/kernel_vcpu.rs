//! A vCPU that runs a kernel: its state at the start, running it, and why it stopped.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sys::mman::ProtFlags;

use crate::host::mapping::Reservation;
use crate::kvm::system::{KvmError, refused};
use crate::kvm::vcpu::{Failure, set_msrs};
use crate::kvm::vm::Vm;
use crate::memory::layout::{PAGE, to_usize};

/// A bit of the first word of `struct kvm_run`: the byte `immediate_exit`, which follows
/// `request_interrupt_window`.
const IMMEDIATE_EXIT: u64 = 1 << 8;
/// Offset in `struct kvm_run` of what is told about an access to a port: direction, size, port, count.
const PORT_EXIT: u64 = 32;

/// A vCPU.
#[derive(Debug)]
pub struct KernelVcpu {
    fd: VcpuFd,
    kick: Kick,
    /// Keeps the memory that the guest can reach.
    _vm: Arc<Vm>,
}

/// Makes a vCPU's next or present run end at once, from any thread.
///
/// It only leaves a note in the page that KVM shares; a vCPU that is running looks at it when a signal
/// interrupts it, which is the caller's part.
#[derive(Clone, Debug)]
pub struct Kick {
    /// The vCPU's `struct kvm_run`, mapped once more.
    run: Arc<Reservation>,
}

/// Why the vCPU stopped. Where there is `data` to fill, the guest gets it at the next run.
#[derive(Debug)]
pub enum KernelExit<'a> {
    /// Loads from an I/O port: `data` is one or several of `size` bytes each.
    PortIn {
        /// The port.
        port: u16,
        /// Bytes of each.
        size: usize,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// Stores to an I/O port.
    PortOut {
        /// The port.
        port: u16,
        /// Bytes of each.
        size: usize,
        /// What was stored.
        data: &'a [u8],
    },
    /// A load where there is no memory.
    Load {
        /// Guest-physical address.
        address: u64,
        /// To be filled, at most 8 bytes.
        data: &'a mut [u8],
    },
    /// A store where there is no memory.
    Store {
        /// Guest-physical address.
        address: u64,
        /// What was stored, at most 8 bytes.
        data: &'a [u8],
    },
    /// A kick, or a signal.
    Interrupted,
    /// A triple fault: a PC resets.
    Shutdown,
    /// KVM couldn't go on.
    Failed(Failure),
}

impl KernelVcpu {
    pub(crate) fn new(fd: VcpuFd, vm: Arc<Vm>) -> Result<Self, KvmError> {
        let kick = Kick::new(&fd)?;
        Ok(Self { fd, kick, _vm: vm })
    }

    /// What ends this vCPU's run from another thread.
    #[must_use]
    pub fn kick(&self) -> Kick {
        self.kick.clone()
    }

    /// Runs until something happens.
    ///
    /// # Errors
    /// [`KvmError::Refused`] when KVM_RUN fails in a way that no guest can cause.
    pub fn run(&mut self) -> Result<KernelExit<'_>, KvmError> {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                Ok(KernelExit::PortIn { port, size: self.kick.port_size(), data })
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                Ok(KernelExit::PortOut { port, size: self.kick.port_size(), data })
            }
            Ok(VcpuExit::MmioRead(address, data)) => Ok(KernelExit::Load { address, data }),
            Ok(VcpuExit::MmioWrite(address, data)) => Ok(KernelExit::Store { address, data }),
            Ok(VcpuExit::Shutdown) => Ok(KernelExit::Shutdown),
            Ok(VcpuExit::Intr) => Ok(KernelExit::Interrupted),
            Ok(VcpuExit::InternalError) => Ok(KernelExit::Failed(Failure::Emulation)),
            Ok(VcpuExit::FailEntry(reason, _)) => Ok(KernelExit::Failed(Failure::Entry(reason))),
            Ok(VcpuExit::Unsupported(reason)) => Ok(KernelExit::Failed(Failure::Other(reason))),
            Ok(other) => {
                tracing::debug!(?other, "unexpected exit");
                Ok(KernelExit::Failed(Failure::Other(u32::MAX)))
            }
            Err(error) => match error.errno() {
                // EAGAIN: a vCPU that waited to be started has been.
                libc::EINTR | libc::EAGAIN => Ok(KernelExit::Interrupted),
                _ => Err(refused("to run a vCPU")(error)),
            },
        }
    }

    /// The general registers.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn regs(&self) -> Result<kvm_regs, KvmError> {
        self.fd.get_regs().map_err(refused("to tell the registers"))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), KvmError> {
        self.fd.set_regs(regs).map_err(refused("the registers"))
    }

    /// The special registers.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().map_err(refused("to tell the special registers"))
    }

    /// Sets the special registers.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), KvmError> {
        self.fd.set_sregs(sregs).map_err(refused("the special registers"))
    }

    /// Sets model-specific registers: pairs of index and value.
    ///
    /// # Errors
    /// [`KvmError::Refused`]; also when only some could be set.
    pub fn set_msrs(&self, pairs: &[(u32, u64)]) -> Result<(), KvmError> {
        set_msrs(&self.fd, pairs, "the model-specific registers of a kernel")
    }
}

impl Kick {
    pub(super) fn new(fd: &VcpuFd) -> Result<Self, KvmError> {
        let what = "to map a vCPU's shared page";
        let fail = |errno: i32| refused(what)(kvm_ioctls::Error::new(errno));
        let run = Reservation::new(to_usize(PAGE), to_usize(PAGE))
            .map_err(|error| fail(error.raw_os_error().unwrap_or(libc::ENOMEM)))?;
        // SAFETY: the descriptor is open as long as `fd` is borrowed, which is longer than this use.
        let file = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        run.place_file(0..PAGE, rights, true, file, 0).map_err(|errno| fail(errno as i32))?;
        Ok(Self { run: Arc::new(run) })
    }

    /// Makes the run end, unless it has.
    pub fn set(&self) {
        self.run.word(0).fetch_or(IMMEDIATE_EXIT, Ordering::SeqCst);
    }

    /// Takes it back, before the next run.
    pub fn clear(&self) {
        self.run.word(0).fetch_and(!IMMEDIATE_EXIT, Ordering::SeqCst);
    }

    /// Bytes of each access to a port, after such an exit.
    fn port_size(&self) -> usize {
        usize::from(self.run.word(PORT_EXIT).load(Ordering::Relaxed).to_le_bytes()[1])
    }
}
