//! For tests: a driver that brings a function up over its registers, as a stock one does, and posts chains.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::bar_window::BarWindow;
use super::calling_cpu::{CallingCpu, PauseFigures, Paused};
use super::pci_bus::PciDevice;
use super::queue_function::{QUEUE_SIZE, QueueFunction, Wiring};
use crate::memory::marks::FrameMarks;
use crate::memory::ram::{MIN_BYTES, Ram};
use crate::memory::walk::Paging;
use crate::virtio::interrupts::MsiSink;

/// Where the rings are.
pub(super) const RINGS: u64 = 0x10_0000;
const AVAILABLE: u64 = RINGS + 0x1000;
const USED: u64 = RINGS + 0x2000;
/// Memory for the test's buffers, up to [`MIN_BYTES`].
pub(super) const DATA: u64 = 0x20_0000;
/// The notify register.
pub(super) const NOTIFY: u64 = 0x3000;

/// Vector 0 is for the configuration, vector 1 for the queue.
pub(super) const CONFIG_MESSAGE: (u64, u32) = (0xfee0_0000, 0x30);
pub(super) const QUEUE_MESSAGE: (u64, u32) = (0xfee0_1000, 0x31);

const STATUS: u64 = 20;
const VERSION_1: u64 = 1 << 32;

#[derive(Debug)]
pub(super) struct Cpu;

impl CallingCpu for Cpu {
    fn paging(&self) -> Option<Paging> {
        None
    }

    fn pauses(&self) -> PauseFigures {
        PauseFigures::default()
    }

    fn pause_others(&self) -> Box<dyn Paused + '_> {
        Box::new(Alone)
    }
}

#[derive(Debug)]
struct Alone;

impl Paused for Alone {}

/// Interrupts that arrived.
#[derive(Debug, Default)]
pub(super) struct Messages {
    arrived: Mutex<Vec<(u64, u32)>>,
    changed: Condvar,
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.arrived.lock().unwrap().push((address, data));
        self.changed.notify_all();
    }
}

impl Messages {
    pub(super) fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }

    /// Waits until `enough` says so; it's asked again after each interrupt.
    pub(super) fn wait_until(&self, mut enough: impl FnMut(&[(u64, u32)]) -> bool) {
        let arrived = self.arrived.lock().unwrap();
        drop(self.changed.wait_while(arrived, |arrived| !enough(arrived)).unwrap());
    }
}

/// The driver, and the machine around its function.
pub(super) struct Driver {
    pub(super) device: Arc<QueueFunction>,
    pub(super) ram: Arc<Ram>,
    pub(super) messages: Arc<Messages>,
    posted: u16,
    next_descriptor: u16,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Read(u64, u32),
    Write(u64, u32),
}

impl Driver {
    pub(super) fn new(make: impl FnOnce(Wiring, &mut BarWindow) -> QueueFunction) -> Self {
        let (ram, messages) = (Arc::new(Ram::new(MIN_BYTES).unwrap()), Arc::new(Messages::default()));
        let interrupts = Arc::clone(&messages) as Arc<dyn MsiSink>;
        let wiring = Wiring { ram: Arc::clone(&ram), interrupts, confine: || Ok(()) };
        let device = Arc::new(make(wiring, &mut BarWindow::new(0xe000_0000..0xe010_0000)));
        Self { device, ram, messages, posted: 0, next_descriptor: 0 }
    }

    /// From reset to DRIVER_OK, with interrupts.
    pub(super) fn bring_up(&mut self, features: u64) {
        self.write(STATUS, &[0]);
        (self.posted, self.next_descriptor) = (0, 0);
        self.memory().write_slice(&[0; 0x4000], GuestAddress(RINGS)).unwrap();
        self.set_up_msix();
        self.write(STATUS, &[1]);
        self.write(STATUS, &[3]);
        let features = features | VERSION_1;
        for (select, half) in [(0_u32, features), (1, features >> 32)] {
            self.write(8, &select.to_le_bytes());
            self.write(12, &half.to_le_bytes()[..4]);
        }
        self.write(STATUS, &[11]);
        assert_eq!(self.status(), 11, "the device agrees to the features");
        self.write(16, &[0, 0]);
        self.write(22, &[0, 0]);
        self.write(26, &[1, 0]);
        for (register, address) in [(32, RINGS), (40, AVAILABLE), (48, USED)] {
            self.write(register, &address.to_le_bytes());
        }
        self.write(28, &[1, 0]);
        self.write(STATUS, &[15]);
    }

