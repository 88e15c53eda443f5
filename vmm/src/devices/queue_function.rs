//! A PCI function for a stock virtio driver: a device with one queue, which a thread of its own serves.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::Queue;

use super::bar_window::{BarWindow, WindowFull};
use super::calling_cpu::CallingCpu;
use super::pci_bus::PciDevice;
use super::worker::{Confine, Server, Worker};
use crate::memory::ram::Ram;
use crate::virtio::config_space::Identity;
use crate::virtio::device::{ActivateError, VirtioDevice};
use crate::virtio::interrupts::{Interrupts, MsiSink};
use crate::virtio::pci::{BAR, BAR_SIZE, FunctionError, MSIX_BAR, MSIX_BAR_SIZE};
use crate::virtio::queue::RequestQueue;
use crate::virtio::{Event, PciFunction};

/// Descriptors of the queue.
pub const QUEUE_SIZE: u16 = 256;

const VIRTIO_VENDOR: u16 = 0x1af4;
/// The PCI device of virtio device type 0 (virtio 1.2, 4.1.2).
const FIRST_DEVICE: u16 = 0x1040;

/// What a device says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The name of its thread, at most 15 bytes.
    pub name: &'static str,
    /// The virtio device type (virtio 1.2, 5).
    pub device_type: u16,
    /// PCI class, subclass and programming interface, in the low 24 bits.
    pub class_code: u32,
    /// The features that it offers. Those of the queue are added.
    pub features: u64,
    /// Its configuration, which is read-only.
    pub config: Vec<u8>,
}

/// What a function needs of its machine.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// The guest's memory.
    pub ram: Arc<Ram>,
    /// Where interrupts go.
    pub interrupts: Arc<dyn MsiSink>,
    /// How the device's thread is confined.
    pub confine: Confine,
}

/// Why there is no function.
#[derive(Debug, thiserror::Error)]
pub enum QueueFunctionError {
    /// No room for its registers.
    #[error(transparent)]
    Window(#[from] WindowFull),
    /// It can't be one.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// No thread, or it can't be confined.
    #[error("no thread for a virtio device")]
    Thread(#[source] io::Error),
}

/// The function.
#[derive(Debug)]
pub struct QueueFunction {
    function: Mutex<PciFunction<QueueDevice>>,
    interrupts: Arc<Interrupts>,
}

/// The device behind the registers.
#[derive(Debug)]
struct QueueDevice {
    description: Description,
    worker: Worker,
    interrupts: Arc<Interrupts>,
}

impl QueueFunction {
    /// A function for the device of `description`, whose requests `server` serves. Its BARs come from `bars`
    /// and answer from the start.
    ///
    /// # Errors
    /// [`QueueFunctionError`].
    pub fn new(
        description: Description,
        server: Box<dyn Server>,
        wiring: Wiring,
        bars: &mut BarWindow,
    ) -> Result<Self, QueueFunctionError> {
        let identity = Identity {
            vendor: VIRTIO_VENDOR,
            device: FIRST_DEVICE + description.device_type,
            subsystem_vendor: VIRTIO_VENDOR,
            subsystem: description.device_type,
            class_code: description.class_code,
            revision: 1,
        };
        let interrupts = Arc::new(Interrupts::new(1, wiring.interrupts));
        let (ram, told) = (wiring.ram, Arc::clone(&interrupts));
        let worker = Worker::spawn(description.name, server, ram, told, wiring.confine)
            .map_err(QueueFunctionError::Thread)?;
        let device = QueueDevice { description, worker, interrupts: Arc::clone(&interrupts) };
        let (bar, msix) = (bars.take(BAR_SIZE)?, bars.take(MSIX_BAR_SIZE)?);
        let function = PciFunction::with_interrupts(device, identity, bar, msix, Arc::clone(&interrupts))?;
        Ok(Self { function: Mutex::new(function), interrupts })
    }

    fn lock(&self) -> MutexGuard<'_, PciFunction<QueueDevice>> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PciDevice for QueueFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.lock().config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut function = self.lock();
        let event = function.config_write(offset, data);
        act(&function, event);
    }

    fn bars(&self) -> Vec<(u8, Range<u64>)> {
        self.lock().bars()
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        match bar {
            BAR => self.lock().bar_read(offset, data),
            MSIX_BAR => self.interrupts.read(offset, data),
            _ => data.fill(0),
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8], _cpu: &dyn CallingCpu) {
        match bar {
            BAR => {
                let mut function = self.lock();
                let event = function.bar_write(offset, data);
                act(&function, event);
            }
            MSIX_BAR => self.interrupts.write(offset, data),
            _ => {}
        }
    }
}

/// Does what a write asks for beyond the registers. Activation and reset are done already.
fn act(function: &PciFunction<QueueDevice>, event: Event) {
    if matches!(event, Event::Notified { .. }) {
        function.device().worker.notify();
    }
}

impl VirtioDevice for QueueDevice {
    fn features(&self) -> u64 {
        self.description.features | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn activate(&mut self, features: u64, queues: Vec<Option<Queue>>) -> Result<(), ActivateError> {
        let queue = queues.into_iter().next().flatten().ok_or(ActivateError::QueueMissing(0))?;
        self.worker.start(RequestQueue::with_features(queue, features), features)
    }

    fn reset(&mut self) {
        self.worker.stop();
    }

    fn needs_reset(&self) -> bool {
        self.worker.is_broken()
    }

    fn take_interrupts(&mut self) -> u8 {
        self.interrupts.take_status()
    }

    fn config_len(&self) -> u32 {
        u32::try_from(self.description.config.len()).unwrap_or(0)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = usize::try_from(offset).ok().and_then(|offset| self.description.config.get(offset..));
        for (to, from) in data.iter_mut().zip(config.into_iter().flatten()) {
            *to = *from;
        }
    }
}

#[cfg(test)]
#[path = "queue_function_tests.rs"]
mod tests;
