//! Measures what things cost on this host's KVM, with a guest of a few instructions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::app::cpu::{Cpu, Event};
use crate::guest::app::mapping::Place;
use crate::guest::app::posted::CallPage;
use crate::guest::app::process::Segments;
use crate::guest::app::space::AddressSpace;
use crate::kvm::slots::SlotMap;
use crate::kvm::system::{KvmError, System};
use crate::machine::bare::{Bare, BareError};
use crate::memory::layout::{LOWEST, PAGE, PCI_REGISTERS, to_usize};
use crate::memory::rights::Rights;

/// Exits that are timed.
const EXITS: u32 = 200;
/// Rounds of as many system calls that are answered without an exit; the quickest counts, as any other may have
/// lost its core.
const POSTED_ROUNDS: u32 = 20;
/// Pages of the memory whose faults are timed.
const PAGES: u64 = 2048;
/// Bytes of memory that the measuring guest may have: what it touches is a fraction of it.
const MEMORY: u64 = 1 << 30;
/// Where the instructions are.
const CODE: u64 = LOWEST;

/// What was measured: medians or means over many, in nanoseconds each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// A store to a device register, out to the VMM and back.
    pub exit_ns: u64,
    /// A system call of the program, answered at once.
    pub call_ns: u64,
    /// The same, posted to a thread that looks for it. None where calls can't be posted, or no core is spare.
    pub posted_call_ns: Option<u64>,
    /// Whether programs read the clock without an exit.
    pub counts: bool,
    /// The first touch of a page, in memory that the host backs with large pages where it can.
    pub first_touch_ns: u64,
    /// The first write to a page after the dirty log protected it.
    pub fault_ns: u64,
    /// Reading the dirty log of 8 MiB.
    pub log_ns: u64,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host refused memory.
    #[error("the host refused memory for the measuring guest")]
    Memory(#[source] std::io::Error),
    /// The guest could not be set up.
    #[error("the measuring guest could not be set up: {0}")]
    Setup(String),
    /// The guest did something that its few instructions can't do.
    #[error("the measuring guest went astray: {0}")]
    Astray(String),
}

impl From<BareError> for ProbeError {
    fn from(error: BareError) -> Self {
        match error {
            BareError::Kvm(error) => Self::Kvm(error),
            BareError::Memory(_, source) => Self::Memory(source),
        }
    }
}

/// Measures; takes well under a second.
///
/// # Errors
/// [`ProbeError`].
pub fn measure() -> Result<Costs, ProbeError> {
    let mut guest = Guest::build()?;
    let exit_ns = guest.mean_of(EXITS, |event| matches!(event, Event::Store { .. }))?;
    let call_ns = guest.mean_of(EXITS, |event| matches!(event, Event::Call(..)))?;
    let posted_call_ns = guest.posted_calls()?;
    let counts = guest.cpu.clock().is_counting();
    let first_touch_ns = guest.pass()? / PAGES;
    let slots = Arc::clone(&guest.slots);
    let data = guest.data.clone();
    let setup = |error: &dyn std::error::Error| ProbeError::Setup(error.to_string());
    let slots = || slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    slots().isolate(&data).map_err(|error| setup(&error))?;
    guest.pass()?;
    slots().start_log(&data).map_err(|error| setup(&error))?;
    let mut bitmap = vec![u64::MAX; to_usize(PAGES / 64)];
    slots().clear_dirty_log(&data, 0, &bitmap).map_err(|error| setup(&error))?;
    let fault_ns = guest.pass()? / PAGES;
    let start = Instant::now();
    slots().dirty_log(&data, &mut bitmap).map_err(|error| setup(&error))?;
    let log_ns = nanoseconds(start.elapsed());
    Ok(Costs { exit_ns, call_ns, posted_call_ns, counts, first_touch_ns, fault_ns, log_ns })
}

struct Guest {
    cpu: Cpu,
    slots: Arc<Mutex<SlotMap>>,
    data: std::ops::Range<u64>,
    _space: AddressSpace,
}

impl Guest {
    fn build() -> Result<Self, ProbeError> {
        let kvm = System::open()?;
        let Bare { vm, slots, system, mut space, .. } = Bare::build(&kvm, MEMORY)?;
        let setup = |error: &dyn std::error::Error| ProbeError::Setup(error.to_string());
        let code = Rights { read: true, write: true, execute: true };
        space.map_anonymous(Place::Exactly(CODE..CODE + PAGE), code).map_err(|error| setup(&error))?;
        let data = space
            .map_anonymous(Place::Anywhere(PAGES * PAGE), Rights::DATA)
            .map_err(|error| setup(&error))?;
        space
            .map_device(PCI_REGISTERS.start..PCI_REGISTERS.start + PAGE, Rights::DATA)
            .map_err(|error| setup(&error))?;
        space.memory().write_bytes(CODE, &program(&data)).map_err(|error| setup(&error))?;
        let cpu = Cpu::new(&kvm, &vm, system, space.tables_mut(), CODE, CODE + PAGE)?;
        Ok(Self { cpu, slots, data, _space: space })
    }

