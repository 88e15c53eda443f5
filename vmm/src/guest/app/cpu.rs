//! The vCPU of an app guest: entering the program, and what the program's exits mean.
//!
//! A system call arrives as a store to the syscall port, made by the stub that MSR_LSTAR names. On
//! VMX and SVM the stub runs at CPL 0 and its SYSRET goes back; where CPL 0 is emulated, SYSCALL stays
//! at CPL 3 and the VMM sets the return itself. Which it is shows at the vCPU's first instruction, a
//! SYSCALL of ours. In the second case exits are dear, and there the stub posts calls in a page that it
//! shares with the VMM while somebody answers them there (`posted`). An exception arrives as a store of
//! its vector to the exception port, by a stub of that vector; the CPU has left its frame on the
//! interrupt stack.

mod frozen;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_regs;

use crate::guest::app::clock::{CLOCK_PAGE, Clock};
use crate::guest::app::image::Features;
use crate::guest::app::posted::{self, CallPage, SystemPage};
use crate::guest::app::process::Segments;
use crate::guest::app::program::Entry;
use crate::host::mapping::Reservation;
use crate::host::tsc;
use crate::kvm::dirty_ring::DirtyRing;
use crate::kvm::state::{self, Tables};
use crate::kvm::system::{KvmError, System};
use crate::kvm::vcpu::{Exit, Failure, Vcpu};
use crate::kvm::vm::Vm;
use crate::memory::layout::{EXCEPTION_PORT, PAGE, SYSCALL_GAVE_UP, SYSCALL_PORT, WINDOW_SIZE};
use crate::memory::page_table::{PageTables, SYSTEM_PAGES, SYSTEM_VIRTUAL};
use crate::memory::rights::Rights;

/// Offsets in the system span.
const SYSCALL_STUB: u64 = SYSTEM_PAGES.start;
/// Where the vCPU starts: behind the stub, in the same page.
const START_STUB: u64 = SYSCALL_STUB + STUB_SIZE;
/// The stub that posts calls, in the same page too.
const POSTING_STUB: u64 = SYSCALL_STUB + 64;
const EXCEPTION_STUBS: u64 = SYSCALL_STUB + PAGE;
const INTERRUPT_DESCRIPTORS: u64 = EXCEPTION_STUBS + PAGE;
const DESCRIPTORS: u64 = INTERRUPT_DESCRIPTORS + PAGE;
const TASK_STATE: u64 = DESCRIPTORS + PAGE;
const CALL_PAGE: u64 = TASK_STATE + PAGE;
const INTERRUPT_STACK_TOP: u64 = SYSTEM_PAGES.end;
/// Bytes of one exception stub; 256 of them fill a page.
const STUB_SIZE: u64 = 16;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;

/// Flags that a program may have when it goes on: all that POPF at CPL 3 can set, and IF.
const USER_FLAGS: u64 = 0x24_4fd5 | 1 << 9;
const FLAG_ALWAYS: u64 = 1 << 1;
/// A program starts with these: interrupts on.
const START_FLAGS: u64 = FLAG_ALWAYS | 1 << 9;

/// The vector of INT3, the only one that a program may raise by an INT instruction.
const BREAKPOINT: u64 = 3;
/// Vectors whose frame begins with an error code (Intel SDM volume 3, table 6-1).
const WITH_ERROR: [u64; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];
/// The vector of what the CPU forbids to programs.
const GENERAL_PROTECTION: u64 = 13;
/// The page fault's vector.
pub const PAGE_FAULT: u64 = 14;

/// What the program did that the VMM must act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A system call: its number and arguments. [`Cpu::answer`] must follow, or the program's end.
    Call(u64, [u64; 6]),
    /// A system call that was posted and not answered in time: likewise.
    PostedCall(u64, [u64; 6]),
    /// An exception. The instruction isn't done.
    Exception(Exception),
    /// A store to a device register. It's done when the program goes on.
    Store {
        /// The guest-physical address.
        address: u64,
        /// What was stored, zero-extended.
        value: u64,
        /// Bytes.
        len: u8,
    },
    /// Memory whose page tables entry exists but that the host can't give: a file's page beyond its end.
    NoMemory {
        /// The instruction's address.
        instruction: u64,
    },
    /// The log of what it wrote is nearly full, and must be emptied before it goes on.
    LogFull,
    /// Nothing that matters to the program: a load was answered.
    Nothing,
    /// A signal or a kick. No instruction is half done.
    Interrupted,
    /// KVM can't go on.
    Failed {
        /// Why.
        failure: Failure,
        /// The instruction's address.
        instruction: u64,
    },
}

