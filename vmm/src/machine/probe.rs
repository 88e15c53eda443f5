//! Measures what things cost on this host's KVM, with a guest of a few instructions.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::app::cpu::{Cpu, Event};
use crate::guest::app::mapping::Place;
use crate::guest::app::posted::CallPage;
use crate::guest::app::process::Segments;
use crate::guest::app::program::Entry;
use crate::guest::app::space::AddressSpace;
use crate::kvm::dirty_ring::DirtyRing;
use crate::kvm::slots::{SlotError, SlotMap};
use crate::kvm::system::{KvmError, System};
use crate::kvm::vm::WriteLog;
use crate::machine::bare::{Bare, BareError};
use crate::machine::host_costs::TrackerFigures;
use crate::memory::layout::{LOWEST, PAGE, PCI_REGISTERS};
use crate::memory::rights::Rights;

/// Exits that are timed, after one that isn't.
const EXITS: u32 = 64;
/// Exits that are timed together; the quickest of these groups counts, as any other may have lost its core.
const GROUP: u32 = 7;
/// Rounds of as many system calls that are answered without an exit; the quickest counts, as any other may have
/// lost its core.
const POSTED_ROUNDS: u32 = 20;
/// Pages of the memory whose faults are timed.
const PAGES: u64 = 512;
/// Times that the log is measured; the quickest counts.
const ROUNDS: u32 = 3;
// Every event of the program that isn't the first belongs to a group.
const _: () = assert!((EXITS - 1).is_multiple_of(GROUP));
/// Words of their bitmap.
const BITMAP_WORDS: usize = 8;
/// Bytes of memory that the measuring guest may have: what it touches is a fraction of it.
const MEMORY: u64 = 1 << 30;
/// Where the instructions are.
const CODE: u64 = LOWEST;

/// What was measured, in nanoseconds each: the best of several tries, so that other programs don't show.
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

/// Measures a machine whose writes are told by `log`; takes a few tens of milliseconds.
///
/// # Errors
/// [`ProbeError`].
pub fn measure(kvm: &System, log: WriteLog) -> Result<Costs, ProbeError> {
    let mut guest = Guest::build(kvm, log, POSTED_ROUNDS)?;
    let exit_ns = guest.time_of(|event| matches!(event, Event::Store { .. }))?;
    let call_ns = guest.time_of(|event| matches!(event, Event::Call(..)))?;
    let posted_call_ns = guest.posted_calls()?;
    let counts = guest.cpu.clock().is_counting();
    let first_touch_ns = guest.pass()? / PAGES;
    Ok(Costs { exit_ns, call_ns, posted_call_ns, counts, first_touch_ns })
}

/// Measures what decides about trackers, an exit and the log; takes some milliseconds on a quiet host.
///
/// # Errors
/// [`ProbeError`].
pub fn measure_log(kvm: &System, log: WriteLog) -> Result<(u64, TrackerFigures), ProbeError> {
    let mut guest = Guest::build(kvm, log, 0)?;
    let exit_ns = guest.time_of(|event| matches!(event, Event::Store { .. }))?;
    guest.time_of(|event| matches!(event, Event::Call(..)))?;
    guest.pass()?;
    Ok((exit_ns, guest.measure_log()?))
}

struct Guest {
    cpu: Cpu,
    slots: Arc<Mutex<SlotMap>>,
    data: Range<u64>,
    ring: Option<DirtyRing>,
    bitmap: [u64; BITMAP_WORDS],
    _space: AddressSpace,
}

impl Guest {
    fn build(kvm: &System, log: WriteLog, posted_rounds: u32) -> Result<Self, ProbeError> {
        let Bare { vm, slots, system, mut space, .. } = Bare::build(kvm, MEMORY, log)?;
        let setup = |error: &dyn std::error::Error| ProbeError::Setup(error.to_string());
        let code = Rights { read: true, write: true, execute: true };
        space.map_anonymous(Place::Exactly(CODE..CODE + PAGE), code).map_err(|error| setup(&error))?;
        let data = space
            .map_anonymous(Place::Anywhere(PAGES * PAGE), Rights::DATA)
            .map_err(|error| setup(&error))?;
        space
            .map_device(PCI_REGISTERS.start..PCI_REGISTERS.start + PAGE, Rights::DATA)
            .map_err(|error| setup(&error))?;
        space.memory().write_bytes(CODE, &program(&data, posted_rounds)).map_err(|error| setup(&error))?;
        let mut cpu =
            Cpu::new(kvm, &vm, system, space.tables_mut(), Entry { instruction: CODE, stack: CODE + PAGE })?;
        let ring = cpu.take_ring();
        Ok(Self { cpu, slots, data, ring, bitmap: [0; BITMAP_WORDS], _space: space })
    }