    /// The mean time between `count` events that must all be `expected`.
    fn mean_of(&mut self, count: u32, expected: fn(&Event) -> bool) -> Result<u64, ProbeError> {
        self.next(expected)?;
        let start = Instant::now();
        for _ in 1..count {
            self.next(expected)?;
        }
        Ok(nanoseconds(start.elapsed()) / u64::from(count - 1))
    }

    /// The time of a system call that another thread answers.
    fn posted_calls(&mut self) -> Result<Option<u64>, ProbeError> {
        let spare = thread::available_parallelism().is_ok_and(|cores| 1 < cores.get());
        let Some(page) = self.cpu.call_page().filter(|_| spare) else {
            for _ in 0..POSTED_ROUNDS {
                self.calls_to_store(None)?;
            }
            return Ok(None);
        };
        let (stop, answering) = (AtomicBool::new(false), page.clone());
        page.offer(true);
        let quickest = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match answering.take() {
                        Some(_) => answering.answer(0),
                        None => std::hint::spin_loop(),
                    }
                }
            });
            let rounds: Result<Vec<u64>, ProbeError> =
                (0..POSTED_ROUNDS).map(|_| self.calls_to_store(Some(&page))).collect();
            stop.store(true, Ordering::Relaxed);
            rounds.map(|rounds| rounds.into_iter().min())
        });
        page.offer(false);
        Ok(quickest?.map(|nanoseconds| nanoseconds / u64::from(EXITS)))
    }

    /// The time up to the next store, with system calls before it. Those that are exits after all are answered.
    fn calls_to_store(&mut self, page: Option<&CallPage>) -> Result<u64, ProbeError> {
        let start = Instant::now();
        loop {
            let event = self.cpu.run(&mut |_, bytes| bytes.fill(0))?;
            match event {
                Event::Call(..) => self.cpu.answer(0, Segments::default())?,
                Event::PostedCall(..) => {
                    let _ = page.map(CallPage::withdraw);
                    self.cpu.answer(0, Segments::default())?;
                }
                Event::Store { .. } => return Ok(nanoseconds(start.elapsed())),
                other => return Err(ProbeError::Astray(format!("{other:?}"))),
            }
        }
    }

    /// The time of one pass over the data.
    fn pass(&mut self) -> Result<u64, ProbeError> {
        let start = Instant::now();
        self.next(|event| matches!(event, Event::Call(..)))?;
        Ok(nanoseconds(start.elapsed()))
    }

    fn next(&mut self, expected: fn(&Event) -> bool) -> Result<(), ProbeError> {
        let event = self.cpu.run(&mut |_, bytes| bytes.fill(0))?;
        if !expected(&event) {
            return Err(ProbeError::Astray(format!("{event:?}")));
        }
        if let Event::Call(..) = event {
            self.cpu.answer(0, Segments::default())?;
        }
        Ok(())
    }
}

/// [`EXITS`] stores to a device register, as many system calls, [`POSTED_ROUNDS`] times as many again with a store
/// behind each round, then passes that write a byte to each
/// page of `data` and make a system call, for ever.
fn program(data: &std::ops::Range<u64>) -> Vec<u8> {
    let register = u32::try_from(PCI_REGISTERS.start).unwrap_or(0).to_le_bytes();
    let mut code = vec![0xbb]; // mov $EXITS, %ebx
    code.extend(EXITS.to_le_bytes());
    code.extend([0x88, 0x04, 0x25]); // store: mov %al, register
    code.extend(register);
    code.extend([0xff, 0xcb, 0x75, 0xf5]); // dec %ebx; jnz store
    code.push(0xbb); // mov $EXITS, %ebx
    code.extend(EXITS.to_le_bytes());
    code.extend([0x0f, 0x05, 0xff, 0xcb, 0x75, 0xfa]); // call: syscall; dec %ebx; jnz call
    for _ in 0..POSTED_ROUNDS {
        code.push(0xbb); // mov $EXITS, %ebx
        code.extend(EXITS.to_le_bytes());
        code.extend([0x0f, 0x05, 0xff, 0xcb, 0x75, 0xfa]); // call: syscall; dec %ebx; jnz call
        code.extend([0x88, 0x04, 0x25]); // mov %al, register
        code.extend(register);
    }
    let pass = code.len();
    code.extend([0x48, 0xbf]); // pass: mov $start, %rdi
    code.extend(data.start.to_le_bytes());
    code.extend([0x48, 0xbe]); // mov $end, %rsi
    code.extend(data.end.to_le_bytes());
    code.extend([0xc6, 0x07, 0x01]); // page: movb $1, (%rdi)
    code.extend([0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]); // add $4096, %rdi
    code.extend([0x48, 0x39, 0xf7, 0x72, 0xf1]); // cmp %rsi, %rdi; jb page
    code.extend([0x0f, 0x05]); // syscall
    let back = -i8::try_from(code.len() + 2 - pass).unwrap_or(0);
    code.extend([0xeb, back.cast_unsigned()]); // jmp pass
    code
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
