//! The loop of the thread that runs the vCPU: an event, what it means, and on.

use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::devices::bus::Bus;
use crate::guest::app::cpu::{Cpu, Event, Exception, PAGE_FAULT};
use crate::guest::app::syscalls::{Flow, is_interrupted};
use crate::kvm::vcpu::Failure;
use crate::machine::app::RunError;
use crate::machine::calls::{Served, SharedCalls, raw};
use crate::machine::end::{End, Ended, Fault};
use crate::machine::unit::{SharedUnit, Unit, UnitRegisters};
use crate::machine::whole::Door;
use crate::memory::rights::Rights;

/// Bits of a page fault's error code (Intel SDM volume 3, 4.7).
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_FETCH: u64 = 1 << 4;
/// The bytes of SYSENTER.
const SYSENTER: [u8; 2] = [0x0f, 0x34];

/// The last fault that the page tables don't explain, so that it's retried once and not forever.
#[derive(Debug, Default)]
struct Retries {
    /// Instruction, address, and how often mappings had changed: by the next change the CPU can get another
    /// narrower translation of the same place.
    last: Option<(u64, u64, u64)>,
}

impl Retries {
    /// Whether the fault isn't the one that was retried last.
    fn is_new(&mut self, instruction: u64, address: u64, changes: u64) -> bool {
        let fault = Some((instruction, address, changes));
        std::mem::replace(&mut self.last, fault) != fault
    }
}

/// A program on its vCPU.
#[derive(Debug)]
pub struct RunLoop {
    cpu: Cpu,
    calls: Arc<SharedCalls>,
    bus: Bus<UnitRegisters>,
    unit: Arc<SharedUnit>,
    /// Where whole checkpoints are taken.
    door: Option<Arc<Door>>,
    retries: Retries,
}

impl RunLoop {
    /// A program that is about to start.
    #[must_use]
    pub fn new(cpu: Cpu, calls: Arc<SharedCalls>, bus: Bus<UnitRegisters>, unit: Arc<SharedUnit>) -> Self {
        Self { cpu, calls, bus, unit, door: None, retries: Retries::default() }
    }

    /// Stops at this door when somebody asks. That it has ended is for its [`Exit`](crate::machine::whole::Exit) to say.
    #[must_use]
    pub(crate) fn with_door(mut self, door: Option<Arc<Door>>) -> Self {
        self.door = door;
        self
    }

