//! A virtual machine: its memslots' ioctls, and vCPUs from it.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
    kvm_enable_cap, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::host::mapping::Reservation;
use crate::kvm::dirty_log;
use crate::kvm::dirty_ring::{DirtyRing, ring_bytes};
use crate::kvm::kernel_vcpu::KernelVcpu;
use crate::kvm::system::{KvmError, refused};
use crate::kvm::vcpu::Vcpu;
use crate::memory::layout::{PAGE, to_usize};
use crate::memory::linux_map::KVM_PRIVATE;

/// How KVM tells what was written, for the whole life of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteLog {
    /// A bitmap for each slot, with manual protection.
    Bitmap,
    /// A ring for each vCPU.
    Ring {
        /// Entries, a power of two that KVM allows.
        entries: u32,
    },
}

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    log: WriteLog,
    /// Memory that slots show, dropped after the descriptor.
    kept: Mutex<Vec<Arc<Reservation>>>,
}

impl Vm {
    pub(crate) fn new(kvm: &Kvm, log: WriteLog) -> Result<Self, KvmError> {
        let fd = kvm.create_vm().map_err(refused("a new virtual machine"))?;
        match log {
            WriteLog::Bitmap => {
                // Manual protect: reading the log protects nothing, CLEAR does, page by page as asked.
                // Initially set: enabling the log touches no page, so large mappings made before stay.
                let flags = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
                enable(&fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags)
                    .map_err(refused("manual protection of the dirty log"))?;
            }
            // Not initially set: nothing but a reset protects pages then, and it knows only those of the ring.
            WriteLog::Ring { entries } => enable(&fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, ring_bytes(entries))
                .map_err(refused("a dirty ring of this size"))?,
        }
        Ok(Self { fd, log, kept: Mutex::default() })
    }

    /// Makes an instruction that KVM can't emulate an exit at every privilege level.
    pub(crate) fn tell_emulation_failures(&self, kvm: &Kvm) -> Result<(), KvmError> {
        // Otherwise an instruction on device registers that KVM can't emulate is an invalid one to a
        // program at CPL 3, and nobody learns why. Kernels before 5.14 have only that.
        if kvm.check_extension_raw(u64::from(KVM_CAP_EXIT_ON_EMULATION_FAILURE)) != 0 {
            enable(&self.fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1)
                .map_err(refused("to tell of instructions that it can't emulate"))?;
        }
        Ok(())
    }

