//! The serial console: a 16550 whose output goes to a writer and whose input comes from whoever has some.
//!
//! Input reaches the FIFO only while the guest listens, which is while it has the interrupt for received bytes
//! enabled. A kernel that looks for its ports empties their FIFOs, and what was typed ahead would be lost.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{Error, NoEvents, Serial};

/// The first I/O port of the first serial port of a PC.
pub const PORT: u16 = 0x3f8;
/// I/O ports of a serial port.
pub const PORTS: u16 = 8;
/// The ISA interrupt of the first serial port of a PC, edge-triggered.
pub const IRQ: u32 = 4;
/// Bytes of input that wait for the guest, besides the 64 in its FIFO. Bounds what a guest that doesn't read
/// can make us keep.
pub const MAX_WAITING: usize = 4096;

/// The register with received bytes, and the line status with the bit that says that there is one.
const DATA: u8 = 0;
const LINE_STATUS: u8 = 5;
const DATA_READY: u8 = 1;
/// The register that enables interrupts, and the bit of the one for received bytes.
const INTERRUPT_ENABLE: u8 = 1;
const RECEIVED: u8 = 1;
/// The bit of the modem control that connects the port with itself.
const LOOPBACK: u8 = 1 << 4;

/// The console. Any thread may call it.
pub struct SerialConsole {
    inner: Mutex<Inner>,
    /// Signalled when there is room for input, and at the end.
    room: Condvar,
}

struct Inner {
    uart: Serial<Line, NoEvents, Box<dyn Write + Send>>,
    waiting: VecDeque<u8>,
    listening: bool,
    closed: bool,
    output_failed: bool,
}

/// The interrupt line.
struct Line(Box<dyn Fn() + Send>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

impl SerialConsole {
    /// A console that calls `interrupt` for each edge of [`IRQ`], and writes what the guest sends to `output`.
    #[must_use]
    pub fn new(interrupt: Box<dyn Fn() + Send>, output: Box<dyn Write + Send>) -> Self {
        let inner = Inner {
            uart: Serial::new(Line(interrupt), output),
            waiting: VecDeque::new(),
            listening: false,
            closed: false,
            output_failed: false,
        };
        Self { inner: Mutex::new(inner), room: Condvar::new() }
    }

    /// Reads the register at `offset` from [`PORT`]. What isn't one byte reads as ones.
    pub fn port_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let (Ok(register @ 0..8), [byte]) = (u8::try_from(offset), data) else { return };
        let mut inner = self.lock();
        *byte = inner.uart.read(register);
        if register == DATA && inner.refill() {
            self.room.notify_all();
        }
    }

    /// Writes the register at `offset` from [`PORT`]. What isn't one byte is ignored.
    pub fn port_write(&self, offset: u16, data: &[u8]) {
        let (Ok(register @ 0..8), &[byte]) = (u8::try_from(offset), data) else { return };
        let mut inner = self.lock();
        if let Err(Error::IOError(error)) = inner.uart.write(register, byte) {
            inner.note_failure(&error);
        }
        if register == INTERRUPT_ENABLE {
            inner.note_listening();
        }
        // The guest may just have begun to listen, or left loopback mode, in which there is no input.
        if inner.refill() {
            self.room.notify_all();
        }
    }

    /// Hands input to the guest and returns how many bytes were taken: as many as fit in [`MAX_WAITING`] and, if it
    /// listens, in its FIFO. What is taken arrives, in order, as soon as the guest listens and reads.
    pub fn enqueue(&self, input: &[u8]) -> usize {
        let mut inner = self.lock();
        inner.refill();
        let mut taken = 0;
        while taken < input.len() {
            let room = MAX_WAITING.saturating_sub(inner.waiting.len());
            let now = room.min(input.len() - taken);
            if now == 0 {
                break;
            }
            inner.waiting.extend(&input[taken..taken + now]);
            taken += now;
            inner.refill();
        }
        taken
    }

    /// Waits until [`enqueue`](Self::enqueue) would take something. `false` once the console is closed.
    #[must_use]
    pub fn wait_for_room(&self) -> bool {
        let full = |inner: &mut Inner| !inner.closed && MAX_WAITING <= inner.waiting.len();
        let waited = self.room.wait_while(self.lock(), full);
        !waited.unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Ends the wait of whoever has input: nobody will read it.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Looks whether the guest listens, after it has written the register that says so. (Or the divisor, which
    /// is behind the same port at times.)
    fn note_listening(&mut self) {
        let state = self.uart.state();
        let listens = state.interrupt_enable & RECEIVED != 0;
        let stops = std::mem::replace(&mut self.listening, listens) && !listens;
        // Looking for a port, a kernel tries whether the bit can be set, and empties the FIFO later. So what it
        // didn't read comes again. In loopback mode those are the guest's own bytes, and only with such bytes
        // could it make us keep more than a full FIFO beyond the bound.
        if stops && state.modem_control & LOOPBACK == 0 && self.waiting.len() <= MAX_WAITING {
            for byte in state.in_buffer.into_iter().rev() {
                self.uart.read(DATA);
                self.waiting.push_front(byte);
            }
        }
    }

    /// Moves waiting input into the FIFO once that is empty and the guest listens; says whether something was moved.
    /// Not sooner: each move is an interrupt.
    fn refill(&mut self) -> bool {
        if !self.listening || self.waiting.is_empty() || self.uart.read(LINE_STATUS) & DATA_READY != 0 {
            return false;
        }
        let (first, _) = self.waiting.as_slices();
        let moved = self.uart.enqueue_raw_bytes(first).unwrap_or(0);
        self.waiting.drain(..moved);
        moved > 0
    }

    /// Logs the first failure: a guest that wants to fill the log can't.
    fn note_failure(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.output_failed, true) {
            tracing::warn!(%error, "the serial console's output can't be written, bytes are lost; logged once");
        }
    }
}

impl fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialConsole").field("waiting", &self.lock().waiting.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