/// An exception and its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Its number.
    pub vector: u64,
    /// The error code, 0 where there is none.
    pub error: u64,
    /// The faulting address of a page fault.
    pub address: u64,
    /// The instruction's address.
    pub instruction: u64,
    /// The stack pointer.
    pub stack: u64,
    /// The flags.
    pub flags: u64,
}

/// How the host's SYSCALL behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stub {
    /// It enters CPL 0, and the stub's SYSRET returns.
    Privileged,
    /// It stays at CPL 3, and the VMM returns.
    Unprivileged,
}

/// The vCPU and the pages that it needs.
#[derive(Debug)]
pub struct Cpu {
    vcpu: Vcpu,
    system: Arc<Reservation>,
    stub: Stub,
    /// Whether the program reads the host's own time stamp counter.
    has_counter: bool,
    segments: Segments,
    ring: Option<DirtyRing>,
    features: Features,
    /// Which vector state the program may use; None where there is no XSAVE.
    components: Option<u64>,
}

/// The pages of the system span that the program may use: the syscall stubs, where it posts calls, and its
/// clock.
pub const USER_PAGES: &[(u64, Rights)] = &[
    (SYSCALL_STUB, Rights { read: true, write: false, execute: true }),
    (CALL_PAGE, Rights::DATA),
    (CLOCK_PAGE, Rights { read: true, write: false, execute: false }),
];