    /// Gives the machine a PC's interrupt controllers, each vCPU its own local APIC among them. Before the
    /// first vCPU.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn create_interrupt_controllers(&self) -> Result<(), KvmError> {
        let private = u64::from(KVM_PRIVATE);
        self.fd.set_identity_map_address(private).map_err(refused("the place of its page table"))?;
        let tasks = to_usize(private + PAGE);
        self.fd.set_tss_address(tasks).map_err(refused("the place of its task state"))?;
        self.fd.create_irq_chip().map_err(refused("interrupt controllers"))
    }

    /// Raises and lowers an input of the I/O APIC: one edge.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn pulse(&self, input: u32) -> Result<(), KvmError> {
        let pulsed = self.fd.set_irq_line(input, true).and_then(|()| self.fd.set_irq_line(input, false));
        pulsed.map_err(refused("an interrupt"))
    }

    /// Sends a message-signalled interrupt: a store of `data` at `address` as a device would make it.
    ///
    /// # Errors
    /// [`KvmError::Refused`]. A message that no vCPU takes is none.
    pub fn send_message(&self, address: u64, data: u32) -> Result<(), KvmError> {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let (low, high) = (half(address), half(address >> 32));
        let message = kvm_msi { address_lo: low, address_hi: high, data, ..Default::default() };
        self.fd.signal_msi(message).map(drop).map_err(refused("a message-signalled interrupt"))
    }

    /// The machine's vCPU number `index`, which runs a kernel, with the CPU features `cpuid`. The one with
    /// number 0 runs when told; each other one waits until the guest starts it.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn create_kernel_vcpu(
        self: &Arc<Self>,
        index: u64,
        cpuid: &kvm_bindings::CpuId,
    ) -> Result<KernelVcpu, KvmError> {
        let fd = self.fd.create_vcpu(index).map_err(refused("a vCPU"))?;
        fd.set_cpuid2(cpuid).map_err(refused("the vCPU's features"))?;
        KernelVcpu::new(fd, Arc::clone(self))
    }

    /// The machine's vCPU number `index`, with the CPU features `cpuid`.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn create_vcpu(&self, index: u64, cpuid: &kvm_bindings::CpuId) -> Result<Vcpu, KvmError> {
        let fd = self.fd.create_vcpu(index).map_err(refused("a vCPU"))?;
        fd.set_cpuid2(cpuid).map_err(refused("the vCPU's features"))?;
        Ok(Vcpu::new(fd))
    }

    /// The dirty ring of `vcpu`, this machine's only one. None where writes are told by bitmaps.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn dirty_ring(self: &Arc<Self>, vcpu: &Vcpu) -> Result<Option<DirtyRing>, KvmError> {
        match self.log {
            WriteLog::Bitmap => Ok(None),
            WriteLog::Ring { entries } => DirtyRing::map(self, vcpu.descriptor(), entries).map(Some),
        }
    }

    /// Protects the pages of the dirty rings' entries that are done.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn reset_dirty_rings(&self) -> Result<(), kvm_ioctls::Error> {
        dirty_log::reset_rings(&self.fd)
    }

    /// Makes memslot `slot` of all of `memory`, which the machine keeps for as long as it runs.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn set_whole_slot(&self, slot: u32, start: u64, memory: &Arc<Reservation>) -> Result<(), KvmError> {
        let len = memory.len() as u64;
        let pointer = memory
            .pointer(&(0..len))
            .ok_or_else(|| refused("a memslot")(kvm_ioctls::Error::new(libc::EINVAL)))?;
        self.keep(memory);
        // SAFETY: the reservation is kept with the machine, so it stays this guest's.
        unsafe { self.set_slot(slot, &(start..start + len), pointer, false) }.map_err(refused("a memslot"))
    }

    /// Keeps `memory`, of which there are slots, until the machine and its vCPUs are gone.
    pub(crate) fn keep(&self, memory: &Arc<Reservation>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(memory));
    }

    /// Makes memslot `slot` of `range` (guest-physical) backed by the VMM's memory at `memory`, or
    /// changes its logging.
    ///
    /// # Errors
    /// The kernel's answer.
    ///
    /// # Safety
    /// The VMM's memory stays reserved for this guest while the slot exists: whatever is mapped there
    /// becomes the guest's.
    pub(crate) unsafe fn set_slot(
        &self,
        slot: u32,
        range: &Range<u64>,
        memory: NonNull<u8>,
        logged: bool,
    ) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: range.start,
            memory_size: range.end - range.start,
            userspace_addr: memory.as_ptr().expose_provenance() as u64,
        };
        // SAFETY: the caller's promise is the one that this function asks for.
        unsafe { self.fd.set_user_memory_region(region) }
    }

    /// Takes memslot `slot` away: a range of size 0 deletes it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn delete_slot(&self, slot: u32) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region { slot, ..Default::default() };
        // SAFETY: deleting a slot gives the guest no memory.
        unsafe { self.fd.set_user_memory_region(region) }
    }

    /// Reads the dirty log of `slot`, which has `pages` pages.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn dirty_log(
        &self,
        slot: u32,
        pages: u64,
        bitmap: &mut [u64],
    ) -> Result<(), kvm_ioctls::Error> {
        dirty_log::get(&self.fd, slot, pages, bitmap)
    }

    /// Clears and write-protects pages of `slot`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn clear_dirty_log(
        &self,
        slot: u32,
        first: u64,
        pages: u32,
        bitmap: &[u64],
    ) -> Result<(), kvm_ioctls::Error> {
        dirty_log::clear(&self.fd, slot, first, pages, bitmap)
    }
}

fn enable(fd: &VmFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    fd.enable_cap(&kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() })
}
