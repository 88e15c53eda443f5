//! A checkpoint device for tests: registers with behaviour, and a doorbell that runs what a test wants.

pub(crate) mod config;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_abi::{Envelope, REPLY_SIZE, REQUEST_SIZE, Reply};

use crate::capabilities::Layout;
use crate::registers::{Registers, common, status};
use crate::ring::{HEAD, QUEUE_SIZE, Ring};
use crate::start::StartError;
use crate::transport::{Patience, Transport};

/// What a doorbell does.
pub(crate) type Handler = Box<dyn FnMut(&Ring, &mut State) + Send>;

/// A device and the ring that its driver will use.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) ring: Arc<Ring>,
    state: Arc<Mutex<State>>,
    handler: Arc<Mutex<Handler>>,
}

/// Registers and knobs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) status: u8,
    pub(crate) offered: u64,
    pub(crate) accepted: u64,
    /// Newest and oldest protocol version.
    pub(crate) versions: [u32; 2],
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
    pub(crate) queue_enable: u16,
    pub(crate) notify_offset: u16,
    pub(crate) addresses: [u64; 3],
    pub(crate) doorbells: u32,
    /// Bits that can't be set in the status.
    pub(crate) stuck_clear: u8,
    /// Bits that can't be cleared in the status.
    pub(crate) stuck_set: u8,
    device_select: u32,
    driver_select: u32,
    /// Every status written, in order.
    pub(crate) history: Vec<u8>,
}

/// Limits that a test reaches at once where it wants to.
pub(crate) const PATIENCE: Patience = Patience { polling: 100, notified: 10, yielding: 100, between: 50 };

impl Fake {
    /// A device whose doorbell runs `handler`.
    pub(crate) fn new(handler: impl FnMut(&Ring, &mut State) + Send + 'static) -> Self {
        let state = State {
            status: 0,
            offered: 1 << 32,
            accepted: 0,
            versions: [1, 1],
            queues: 1,
            queue_size: 64,
            queue_enable: 0,
            notify_offset: 0,
            addresses: [0; 3],
            doorbells: 0,
            stuck_clear: 0,
            stuck_set: 0,
            device_select: 0,
            driver_select: 0,
            history: Vec::new(),
        };
        Self {
            ring: Arc::new(Ring::new().expect("a page for the ring")),
            state: Arc::new(Mutex::new(state)),
            handler: Arc::new(Mutex::new(Box::new(handler))),
        }
    }

    /// A device that answers each request at its doorbell.
    pub(crate) fn answering(mut answer: impl FnMut(Envelope) -> Reply + Send + 'static) -> Self {
        Self::new(move |ring, _| serve(ring, &mut answer))
    }

    /// The registers and knobs.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }

    /// Brings the device up.
    pub(crate) fn start(&self, patience: Patience) -> Result<Transport, StartError> {
        Transport::bring_up(Box::new(self.clone()), &Layout::FIXED, self.ring.clone(), patience, None)
    }
}

/// Serves the request that is in the ring, if there is one that wasn't served.
pub(crate) fn serve(ring: &Ring, answer: &mut impl FnMut(Envelope) -> Reply) {
    let page = ring.page();
    let (available, used) =
        (page.available.index.load(Ordering::Acquire), page.used.index.load(Ordering::Relaxed));
    if available == used {
        return;
    }
    let mut request = [0; REQUEST_SIZE];
    for (bytes, word) in request.as_chunks_mut::<8>().0.iter_mut().zip(&page.request.0) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
    let reply = answer(Envelope::decode(&request).expect("a request that decodes"));
    let mut bytes = [0; REPLY_SIZE];
    reply.encode(&mut bytes);
    put_reply(ring, &bytes);
    put_used(ring, u32::from(HEAD), 272, 1);
}

/// Writes the reply buffer.
pub(crate) fn put_reply(ring: &Ring, reply: &[u8; REPLY_SIZE]) {
    for (bytes, word) in reply.as_chunks::<8>().0.iter().zip(&ring.page().reply.0) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
}

