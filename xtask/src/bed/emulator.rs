//! Whether a guest runs undisturbed on the CPUs that the job has, while another of them does what disturbs one on the
//! bed's first CPU (see [`super::KEPT_CPU`]). With the first CPU allowed it shows the fault, within seconds:
//!
//! ```text
//!     cargo xtask nested run -- taskset -c 0,1 /init in-bed emulator
//! ```

use std::arch::asm;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use nix::sched::{self, CpuSet};
use nix::unistd::Pid;

/// How long the guest runs.
const TIME: Duration = Duration::from_secs(10);
/// How long it may take to say so: a guest that was disturbed may stand still.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the guest's page is, and its first instruction.
const START: u64 = 0x1000;
/// What the guest executes, in real mode: 512 times CPUID, each an exit that the kernel deals with, then one to us.
const CODE: [u8; 12] = [
    0xbe, 0x00, 0x02, // mov si, 512
    0x0f, 0xa2, // cpuid
    0x4e, // dec si
    0x75, 0xfb, // jnz: to cpuid
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xf4, // jmp: to the start
];
/// Exits of one round of that.
const EXITS: u64 = 513;

#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A buffer for FXSAVE.
#[repr(C, align(16))]
struct FloatingPoint([u8; 512]);

/// True if the guest was left alone.
///
/// # Errors
/// The job has fewer than two CPUs, or KVM makes no guest.
pub(crate) fn run() -> Result<bool> {
    let allowed = sched::sched_getaffinity(Pid::from_raw(0)).context("asking for this job's CPUs")?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)).collect();
    let [guest, other, ..] = cpus[..] else { bail!("a guest and what disturbs it need a CPU each") };
    println!("\na guest on CPU {guest}, floating-point state loaded on CPU {other}");
    let (report, reports) = mpsc::channel();
    // Neither thread is waited for: the process ends soon, and a guest that stands still would never return.
    let loading = thread::spawn(move || load_for_ever(other));
    thread::spawn(move || report.send(run_guest(guest)));
    let problem = match reports.recv_timeout(LIMIT) {
        Ok(Ok(exits)) => {
            ensure!(!loading.is_finished(), "no floating-point state was loaded");
            println!("  ok, {exits} exits");
            return Ok(true);
        }
        Ok(Err(error)) => format!("{error:#}"),
        Err(RecvTimeoutError::Timeout) => "the guest stands still".to_owned(),
        Err(RecvTimeoutError::Disconnected) => bail!("the guest's thread broke down"),
    };
    println!("  FAILED: {problem}");
    Ok(false)
}

/// Runs the guest on a CPU; how many exits it had.
fn run_guest(cpu: usize) -> Result<u64> {
    pin(cpu)?;
    let kvm = Kvm::new().context("opening /dev/kvm")?;
    let vm = kvm.create_vm().context("making a VM")?;
    let mut page = Box::new(Page([0; 4096]));
    page.0[..CODE.len()].copy_from_slice(&CODE);
    let page: &'static Page = Box::leak(page);
    let region = kvm_userspace_memory_region {
        guest_phys_addr: START,
        memory_size: size_of::<Page>() as u64,
        userspace_addr: std::ptr::from_ref(page).expose_provenance() as u64,
        flags: kvm_bindings::KVM_MEM_READONLY,
        slot: 0,
    };
    // SAFETY: the page is never freed nor changed, and the guest may only read it.
    unsafe { vm.set_user_memory_region(region) }.context("giving the guest its page")?;
    let mut vcpu = vm.create_vcpu(0).context("making a vCPU")?;
    let mut special = vcpu.get_sregs().context("reading the vCPU")?;
    (special.cs.base, special.cs.selector) = (0, 0);
    vcpu.set_sregs(&special).context("setting the vCPU")?;
    vcpu.set_regs(&kvm_regs { rip: START, rflags: 2, ..Default::default() }).context("setting the vCPU")?;
    let started = Instant::now();
    let mut exits = 0;
    while started.elapsed() < TIME {
        let expected = matches!(vcpu.run().context("running the guest")?, VcpuExit::IoOut(..));
        let rip = vcpu.get_regs().context("reading the vCPU")?.rip;
        let inside = (START..START + CODE.len() as u64).contains(&rip);
        ensure!(expected && inside, "after {exits} exits the guest is at {rip:#x}");
        exits += EXITS;
    }
    Ok(exits)
}

/// Loads floating-point state on a CPU, again and again.
fn load_for_ever(cpu: usize) -> Result<()> {
    pin(cpu)?;
    let mut state = FloatingPoint([0; 512]);
    loop {
        // SAFETY: every x86-64 CPU has both instructions, the buffer has their size and alignment, and the registers
        // get back what they held.
        unsafe {
            asm!(
                "fxsave64 [{0}]",
                ".rept 64",
                "fxrstor64 [{0}]",
                ".endr",
                in(reg) &raw mut state.0,
                options(nostack),
            );
        }
    }
}

fn pin(cpu: usize) -> Result<()> {
    let only = || {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched::sched_setaffinity(Pid::from_raw(0), &cpus)
    };
    only().with_context(|| format!("moving to CPU {cpu}"))
}