impl Cpu {
    /// A vCPU that will start at `entry`.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(
        kvm: &System,
        vm: &Arc<Vm>,
        system: Arc<Reservation>,
        tables: &mut PageTables,
        entry: Entry,
    ) -> Result<Self, KvmError> {
        write_stubs(&system);
        write_tables(&system);
        tables.map_device(SYSCALL_PORT, true);
        tables.map_device(EXCEPTION_PORT, false);
        let features = kvm.supported_cpuid()?;
        let mut vcpu = vm.create_vcpu(0, &features)?;
        let mut sregs = vcpu.sregs()?;
        let tables = Tables {
            page_table: tables.root(),
            interrupts: SYSTEM_VIRTUAL + INTERRUPT_DESCRIPTORS,
            descriptors: SYSTEM_VIRTUAL + DESCRIPTORS,
            task: SYSTEM_VIRTUAL + TASK_STATE,
        };
        let components = state::components(features.as_slice());
        state::enter_user(&mut sregs, &tables, components);
        vcpu.set_sregs(&sregs)?;
        if let Some(components) = components {
            vcpu.set_components(components)?;
        }
        vcpu.set_msrs(&[
            (MSR_STAR, state::STAR),
            (MSR_LSTAR, SYSTEM_VIRTUAL + SYSCALL_STUB),
            (MSR_SYSCALL_MASK, state::SYSCALL_MASK),
        ])?;
        vcpu.share_counter();
        let (stub, has_counter) = start(&mut vcpu)?;
        if stub == Stub::Unprivileged {
            vcpu.set_msrs(&[(MSR_LSTAR, SYSTEM_VIRTUAL + POSTING_STUB)])?;
        }
        let ring = vm.dirty_ring(&vcpu)?;
        let features = Features::of(features.as_slice());
        let segments = Segments::default();
        let mut cpu = Self { vcpu, system, stub, has_counter, segments, ring, features, components };
        cpu.begin(entry)?;
        Ok(cpu)
    }

    /// Has a program begin that takes the place of the one that made a system call just now.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses the state.
    pub fn begin(&mut self, entry: Entry) -> Result<(), KvmError> {
        let mut sregs = self.vcpu.sregs()?;
        state::reset_data_segments(&mut sregs);
        self.vcpu.set_sregs(&sregs)?;
        self.segments = Segments::default();
        self.vcpu.set_vectors(&state::first_vectors())?;
        // All others are zero. A program takes rdx for a function to call at its end (System V ABI, AMD64 supplement,
        // 3.4.1).
        let now = self.vcpu.regs();
        self.vcpu.set_regs(&kvm_regs {
            rip: now.rip,
            rflags: now.rflags,
            rcx: entry.instruction,
            r11: START_FLAGS,
            rsp: entry.stack,
            ..Default::default()
        });
        self.answer(0, Segments::default())
    }

    /// Runs the program until it needs something. `load` answers loads from device registers.
    ///
    /// # Errors
    /// [`KvmError`] when KVM itself fails.
    pub fn run(&mut self, load: &mut dyn FnMut(u64, &mut [u8])) -> Result<Event, KvmError> {
        Ok(match self.vcpu.run(load)? {
            Exit::Store { address: SYSCALL_PORT, .. } => self.call(Event::Call),
            Exit::Store { address: SYSCALL_GAVE_UP, .. } if self.stub == Stub::Unprivileged => {
                self.call(Event::PostedCall)
            }
            Exit::Store { address: EXCEPTION_PORT, value, .. } => {
                Event::Exception(self.exception(value & 0xff)?)
            }
            Exit::Store { address, value, len } => Event::Store { address, value, len },
            Exit::Load => Event::Nothing,
            Exit::Interrupted => Event::Interrupted,
            // The CPU forbids ports to programs; where CPL 0 is emulated, KVM may let them through.
            Exit::Port => self.forbidden(),
            Exit::RingFull => Event::LogFull,
            Exit::NoMemory => Event::NoMemory { instruction: self.vcpu.regs().rip },
            Exit::Failed(failure) => Event::Failed { failure, instruction: self.vcpu.regs().rip },
        })
    }

    /// The vCPU's dirty ring, for whoever tracks what the program writes; once, and only where there is one.
    pub fn take_ring(&mut self) -> Option<DirtyRing> {
        self.ring.take()
    }

    /// Gives the program a system call's answer. The segments' bases become `segments`.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses the new state.
    pub fn answer(&mut self, value: u64, segments: Segments) -> Result<(), KvmError> {
        let mut regs = self.vcpu.regs();
        regs.rax = value;
        if self.stub == Stub::Unprivileged {
            regs.rip = regs.rcx;
            regs.rflags = regs.r11 & USER_FLAGS | FLAG_ALWAYS;
        }
        self.vcpu.set_regs(&regs);
        if segments != self.segments {
            let mut sregs = self.vcpu.sregs()?;
            (sregs.fs.base, sregs.gs.base) = (segments.fs, segments.gs);
            self.vcpu.set_sregs(&sregs)?;
            self.segments = segments;
        }
        Ok(())
    }

    /// Lets the program try the instruction again that raised `exception`.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses the state.
    pub fn retry(&mut self, exception: &Exception) -> Result<(), KvmError> {
        let mut sregs = self.vcpu.sregs()?;
        state::return_to_user(&mut sregs);
        self.vcpu.set_sregs(&sregs)?;
        let mut regs = self.vcpu.regs();
        (regs.rip, regs.rsp) = (exception.instruction, exception.stack);
        regs.rflags = exception.flags & USER_FLAGS | FLAG_ALWAYS;
        self.vcpu.set_regs(&regs);
        Ok(())
    }

    /// Where the program posts system calls, if it does.
    #[must_use]
    pub fn call_page(&self) -> Option<CallPage> {
        // SYSRET can't be followed by anything of ours, and where it is used an exit costs no more than
        // a few microseconds.
        (self.stub == Stub::Unprivileged)
            .then(|| CallPage::new(SystemPage::new(Arc::clone(&self.system), CALL_PAGE)))
    }

    /// The program's clocks: read by itself from its counter, where that can be a clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        match self.vcpu.counter_khz() {
            Some(khz) if self.has_counter && tsc::is_clock() => {
                Clock::counting(Arc::clone(&self.system), khz)
            }
            _ => Clock::host(),
        }
    }

    fn call(&self, event: fn(u64, [u64; 6]) -> Event) -> Event {
        let regs = self.vcpu.regs();
        if WINDOW_SIZE <= regs.rcx {
            // No SYSCALL of the program leaves such a return address: it stored to the port by itself.
            return self.forbidden();
        }
        event(regs.rax, [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9])
    }

    /// What the CPU would have made of what it should have stopped.
    fn forbidden(&self) -> Event {
        let regs = self.vcpu.regs();
        Event::Exception(Exception {
            vector: GENERAL_PROTECTION,
            error: 0,
            address: 0,
            instruction: regs.rip,
            stack: regs.rsp,
            flags: regs.rflags,
        })
    }

    fn exception(&self, vector: u64) -> Result<Exception, KvmError> {
        let has_error = WITH_ERROR.contains(&vector);
        let mut at = INTERRUPT_STACK_TOP - if has_error { 48 } else { 40 };
        let mut pop = || {
            at += 8;
            self.system.word(at - 8).load(Ordering::Acquire)
        };
        let error = if has_error { pop() } else { 0 };
        let (instruction, _code_segment, flags, stack) = (pop(), pop(), pop(), pop());
        let address = if vector == PAGE_FAULT { self.vcpu.sregs()?.cr2 } else { 0 };
        Ok(Exception { vector, error, address, instruction, stack, flags })
    }
}