    /// What the log of the data costs, whose pages were touched.
    fn measure_log(&mut self) -> Result<TrackerFigures, ProbeError> {
        self.locked(|slots, data| slots.isolate(data))?;
        self.pass()?;
        self.locked(|slots, data| slots.start_log(data))?;
        let mut least = [u64::MAX; 4];
        for _ in 0..ROUNDS {
            // What a log that has just started still splits must not count.
            self.pass()?;
            self.collect()?;
            let protect = timed(|| self.protect(u64::MAX))? / PAGES;
            let fault = self.pass()? / PAGES;
            self.collect()?;
            // A bitmap costs the same again, and a ring what it costs where nothing was written.
            let collect = timed(|| self.collect())?;
            if self.ring.is_some() {
                // A reset of few pages is one of none, and little more.
                self.protect(u64::MAX)?;
            }
            let call = timed(|| self.protect(1))?;
            for (least, now) in least.iter_mut().zip([fault, protect, call, collect]) {
                *least = now.min(*least);
            }
        }
        let [fault_ns, protect_ns, protect_call_ns, collect_ns] =
            least.map(|nanoseconds| u32::try_from(nanoseconds).unwrap_or(u32::MAX).max(1));
        Ok(TrackerFigures { fault_ns, protect_ns, protect_call_ns, collect_ns })
    }

    /// Asks which pages were written.
    fn collect(&mut self) -> Result<(), ProbeError> {
        if let Some(ring) = &mut self.ring {
            ring.take().for_each(drop);
            return Ok(());
        }
        let mut bitmap = self.bitmap;
        self.locked(|slots, data| slots.dirty_log(data, &mut bitmap))?;
        self.bitmap = bitmap;
        Ok(())
    }

    /// Protects the pages of `mask` in each 64; a ring all.
    fn protect(&mut self, mask: u64) -> Result<(), ProbeError> {
        if let Some(ring) = &mut self.ring {
            return Ok(ring.reset()?);
        }
        let words = if mask == u64::MAX { BITMAP_WORDS } else { 1 };
        self.locked(|slots, data| slots.clear_dirty_log(data, 0, &[mask; BITMAP_WORDS][..words]))
    }

    fn locked<R>(
        &self,
        use_it: impl FnOnce(&mut SlotMap, &Range<u64>) -> Result<R, SlotError>,
    ) -> Result<R, ProbeError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(&mut slots, &self.data).map_err(|error| ProbeError::Setup(error.to_string()))
    }

    /// The time between two of [`EXITS`] events that must all be `expected`: the least mean of a [`GROUP`].
    fn time_of(&mut self, expected: fn(&Event) -> bool) -> Result<u64, ProbeError> {
        self.next(expected)?;
        let mut least = u64::MAX;
        for _ in 0..(EXITS - 1) / GROUP {
            let group = timed(|| (0..GROUP).try_for_each(|_| self.next(expected)))?;
            least = least.min(group / u64::from(GROUP));
        }
        Ok(least)
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

/// [`EXITS`] stores to a device register, as many system calls, `posted_rounds` times as many again with a store
/// behind each round, then passes that write a byte to each
/// page of `data` and make a system call, for ever.
fn program(data: &Range<u64>, posted_rounds: u32) -> Vec<u8> {
    let register = u32::try_from(PCI_REGISTERS.start).unwrap_or(0).to_le_bytes();
    let mut code = vec![0xbb]; // mov $EXITS, %ebx
    code.extend(EXITS.to_le_bytes());
    code.extend([0x88, 0x04, 0x25]); // store: mov %al, register
    code.extend(register);
    code.extend([0xff, 0xcb, 0x75, 0xf5]); // dec %ebx; jnz store
    code.push(0xbb); // mov $EXITS, %ebx
    code.extend(EXITS.to_le_bytes());
    code.extend([0x0f, 0x05, 0xff, 0xcb, 0x75, 0xfa]); // call: syscall; dec %ebx; jnz call
    for _ in 0..posted_rounds {
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

fn timed(work: impl FnOnce() -> Result<(), ProbeError>) -> Result<u64, ProbeError> {
    let start = Instant::now();
    work()?;
    Ok(nanoseconds(start.elapsed()))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