/// Puts an element into the used ring, and moves its index by `step`.
pub(crate) fn put_used(ring: &Ring, id: u32, len: u32, step: u16) {
    let used = &ring.page().used;
    let index = used.index.load(Ordering::Relaxed);
    let element = &used.ring[usize::from(index % QUEUE_SIZE)];
    element.id.store(id, Ordering::Relaxed);
    element.len.store(len, Ordering::Relaxed);
    used.index.store(index.wrapping_add(step), Ordering::Release);
}

/// Says that the device polls, or not.
pub(crate) fn set_polling(ring: &Ring, polling: bool) {
    ring.page().used.flags.store(polling.into(), Ordering::Release);
}

impl State {
    fn write_status(&mut self, value: u8) {
        self.history.push(value);
        if value == 0 {
            self.queue_enable = 0;
        }
        self.status = value & !self.stuck_clear | self.stuck_set;
    }
}

/// The half of `whole` that a select register names; others read as zero.
fn half(whole: u64, select: u32) -> u32 {
    match select {
        0 => u32::try_from(whole & 0xffff_ffff).expect("half of it"),
        1 => u32::try_from(whole >> 32).expect("half of it"),
        _ => 0,
    }
}

const DEVICE_CFG: usize = cairn_abi::pci::DEVICE_CFG_OFFSET as usize;
const DEVICE_CFG_OLDEST: usize = DEVICE_CFG + 4;
const QUEUE_END: usize = common::QUEUE_DEVICE + 8;
const NOTIFY: usize = cairn_abi::pci::NOTIFY_OFFSET as usize;

impl Registers for Fake {
    fn read_u8(&self, offset: usize) -> u8 {
        match offset {
            common::DEVICE_STATUS => self.state().status,
            _ => panic!("8-bit read of {offset:#x}"),
        }
    }

    fn read_u16(&self, offset: usize) -> u16 {
        let state = self.state();
        match offset {
            common::NUM_QUEUES => state.queues,
            common::QUEUE_SIZE => state.queue_size,
            common::QUEUE_ENABLE => state.queue_enable,
            common::QUEUE_NOTIFY_OFF => state.notify_offset,
            _ => panic!("16-bit read of {offset:#x}"),
        }
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let state = self.state();
        match offset {
            common::DEVICE_FEATURE => half(state.offered, state.device_select),
            DEVICE_CFG => state.versions[0],
            DEVICE_CFG_OLDEST => state.versions[1],
            _ => panic!("32-bit read of {offset:#x}"),
        }
    }

    fn write_u8(&self, offset: usize, value: u8) {
        match offset {
            common::DEVICE_STATUS => self.state().write_status(value),
            _ => panic!("8-bit write of {offset:#x}"),
        }
    }

    fn write_u16(&self, offset: usize, value: u16) {
        let mut state = self.state();
        match offset {
            common::QUEUE_SELECT => assert_eq!(value, 0),
            common::QUEUE_SIZE => state.queue_size = value,
            common::QUEUE_ENABLE => state.queue_enable = value,
            NOTIFY => {
                assert_eq!(value, 0, "the index of the queue");
                assert_ne!(state.status & status::DRIVER_OK, 0, "no request before DRIVER_OK");
                state.doorbells += 1;
                (self.handler.lock().expect("no handler panicked"))(&self.ring, &mut state);
            }
            _ => panic!("16-bit write of {offset:#x}"),
        }
    }

    fn write_u32(&self, offset: usize, value: u32) {
        let mut state = self.state();
        let value = u64::from(value);
        match offset {
            common::DEVICE_FEATURE_SELECT => state.device_select = u32::try_from(value).expect("was one"),
            common::DRIVER_FEATURE_SELECT => state.driver_select = u32::try_from(value).expect("was one"),
            common::DRIVER_FEATURE => state.accepted |= value << (32 * state.driver_select),
            common::QUEUE_DESC..QUEUE_END => {
                let field = offset - common::QUEUE_DESC;
                let shift = if field.is_multiple_of(8) { 0 } else { 32 };
                state.addresses[field / 8] |= value << shift;
            }
            _ => panic!("32-bit write of {offset:#x}"),
        }
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").field("state", &self.state).finish_non_exhaustive()
    }
}