/// Runs the vCPU up to its first system call, which is ours, and sees at which level that arrives, and whether
/// the time stamp counter is the host's: the program's lies between two of ours.
///
/// A program's own first call can't show it: one that stores to the port by itself, or jumps to the
/// stub, is at CPL 3 everywhere. Taken for a host whose SYSCALL stays there, the next true SYSCALL
/// would leave the program at CPL 0.
fn start(vcpu: &mut Vcpu) -> Result<(Stub, bool), KvmError> {
    let rip = SYSTEM_VIRTUAL + START_STUB;
    vcpu.set_regs(&kvm_regs { rip, rflags: START_FLAGS, ..Default::default() });
    let before = tsc::read();
    loop {
        match vcpu.run(&mut |_, bytes| bytes.fill(0))? {
            Exit::Interrupted => {}
            Exit::Store { address: SYSCALL_PORT, .. } => break,
            exit => return Err(KvmError::Unfit(exit)),
        }
    }
    let after = tsc::read();
    let regs = vcpu.regs();
    let counter = regs.rdx << 32 | regs.rax & 0xffff_ffff;
    let unprivileged = vcpu.sregs()?.cs.selector & 3 == 3;
    let stub = if unprivileged { Stub::Unprivileged } else { Stub::Privileged };
    Ok((stub, before <= counter && counter <= after))
}

fn write_stubs(system: &Reservation) {
    // mov %al, SYSCALL_PORT; sysretq
    let mut stub = vec![0x88, 0x04, 0x25];
    stub.extend(low_half(SYSCALL_PORT).to_le_bytes());
    stub.extend([0x48, 0x0f, 0x07]);
    write(system, SYSCALL_STUB, &stub);
    // rdtsc; syscall
    write(system, START_STUB, &[0x0f, 0x31, 0x0f, 0x05]);
    let posting = posted::stub(SYSTEM_VIRTUAL + POSTING_STUB, SYSTEM_VIRTUAL + CALL_PAGE);
    write(system, POSTING_STUB, &posting);
    for vector in 0..=u8::MAX {
        // movb $vector, EXCEPTION_PORT; hlt
        let mut stub = vec![0xc6, 0x04, 0x25];
        stub.extend(low_half(EXCEPTION_PORT).to_le_bytes());
        stub.extend([vector, 0xf4]);
        write(system, EXCEPTION_STUBS + u64::from(vector) * STUB_SIZE, &stub);
    }
}

fn write_tables(system: &Reservation) {
    for vector in 0..256 {
        let level = if vector == BREAKPOINT { 3 } else { 0 };
        let [low, high] = interrupt_gate(SYSTEM_VIRTUAL + EXCEPTION_STUBS + vector * STUB_SIZE, level);
        set(system, INTERRUPT_DESCRIPTORS + vector * 16, low);
        set(system, INTERRUPT_DESCRIPTORS + vector * 16 + 8, high);
    }
    for (index, descriptor) in state::DESCRIPTORS.iter().enumerate() {
        set(system, DESCRIPTORS + index as u64 * 8, *descriptor);
    }
    // The stack pointers of the task state: RSP0 at 4, IST1 at 36 (AMD64 APM volume 2, figure 12-8).
    let top = (SYSTEM_VIRTUAL + INTERRUPT_STACK_TOP).to_le_bytes();
    write(system, TASK_STATE + 4, &top);
    write(system, TASK_STATE + 36, &top);
    // The map of I/O ports that CPL 3 may use begins behind the segment's end: none. At 0 it would be
    // these zeros, which allow the lowest 800 ports.
    write(system, TASK_STATE + 102, &u16::to_le_bytes(state::TASK_LIMIT + 1));
}

/// A 64-bit interrupt gate on the first interrupt stack, so that the frame is always in one place.
/// INT instructions reach it from `level` (CPL) inwards.
fn interrupt_gate(handler: u64, level: u64) -> [u64; 2] {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
    const INTERRUPT_STACK_1: u64 = 1 << 32;
    let low = handler & 0xffff | u64::from(state::SYSTEM_CODE) << 16 | (handler >> 16 & 0xffff) << 48;
    [low | PRESENT_INTERRUPT_GATE | INTERRUPT_STACK_1 | level << 45, handler >> 32]
}

fn write(system: &Reservation, offset: u64, bytes: &[u8]) {
    for (index, byte) in (offset..).zip(bytes) {
        let (word, shift) = (system.word(index & !7), index % 8 * 8);
        word.fetch_or(u64::from(*byte) << shift, Ordering::Relaxed);
    }
}

fn set(system: &Reservation, offset: u64, value: u64) {
    system.word(offset).store(value, Ordering::Relaxed);
}

fn low_half(address: u64) -> u32 {
    u32::try_from(address).expect("the ports are below 2 GiB, where a 32-bit displacement reaches")
}

const _: () = assert!(EXCEPTION_PORT < 1 << 31 && SYSCALL_PORT < 1 << 31);
