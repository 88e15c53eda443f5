//! The thread of one vCPU: an exit, the device that it means, and on.

use std::sync::Arc;

use kvm_bindings::kvm_sregs;

use crate::devices::calling_cpu::{CallingCpu, PauseFigures, Paused};
use crate::devices::pci_bus::PciBus;
use crate::devices::power::PowerEvent;
use crate::host::signal::Thread;
use crate::kvm::kernel_vcpu::{KernelExit, KernelVcpu, Kick};
use crate::kvm::system::KvmError;
use crate::kvm::vcpu::Failure;
use crate::machine::linux::error::BootError;
use crate::machine::linux::ports::Ports;
use crate::machine::linux::world::{Kicker, Pause, Seat, World};
use crate::machine::sandbox;
use crate::memory::walk::{Paging, PagingRegisters};

/// Bytes of the largest access to memory that one exit reports.
const MAX_STORE: usize = 8;

/// What ends a machine from within.
#[derive(Debug)]
pub(super) enum VcpuEnd {
    /// Another thread stopped the machine.
    Stopped,
    /// The guest asked for it, or did what resets a PC.
    Power(PowerEvent),
    /// KVM couldn't go on.
    Failed {
        /// Which vCPU.
        index: usize,
        /// Its next instruction.
        instruction: u64,
        /// Why.
        failure: Failure,
    },
}

/// One vCPU with what it can reach.
#[derive(Debug)]
pub(super) struct VcpuThread {
    index: usize,
    vcpu: KernelVcpu,
    address_bits: u8,
    ports: Arc<Ports>,
    pci: Arc<PciBus>,
}

/// A vCPU that is outside of the guest, as a device sees it.
#[derive(Debug)]
struct Caller<'a> {
    vcpu: &'a KernelVcpu,
    address_bits: u8,
    seat: &'a Seat,
}

impl CallingCpu for Caller<'_> {
    fn paging(&self) -> Option<Paging> {
        let sregs = self.vcpu.sregs();
        let sregs = sregs.inspect_err(|error| tracing::warn!(%error, "a program's page tables are unknown"));
        let kvm_sregs { cr0, cr3, cr4, efer, .. } = sregs.ok()?;
        Paging::new(&PagingRegisters { cr0, cr3, cr4, efer }, self.address_bits)
    }

    fn pauses(&self) -> PauseFigures {
        self.seat.world().pauses()
    }

    fn pause_others(&self) -> Box<dyn Paused + '_> {
        Box::new(self.seat.pause_others())
    }
}

impl Paused for Pause<'_> {}

/// Kicks the thread that took the seat.
struct ThreadKicker {
    kick: Kick,
    thread: Thread,
}

impl Kicker for ThreadKicker {
    fn kick(&self) {
        // First the note, then the signal: whenever the signal comes, the note is there.
        self.kick.set();
        self.thread.interrupt();
    }

    fn forget(&self) {
        self.kick.clear();
    }
}

/// Ends the machine when a vCPU's thread does, also if that panics: the others would run on for ever.
struct StopAtEnd<'a>(&'a World);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl VcpuThread {
    /// vCPU number `index` of a machine, with physical addresses of `address_bits`.
    #[must_use]
    pub(super) fn new(index: usize, vcpu: KernelVcpu, address_bits: u8, ports: Arc<Ports>) -> Self {
        let pci = Arc::clone(&ports.pci);
        Self { index, vcpu, address_bits, ports, pci }
    }

    /// Runs on the calling thread, which is confined for it, until the machine ends. When this returns, it has.
    ///
    /// # Errors
    /// [`BootError::Kvm`] and [`BootError::Sandbox`].
    pub(super) fn run(mut self, world: &Arc<World>) -> Result<VcpuEnd, BootError> {
        let kicker = ThreadKicker { kick: self.vcpu.kick(), thread: Thread::current() };
        let Some(seat) = world.seat(self.index, Box::new(kicker)) else { return Ok(VcpuEnd::Stopped) };
        let _stop = StopAtEnd(world);
        sandbox::confine_vcpu()?;
        Ok(self.run_seated(&seat)?)
    }

    fn run_seated(&mut self, seat: &Seat) -> Result<VcpuEnd, KvmError> {
        loop {
            let Some(inside) = seat.enter() else { return Ok(VcpuEnd::Stopped) };
            let exit = self.vcpu.run();
            drop(inside);
            match exit? {
                KernelExit::PortIn { port, size, data } => {
                    data.chunks_mut(size.max(1)).for_each(|access| self.ports.read(port, access));
                }
                KernelExit::PortOut { port, size, data } => {
                    let events = data.chunks(size.max(1)).map(|access| self.ports.write(port, access));
                    if let Some(event) = events.flatten().next() {
                        return Ok(VcpuEnd::Power(event));
                    }
                }
                KernelExit::Load { address, data } => {
                    self.pci.mmio_read(address, data);
                }
                KernelExit::Store { address, data } => {
                    let len = data.len().min(MAX_STORE);
                    let mut bytes = [0; MAX_STORE];
                    bytes[..len].copy_from_slice(&data[..len]);
                    let caller = Caller { vcpu: &self.vcpu, address_bits: self.address_bits, seat };
                    self.pci.mmio_write(address, &bytes[..len], &caller);
                }
                KernelExit::Interrupted => {}
                KernelExit::Shutdown => return Ok(VcpuEnd::Power(PowerEvent::Reset)),
                KernelExit::Failed(failure) => return self.failed(failure),
            }
        }
    }

    fn failed(&self, failure: Failure) -> Result<VcpuEnd, KvmError> {
        let instruction = self.vcpu.regs()?.rip;
        Ok(VcpuEnd::Failed { index: self.index, instruction, failure })
    }
}
