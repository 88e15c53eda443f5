//! A vCPU: running it, and why it stopped.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use crate::kvm::kernel_vcpu::Kick;
use crate::kvm::system::{KvmError, refused};

/// Words of the vector state as KVM tells it: an XSAVE area in the standard format (Intel SDM volume 1, 13.4).
pub const VECTOR_WORDS: usize = 1024;
/// Bytes of the largest store that one exit reports.
const MAX_STORE: usize = 8;

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)` (linux/kvm.h), which kvm-ioctls has for other CPUs only.
const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;

/// A vCPU. Its general registers travel with each run, without a system call of their own.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
}

/// Why the vCPU stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A store where there is no memory. The instruction is complete.
    Store {
        /// The guest-physical address.
        address: u64,
        /// What was stored, zero-extended.
        value: u64,
        /// Bytes stored.
        len: u8,
    },
    /// A load where there is no memory; the caller of `run` answered it.
    Load,
    /// A signal arrived.
    Interrupted,
    /// Memory of a slot that the VMM's own mapping doesn't have (the instruction is not done).
    NoMemory,
    /// An access to an I/O port.
    Port,
    /// Its dirty ring is nearly full. It won't go on before a reset.
    RingFull,
    /// KVM couldn't go on; the text says why.
    Failed(Failure),
}

/// How KVM gave up on a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// An instruction that KVM had to emulate and couldn't.
    #[error("an instruction that KVM can't emulate here (a vector or string instruction on device memory?)")]
    Emulation,
    /// A fault while delivering a fault.
    #[error("the virtual CPU shut down (triple fault)")]
    Shutdown,
    /// The CPU refused the state.
    #[error("the CPU refused the virtual CPU's state (hardware reason {0:#x})")]
    Entry(u64),
    /// Anything else.
    #[error("the virtual CPU stopped for KVM exit reason {0}")]
    Other(u32),
}

impl Vcpu {
    pub(crate) fn new(mut fd: VcpuFd) -> Self {
        fd.set_sync_valid_reg(SyncReg::Register);
        Self { fd }
    }

    /// Runs until something happens. `load` answers loads where there is no memory: it gets the
    /// guest-physical address and the bytes to fill.
    ///
    /// # Errors
    /// [`KvmError::Refused`] when KVM_RUN fails in a way that no guest can cause.
    pub fn run(&mut self, load: &mut dyn FnMut(u64, &mut [u8])) -> Result<Exit, KvmError> {
        match self.fd.run() {
            Ok(VcpuExit::MmioWrite(address, bytes)) => {
                let mut value = [0; MAX_STORE];
                let len = bytes.len().min(MAX_STORE);
                value[..len].copy_from_slice(&bytes[..len]);
                #[expect(clippy::cast_possible_truncation, reason = "at most MAX_STORE")]
                Ok(Exit::Store { address, value: u64::from_le_bytes(value), len: len as u8 })
            }
            Ok(VcpuExit::MmioRead(address, bytes)) => {
                load(address, bytes);
                Ok(Exit::Load)
            }
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Ok(Exit::Port),
            Ok(VcpuExit::Intr) => Ok(Exit::Interrupted),
            Ok(VcpuExit::MemoryFault { .. }) => Ok(Exit::NoMemory),
            Ok(VcpuExit::InternalError) => Ok(Exit::Failed(Failure::Emulation)),
            Ok(VcpuExit::Shutdown) => Ok(Exit::Failed(Failure::Shutdown)),
            Ok(VcpuExit::FailEntry(reason, _)) => Ok(Exit::Failed(Failure::Entry(reason))),
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => Ok(Exit::RingFull),
            Ok(VcpuExit::Unsupported(reason)) => Ok(Exit::Failed(Failure::Other(reason))),
            Ok(other) => {
                tracing::debug!(?other, "unexpected exit");
                Ok(Exit::Failed(Failure::Other(u32::MAX)))
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Ok(Exit::Interrupted),
                libc::EFAULT => Ok(Exit::NoMemory),
                _ => Err(refused("to run the vCPU")(error)),
            },
        }
    }

    /// KVM's descriptor.
    pub(super) fn descriptor(&self) -> &VcpuFd {
        &self.fd
    }

    /// The general registers as of the last exit.
    #[must_use]
    pub fn regs(&self) -> kvm_regs {
        self.fd.sync_regs().regs
    }

    /// Changes the general registers before the next run. After a store, the instruction that made it
    /// is complete, so what is set here is what the program sees.
    pub fn set_regs(&mut self, regs: &kvm_regs) {
        self.fd.sync_regs_mut().regs = *regs;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
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

    /// Sets which vector state the program may use: XCR0.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn set_components(&self, components: u64) -> Result<(), KvmError> {
        let mut registers = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        registers.xcrs[0].value = components;
        self.fd.set_xcrs(&registers).map_err(refused("the vector state (XCR0)"))
    }

    /// What ends this vCPU's run from another thread.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn kick(&self) -> Result<Kick, KvmError> {
        Kick::new(&self.fd)
    }

    /// Whether KVM has nothing left to deliver before the next instruction: then the registers are all there is.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn is_between_instructions(&self) -> Result<bool, KvmError> {
        let events = self.fd.get_vcpu_events().map_err(refused("to tell pending exceptions"))?;
        let waiting = [
            events.exception.injected,
            events.exception.pending,
            events.interrupt.injected,
            events.nmi.injected,
            events.nmi.pending,
        ];
        Ok(waiting == [0; 5])
    }

    /// x87, SSE and further vector registers, as XSAVE stores them.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn vectors(&self) -> Result<[u32; VECTOR_WORDS], KvmError> {
        self.fd.get_xsave().map(|state| state.region).map_err(refused("to tell the vector registers"))
    }

    /// Sets them.
    ///
    /// # Errors
    /// [`KvmError::Refused`], also for what isn't such a state.
    pub fn set_vectors(&self, words: &[u32; VECTOR_WORDS]) -> Result<(), KvmError> {
        let state = kvm_xsave { region: *words, ..Default::default() };
        // SAFETY: the kernel reads the structure's 4096 bytes, or more where a process has asked for state that is
        // larger (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM), which this one never does.
        unsafe { self.fd.set_xsave(&state) }.map_err(refused("the vector registers"))
    }

    /// Ticks of the time stamp counter in a millisecond, if KVM knows.
    #[must_use]
    pub fn counter_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|khz| *khz != 0)
    }

    /// Gives the vCPU the host's own time stamp counter, where KVM can: a fresh one starts at zero with VMX and
    /// SVM. Whether it has it now shows when it's read.
    pub fn share_counter(&self) {
        let offset = 0_u64;
        let attribute = kvm_device_attr {
            group: KVM_VCPU_TSC_CTRL,
            attr: u64::from(KVM_VCPU_TSC_OFFSET),
            addr: (&raw const offset).expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: the ioctl reads one `kvm_device_attr`, and of this attribute the u64 that it points at; both
        // live until it returns. The descriptor is open as long as `fd` lives.
        let refused = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
        if refused != 0 {
            tracing::debug!("KVM doesn't set the counter's offset");
        }
    }

    /// Sets model-specific registers: pairs of index and value.
    ///
    /// # Errors
    /// [`KvmError::Refused`]; also when only some could be set.
    pub fn set_msrs(&self, pairs: &[(u32, u64)]) -> Result<(), KvmError> {
        set_msrs(&self.fd, pairs, "the model-specific registers of SYSCALL")
    }
}

/// Sets model-specific registers, all of them or it's an error about `what`.
pub(super) fn set_msrs(fd: &VcpuFd, pairs: &[(u32, u64)], what: &'static str) -> Result<(), KvmError> {
    let entries: Vec<_> = pairs
        .iter()
        .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
        .collect();
    let invalid = || refused(what)(kvm_ioctls::Error::new(libc::EINVAL));
    let msrs = kvm_bindings::Msrs::from_entries(&entries).map_err(|_| invalid())?;
    if fd.set_msrs(&msrs).map_err(refused(what))? == entries.len() { Ok(()) } else { Err(invalid()) }
}