    /// Enables MSI-X and gives both vectors a message.
    fn set_up_msix(&self) {
        for (vector, (address, data)) in (0..).zip([CONFIG_MESSAGE, QUEUE_MESSAGE]) {
            let entry = vector * 16;
            self.device.bar_write(1, entry, &address.to_le_bytes(), &Cpu);
            self.device.bar_write(1, entry + 8, &data.to_le_bytes(), &Cpu);
            self.device.bar_write(1, entry + 12, &[0; 4], &Cpu);
        }
        self.set_control(0x8000);
    }

    /// Sets message control, and memory decode, which a test may have turned off.
    pub(super) fn set_control(&self, control: u16) {
        self.device.config_write(4, &[6, 0]);
        let at = self.msix_capability();
        self.device.config_write(at + 2, &control.to_le_bytes());
    }

    /// Where the MSI-X capability is.
    pub(super) fn msix_capability(&self) -> u16 {
        let byte = |offset: u16| {
            let mut data = [0];
            self.device.config_read(offset, &mut data);
            u16::from(data[0])
        };
        let mut at = byte(0x34);
        while byte(at) != 0x11 {
            at = byte(at + 1);
            assert_ne!(at, 0, "there is an MSI-X capability");
        }
        at
    }

    pub(super) fn memory(&self) -> &GuestMemoryMmap<FrameMarks> {
        self.ram.memory()
    }

    /// Moves the driver's position in the available ring.
    pub(super) fn set_available(&self, position: u16) {
        self.memory().store(position, GuestAddress(AVAILABLE + 2), Ordering::Release).unwrap();
    }

    /// The device's position in the used ring.
    pub(super) fn used(&self) -> u16 {
        self.memory().load(GuestAddress(USED + 2), Ordering::Acquire).unwrap()
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        self.device.bar_write(0, offset, data, &Cpu);
    }

    pub(super) fn status(&self) -> u8 {
        let mut data = [0];
        self.device.bar_read(0, STATUS, &mut data);
        data[0]
    }

    /// Makes a chain available, without a notification.
    pub(super) fn post(&mut self, parts: &[Part]) {
        let head = self.next_descriptor;
        let index = |at: usize| (head + u16::try_from(at).unwrap()) % QUEUE_SIZE;
        for (at, part) in parts.iter().enumerate() {
            let next = if at + 1 < parts.len() { 1 } else { 0 };
            let (address, len, flags) = match *part {
                Part::Read(address, len) => (address, len, next),
                Part::Write(address, len) => (address, len, next | 2),
            };
            let descriptor = Descriptor::new(address, len, flags, index(at + 1));
            let place = GuestAddress(RINGS + u64::from(index(at)) * 16);
            self.memory().write_obj(descriptor, place).unwrap();
        }
        let entry = AVAILABLE + 4 + u64::from(self.posted % QUEUE_SIZE) * 2;
        self.memory().write_obj(head, GuestAddress(entry)).unwrap();
        self.next_descriptor = index(parts.len());
        self.posted += 1;
        self.set_available(self.posted);
    }

    pub(super) fn notify(&self) {
        self.write(NOTIFY, &[0, 0]);
    }

    /// Waits until all that was posted is used, and returns the bytes written to the last.
    pub(super) fn wait(&self) -> u32 {
        self.messages.wait_until(|_| self.used() == self.posted);
        let last = USED + 4 + u64::from(self.posted.wrapping_sub(1) % QUEUE_SIZE) * 8;
        self.memory().read_obj(GuestAddress(last + 4)).unwrap()
    }

    /// Posts a chain and waits until it's used; returns the bytes written to it.
    pub(super) fn serve(&mut self, parts: &[Part]) -> u32 {
        self.post(parts);
        self.notify();
        self.wait()
    }
}
