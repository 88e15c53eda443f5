//! How a device calls its driver: the ISR status, and messages by the vectors that the driver chose.
//!
//! Registers and device share it. It has a lock of its own, so that a device's thread can interrupt while a
//! vCPU holds the function's registers and waits for that thread.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::interrupt;
use super::msix::{Message, Msix};

/// What the vector registers hold when there is no vector: VIRTIO_MSI_NO_VECTOR.
pub const NO_VECTOR: u16 = 0xffff;

/// Delivers message signalled interrupts to the guest's CPUs.
pub trait MsiSink: Send + Sync + Debug {
    /// Stores `data` to `address`, an address that the guest chose. It is called from any thread, must not
    /// block and must not call the device.
    fn send(&self, address: u64, data: u32);
}

/// The interrupts of one device. There is no INTx: a driver without MSI-X has to poll the ISR status.
#[derive(Debug)]
pub struct Interrupts {
    status: AtomicU8,
    routes: Mutex<Routes>,
    sink: Arc<dyn MsiSink>,
}

/// Which event goes by which vector, and what that sends.
#[derive(Debug)]
struct Routes {
    msix: Msix,
    config: u16,
    queues: Vec<u16>,
}

impl Interrupts {
    /// The interrupts of a device with `queues` queues: a vector for each, and one for its configuration.
    #[must_use]
    pub fn new(queues: u16, sink: Arc<dyn MsiSink>) -> Self {
        let routes = Routes {
            msix: Msix::new(queues.saturating_add(1)),
            config: NO_VECTOR,
            queues: vec![NO_VECTOR; usize::from(queues)],
        };
        Self { status: AtomicU8::new(0), routes: Mutex::new(routes), sink }
    }

    /// Tells the driver that buffers of `queue` were used.
    pub fn queue_used(&self, queue: u16) {
        self.status.fetch_or(interrupt::QUEUE, Ordering::Relaxed);
        let mut routes = self.routes();
        let vector = routes.queues.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR);
        let message = routes.msix.raise(vector);
        self.send(message);
    }

    /// Tells the driver that the device's configuration or status changed.
    pub fn config_changed(&self) {
        self.status.fetch_or(interrupt::CONFIG, Ordering::Relaxed);
        let mut routes = self.routes();
        let vector = routes.config;
        let message = routes.msix.raise(vector);
        self.send(message);
    }

    /// The ISR status, which reading clears: bits of [`interrupt`].
    #[must_use]
    pub fn take_status(&self) -> u8 {
        self.status.swap(0, Ordering::Relaxed)
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.routes().msix.vectors()
    }

    /// The vector of [`config_changed`](Self::config_changed).
    #[must_use]
    pub fn config_vector(&self) -> u16 {
        self.routes().config
    }

    /// Sets it. One that isn't there means none, which the driver sees when it reads back (virtio 1.2,
    /// 4.1.5.1.2).
    pub fn set_config_vector(&self, vector: u16) {
        let mut routes = self.routes();
        routes.config = routes.existing(vector);
    }

    /// The vector of [`queue_used`](Self::queue_used).
    #[must_use]
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.routes().queues.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    /// Sets it, as [`set_config_vector`](Self::set_config_vector) does.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        let mut routes = self.routes();
        let vector = routes.existing(vector);
        if let Some(route) = routes.queues.get_mut(usize::from(queue)) {
            *route = vector;
        }
    }

    /// Forgets the vectors and the status, as a reset of the device does. The registers of MSI-X are the
    /// function's and stay.
    pub fn forget_vectors(&self) {
        let mut routes = self.routes();
        routes.config = NO_VECTOR;
        routes.queues.fill(NO_VECTOR);
        self.status.store(0, Ordering::Relaxed);
    }

    /// Sets MSI-X's message control.
    pub fn set_control(&self, control: u16) {
        let mut routes = self.routes();
        let messages = routes.msix.set_control(control);
        self.send(messages);
    }

    /// Reads the registers of MSI-X.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.routes().msix.read(offset, data);
    }

    /// Writes the registers of MSI-X.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut routes = self.routes();
        let messages = routes.msix.write(offset, data);
        self.send(messages);
    }

    /// Sends what the registers say. The caller still holds them: once a guest's write that masks a vector is
    /// done, nothing comes by it.
    fn send(&self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.sink.send(message.address, message.data);
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }
}
