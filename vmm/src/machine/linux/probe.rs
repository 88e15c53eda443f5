//! Whether this host's KVM can run a kernel: tried, not guessed.
//!
//! A KVM without VT-x or AMD-V emulates what runs at CPL 0, a thousand times slower than a CPU and not all of it:
//! a kernel gets stuck after minutes, in the midst of nowhere. A loop tells before there is one.

use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use vm_memory::{Bytes, GuestAddress};

use crate::guest::linux::cpu;
use crate::kvm::kernel_vcpu::KernelExit;
use crate::kvm::ram_slots::{RamSlots, SLOT_BYTES};
use crate::kvm::system::System;
use crate::machine::linux::error::BootError;
use crate::memory::linux_map::KERNEL;
use crate::memory::ram::{MIN_BYTES, Ram};

/// The port that the loop's end writes to; nothing is there.
const PORT: u16 = 0x80;
/// Nanoseconds of this thread's time that the loop may take. A CPU takes 100 000, one that is emulated by QEMU
/// less than a million, and KVM's emulator 200 million.
const LIMIT_NS: i64 = 20_000_000;
/// 64-bit code: 200 000 times around, and a write to the port, for ever.
const CODE: [u8; 13] = [
    0xb9, 0x40, 0x0d, 0x03, 0x00, // mov ecx, 200000
    0xff, 0xc9, // dec ecx
    0x75, 0xfc, // jnz back to it
    0xe6, 0x80, // out 0x80, al
    0xeb, 0xf3, // jmp to the start
];

/// Runs the loop in a machine of its own, once to warm up and once more.
///
/// # Errors
/// [`BootError`], but not when KVM only can't go on with it.
pub(super) fn can_run_kernels(kvm: &System) -> Result<bool, BootError> {
    let memory = |source| BootError::Host { what: "memory for a guest", source };
    let no_memory = || memory(std::io::Error::from_raw_os_error(libc::EFAULT));
    let ram = Arc::new(Ram::new(MIN_BYTES).map_err(memory)?);
    ram.memory().write_slice(&CODE, GuestAddress(KERNEL)).map_err(|_| no_memory())?;
    if !cpu::write_tables(&ram) {
        return Err(no_memory());
    }
    let vm = Arc::new(kvm.create_kernel_vm()?);
    RamSlots::new(&vm, &ram, SLOT_BYTES)?;
    let mut vcpu = vm.create_kernel_vcpu(0, &cpu::features(&kvm.supported_cpuid()?, 0, 1)?)?;
    cpu::enter(&vcpu, KERNEL)?;
    let mut rounds = 0;
    let mut start = thread_ns()?;
    while rounds < 2 {
        match vcpu.run()? {
            KernelExit::PortOut { port: PORT, .. } if rounds == 0 => (rounds, start) = (1, thread_ns()?),
            KernelExit::PortOut { port: PORT, .. } => rounds += 1,
            KernelExit::Interrupted => {}
            exit => {
                tracing::debug!(?exit, "KVM can't go on with a loop");
                return Ok(false);
            }
        }
    }
    let took_ns = thread_ns()? - start;
    tracing::debug!(took_ns, "a loop of privileged code");
    Ok(took_ns <= LIMIT_NS)
}

/// The time that the calling thread has run: others on the same CPU don't count.
fn thread_ns() -> Result<i64, BootError> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let time = time.map_err(|errno| BootError::Host { what: "a clock", source: errno.into() })?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