    /// Runs the program to its end; None if its thread was let out at the door before.
    ///
    /// # Errors
    /// [`RunError::Kvm`] and [`RunError::Stuck`] when KVM can't go on.
    pub fn run(mut self) -> Result<Option<Ended>, RunError> {
        if let Some(door) = &self.door {
            door.enter();
        }
        loop {
            let event = self.cpu.run(&mut |address, data| self.bus.read(address, data))?;
            self.calls.count();
            if let (Event::Interrupted, Some(door)) = (&event, &self.door)
                && !door.pass(&self.cpu)?
            {
                return Ok(None);
            }
            if let Some(end) = self.handle(event)? {
                let refused = self.calls.with(|process| std::mem::take(&mut process.refused));
                return Ok(Some(Ended { end, refused }));
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<Option<End>, RunError> {
        match event {
            Event::Call(number, args) => self.call(number, &args, false),
            Event::PostedCall(number, args) => self.call(number, &args, true),
            Event::Store { address, value, len } => {
                let bytes = value.to_le_bytes();
                self.bus.write(address, &bytes[..usize::from(len).min(bytes.len())]);
                Ok(None)
            }
            Event::Exception(exception) => self.exception(&exception),
            Event::NoMemory { instruction } => Ok(Some(self.no_memory(instruction))),
            Event::LogFull => {
                tracing::debug!("the vCPU stopped because its log is full");
                self.unit.with(Unit::empty_log)?;
                Ok(None)
            }
            Event::Nothing | Event::Interrupted => Ok(None),
            Event::Failed { failure: Failure::Emulation, instruction } if self.is_sysenter(instruction) => {
                let what = "executed an invalid instruction".to_owned();
                let instruction = (instruction, self.mapped(instruction));
                Ok(Some(End::Faulted(Fault { signal: Signal::SIGILL, what, instruction, address: None })))
            }
            Event::Failed { failure, instruction } => Err(RunError::Stuck { instruction, failure }),
        }
    }

    fn call(&mut self, number: u64, args: &[u64; 6], posted: bool) -> Result<Option<End>, RunError> {
        let Served { flow, segments } = self.calls.serve_exit(number, args, posted);
        if is_interrupted(flow) {
            self.cpu.make_again(number, segments)?;
            return Ok(None);
        }
        match flow {
            Flow::Answer(answer) => self.cpu.answer(raw(answer), segments)?,
            Flow::Began(entry) => self.cpu.begin(entry)?,
            Flow::Exit(status) => return Ok(Some(End::Exited(status))),
            Flow::Killed(signal) => return Ok(Some(End::Killed(signal))),
        }
        Ok(None)
    }

    fn exception(&mut self, exception: &Exception) -> Result<Option<End>, RunError> {
        if exception.vector == PAGE_FAULT && self.is_spurious(exception) {
            self.cpu.retry(exception)?;
            return Ok(None);
        }
        let (signal, what) = meaning(exception);
        let address =
            (exception.vector == PAGE_FAULT).then(|| (exception.address, self.mapped(exception.address)));
        let instruction = (exception.instruction, self.mapped(exception.instruction));
        Ok(Some(End::Faulted(Fault { signal, what: what.to_owned(), instruction, address })))
    }

    /// Whether the mapping allows what faulted: the CPU went by an older, narrower translation. Should another
    /// try not help, the fault is real.
    fn is_spurious(&mut self, exception: &Exception) -> bool {
        let needed = Rights {
            read: true,
            write: exception.error & FAULT_WRITE != 0,
            execute: exception.error & FAULT_FETCH != 0,
        };
        let (allowed, changes) = self.calls.with(|process| {
            let mapping = process.space.mapping(exception.address);
            let allowed = mapping.is_some_and(|(_, mapping)| mapping.rights.includes(needed));
            (allowed, process.space.changes())
        });
        allowed && self.retries.is_new(exception.instruction, exception.address, changes)
    }

    /// Whether the program tried SYSENTER, which is none in 64-bit mode on AMD's CPUs. KVM wants to emulate it
    /// there, as a program may have come from another CPU, and can't.
    fn is_sysenter(&self, instruction: u64) -> bool {
        let mut bytes = [0; SYSENTER.len()];
        let read = self.calls.with(|process| process.memory().read_bytes(instruction, &mut bytes));
        read.is_ok() && bytes == SYSENTER
    }

    /// Mapped, but without memory behind: Linux sends SIGBUS for a file's page beyond its end.
    fn no_memory(&self, instruction: u64) -> End {
        let what = "touched a mapping that has no memory behind it (a file that became shorter?)".to_owned();
        let instruction = (instruction, self.mapped(instruction));
        End::Faulted(Fault { signal: Signal::SIGBUS, what, instruction, address: None })
    }

    fn mapped(&self, address: u64) -> String {
        self.calls.with(|process| match process.space.mapping(address) {
            Some((range, mapping)) => format!("{:#x}..{:#x} {mapping}", range.start, range.end),
            None => "nothing is mapped there".to_owned(),
        })
    }
}

/// The signal that Linux sends for an exception, and what the program did (signal(7); Linux
/// arch/x86/kernel/traps.c).
fn meaning(exception: &Exception) -> (Signal, &'static str) {
    match exception.vector {
        0 => (Signal::SIGFPE, "divided by zero"),
        1 => (Signal::SIGTRAP, "single-stepped"),
        3 => (Signal::SIGTRAP, "hit a breakpoint"),
        4 => (Signal::SIGSEGV, "trapped an overflow"),
        5 => (Signal::SIGSEGV, "exceeded a bound"),
        6 => (Signal::SIGILL, "executed an invalid instruction"),
        16 | 19 => (Signal::SIGFPE, "raised a floating-point exception"),
        17 => (Signal::SIGBUS, "made an unaligned access"),
        PAGE_FAULT if exception.error & FAULT_FETCH != 0 => {
            (Signal::SIGSEGV, "jumped to memory that it can't execute")
        }
        PAGE_FAULT if exception.error & FAULT_WRITE != 0 => {
            (Signal::SIGSEGV, "wrote to memory that it can't write")
        }
        PAGE_FAULT => (Signal::SIGSEGV, "read memory that it can't read"),
        _ => (Signal::SIGSEGV, "broke a protection of the CPU"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_retried_once_as_long_as_no_mapping_changes() {
        let mut retries = Retries::default();
        assert!(retries.is_new(0x1000, 0x2000, 7));
        assert!(!retries.is_new(0x1000, 0x2000, 7));
        assert!(retries.is_new(0x1000, 0x2000, 8), "a mapping has changed since");
        assert!(!retries.is_new(0x1000, 0x2000, 8));
        assert!(retries.is_new(0x1000, 0x3000, 8), "another address");
        assert!(retries.is_new(0x1008, 0x3000, 8), "another instruction");
        assert!(retries.is_new(0x1000, 0x2000, 8), "there was another fault between");
    }
}
