//! The checkpoint device as a virtio device: moves bytes between its queue and its session.

use std::cell::Cell;
use std::fmt;

use cairn_abi::{Envelope, REPLY_SIZE, REQUEST_SIZE, Reply, Status, pci};
use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;
use virtio_queue::Queue;
use vm_memory::GuestMemory;

use super::effect::{Effect, Outcome};
use super::session::{AddressSpace, Caller, Limits, OLDEST_VERSION, Session, Step};
use crate::virtio::config_space::Identity;
use crate::virtio::device::{ActivateError, VirtioDevice, interrupt};
use crate::virtio::queue::{Posted, QueueError, RequestQueue};
use crate::virtio::transport;

/// Who the device is on PCI.
pub const IDENTITY: Identity = Identity {
    vendor: pci::VENDOR_ID,
    device: pci::DEVICE_ID,
    subsystem_vendor: pci::SUBSYSTEM_VENDOR_ID,
    subsystem: pci::SUBSYSTEM_ID,
    class_code: pci::CLASS_CODE,
    revision: pci::REVISION,
};

/// Requests that one call serves. Bounds how long a program can keep its caller busy by refilling the queue
/// from another CPU; whoever fills the queue once is served in one call.
pub const MAX_SERVED: u16 = pci::QUEUE_MAX_SIZE;

// A driver follows the capabilities, but the contract says where it will find things.
const _: () = {
    assert!(pci::BAR_SIZE as u64 == transport::BAR_LEN && pci::BAR == 0);
    assert!(pci::COMMON_CFG_OFFSET as u64 == transport::COMMON_OFFSET);
    assert!(pci::ISR_OFFSET as u64 == transport::ISR_OFFSET);
    assert!(pci::DEVICE_CFG_OFFSET as u64 == transport::DEVICE_OFFSET);
    assert!(pci::NOTIFY_OFFSET as u64 == transport::NOTIFY_OFFSET);
    assert!(pci::NOTIFY_OFF_MULTIPLIER == transport::NOTIFY_MULTIPLIER);
};

/// Makes 128 random bits for each session. Must be a cryptographic source.
pub type KeySource = Box<dyn FnMut() -> cairn_abi::SessionKey + Send>;

/// The device. One function, one session.
pub struct CheckpointDevice {
    pub(super) session: Session,
    fresh_key: KeySource,
    pub(super) queue: Option<RequestQueue>,
    /// The rings can't be used until the driver resets the device.
    pub(super) broken: bool,
    /// The queue's position at which a poll found a request that only a notification may serve.
    pub(super) left_at: Option<u16>,
    pub(super) interrupts: u8,
    dropped: FirstTime,
    broke_down: FirstTime,
    foreign: FirstTime,
}

/// What a call served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// Requests that were taken off the queue.
    pub requests: u16,
    /// What is still there.
    pub rest: Rest,
}

/// What a call leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Nothing.
    Empty,
    /// A request that waits for the program's notification.
    ForNotification,
    /// Perhaps more: [`MAX_SERVED`] is reached, or it was a long request's turn.
    Unknown,
    /// The device isn't in use, or its rings can't be.
    Unusable,
    /// The rings, which can't be reached now: a page of theirs is absent, or may not be used so.
    OutOfReach,
    /// The session is another address space's.
    Foreign,
}

/// How far a call serves what is in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// All of it.
    Whole,
    /// To the first request with an effect that [may take long](Effect::may_take_long).
    UntilLong,
}

/// What became of the front of the queue.
enum Front {
    Served,
    Empty,
    ForNotification,
}

impl CheckpointDevice {
    /// A device without a driver.
    #[must_use]
    pub fn new(limits: Limits, fresh_key: KeySource) -> Self {
        Self {
            session: Session::new(limits),
            fresh_key,
            queue: None,
            broken: false,
            left_at: None,
            interrupts: 0,
            dropped: FirstTime::default(),
            broke_down: FirstTime::default(),
            foreign: FirstTime::default(),
        }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Serves what is in the queue, at a notification by the program whose memory `memory` is and which
    /// stands still. Effects are handed to `host` in order. While a session is open, its address space alone
    /// is served: for another one not even the queue is looked at.
    pub fn serve<M: GuestMemory>(
        &mut self,
        memory: &M,
        address_space: AddressSpace,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Served {
        self.notified(memory, address_space, Turn::Whole, host)
    }

    /// As [`serve`](Self::serve), but at most one request that [may take long](Effect::may_take_long), and nothing
    /// behind it: for a guest whose kernel runs on no CPU meanwhile. The rest waits for the next notification.
    pub fn serve_until_long<M: GuestMemory>(
        &mut self,
        memory: &M,
        address_space: AddressSpace,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Served {
        self.notified(memory, address_space, Turn::UntilLong, host)
    }

    fn notified<M: GuestMemory>(
        &mut self,
        memory: &M,
        address_space: AddressSpace,
        turn: Turn,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Served {
        if self.session.address_space().is_some_and(|bound| bound != address_space) {
            // A forked child, most likely. Its copy of the queue isn't the one whose position is known here.
            if self.foreign.is_now() {
                tracing::warn!(
                    "another address space than the session's notified the checkpoint device, which ignores that; logged once"
                );
            }
            return Served { requests: 0, rest: Rest::Foreign };
        }
        self.left_at = None;
        self.drain(memory, Caller { address_space, notified: true }, turn, host)
    }

    /// Serves what is in the queue while the program runs: only what doesn't need it to stand still.
    pub fn poll<M: GuestMemory>(
        &mut self,
        memory: &M,
        address_space: AddressSpace,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Served {
        if let Some(queue) = self.queue.as_ref().filter(|_| !self.broken) {
            if self.left_at == Some(queue.position()) {
                return Served { requests: 0, rest: Rest::ForNotification };
            }
            if let Ok(false) = queue.is_pending(memory) {
                return Served { requests: 0, rest: Rest::Empty };
            }
        }
        self.drain(memory, Caller { address_space, notified: false }, Turn::Whole, host)
    }

    /// Tells the driver whether somebody polls. Returns whether a request is there that may have come without
    /// a notification.
    pub fn announce_polling<M: GuestMemory>(&mut self, memory: &M, polling: bool) -> bool {
        let Some(queue) = self.queue.as_mut().filter(|_| !self.broken) else { return false };
        let announced = if polling {
            queue.suppress_notifications(memory).map(|()| false)
        } else {
            queue.resume_notifications(memory)
        };
        // A ring that can't be reached holds nothing that could be served.
        announced.unwrap_or(false)
    }

    /// Takes note that a region ended without a request: its memory is gone.
    pub fn forget_region(&mut self, region: cairn_abi::RegionId) {
        self.session.forget_region(region);
    }

    /// Has the engine drop what a session left that ended by a device reset. The next request would do the
    /// same first.
    pub fn settle(&mut self, host: &mut impl FnMut(Effect) -> Outcome) {
        if let Some(pending) = self.session.owed() {
            let outcome = host(pending.effect());
            // Nobody waits for this reply; a drop that failed stays owed.
            let _ = self.session.complete(pending, outcome);
        }
    }

    fn drain<M: GuestMemory>(
        &mut self,
        memory: &M,
        caller: Caller,
        turn: Turn,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Served {
        let Some(mut queue) = self.queue.take() else {
            return Served { requests: 0, rest: Rest::Unusable };
        };
        let served = self.drain_queue(&mut queue, memory, caller, turn, host);
        self.queue = Some(queue);
        served
    }

    fn drain_queue<M: GuestMemory>(
        &mut self,
        queue: &mut RequestQueue,
        memory: &M,
        caller: Caller,
        turn: Turn,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Served {
        let mut requests = 0;
        if !self.broken && !queue.is_reachable(memory) {
            return Served { requests, rest: Rest::OutOfReach };
        }
        let is_over = Cell::new(false);
        let mut host = |effect: Effect| {
            is_over.set(is_over.get() || turn == Turn::UntilLong && effect.may_take_long());
            host(effect)
        };
        while requests < MAX_SERVED && !self.broken && !is_over.get() {
            match self.serve_front(queue, memory, caller, &mut host) {
                Ok(Front::Served) => requests += 1,
                Ok(Front::Empty) => return Served { requests, rest: Rest::Empty },
                Ok(Front::ForNotification) => {
                    self.left_at = Some(queue.position());
                    return Served { requests, rest: Rest::ForNotification };
                }
                Err(error) => self.break_down(&error),
            }
        }
        Served { requests, rest: if self.broken { Rest::Unusable } else { Rest::Unknown } }
    }

    fn serve_front<M: GuestMemory>(
        &mut self,
        queue: &mut RequestQueue,
        memory: &M,
        caller: Caller,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Result<Front, QueueError> {
        let mut request = [0; REQUEST_SIZE];
        let Some(posted) = queue.front(memory, &mut request)? else { return Ok(Front::Empty) };
        // Before anything is done: a program that can't be answered must not change anything either.
        if !posted.reply.holds(memory, REPLY_SIZE) {
            self.note_dropped("a request came without room for its reply");
            queue.finish(memory, posted, 0)?;
            return Ok(Front::Served);
        }
        let Some(reply) = self.answer(memory, &posted, &request, caller, host) else {
            return Ok(Front::ForNotification);
        };
        let mut bytes = [0; REPLY_SIZE];
        reply.encode(&mut bytes);
        let written = posted.reply.write(memory, &bytes).unwrap_or_else(|| {
            self.note_dropped("the room for a reply vanished while its request was served");
            0
        });
        self.interrupts |= interrupt::QUEUE;
        queue.finish(memory, posted, written)?;
        Ok(Front::Served)
    }

    /// The reply to a request, or `None` if it has to wait for a notification.
    fn answer<M: GuestMemory>(
        &mut self,
        memory: &M,
        posted: &Posted,
        request: &[u8; REQUEST_SIZE],
        caller: Caller,
        host: &mut impl FnMut(Effect) -> Outcome,
    ) -> Option<Reply> {
        let envelope = match posted.request {
            Ok(len) => Envelope::decode(&request[..len]),
            Err(error) => {
                tracing::debug!(%error, "a request's chain is broken");
                return Some(Reply::refusal(Status::Malformed, 0));
            }
        };
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                tracing::debug!(%error, "a request doesn't decode");
                return Some(Reply::refusal(error.status(), 0));
            }
        };
        let mut step = self.session.accept(caller, &envelope, &mut *self.fresh_key);
        loop {
            match step {
                Step::Reply(reply) => return Some(reply),
                Step::Leave => return None,
                Step::ReadHints(hinted) => {
                    let session = &self.session;
                    let read = hinted.table().read(memory, |hint| {
                        // One that's about nothing asks for nothing.
                        if let Some(effect) = session.hint(hint) {
                            host(effect);
                        }
                    });
                    step = self.session.hinted(hinted, read);
                }
                Step::Act(pending) => {
                    let outcome = host(pending.effect());
                    step = self.session.complete(pending, outcome);
                }
            }
        }
    }

    /// From here on only a reset helps.
    fn break_down(&mut self, error: &QueueError) {
        if self.broke_down.is_now() {
            tracing::warn!(%error, "the checkpoint device stops until its driver resets it; logged once");
        }
        self.broken = true;
        self.interrupts |= interrupt::CONFIG;
    }

    fn note_dropped(&mut self, what: &str) {
        if self.dropped.is_now() {
            tracing::warn!("{what}: it stays unanswered; logged once");
        }
    }
}

impl VirtioDevice for CheckpointDevice {
    fn features(&self) -> u64 {
        1 << VIRTIO_F_ACCESS_PLATFORM
    }

    fn queue_sizes(&self) -> &[u16] {
        &[pci::QUEUE_MAX_SIZE; pci::QUEUE_COUNT as usize]
    }

    fn activate(&mut self, _features: u64, queues: Vec<Option<Queue>>) -> Result<(), ActivateError> {
        let requests = queues.into_iter().nth(usize::from(pci::REQUEST_QUEUE)).flatten();
        let requests = requests.ok_or(ActivateError::QueueMissing(pci::REQUEST_QUEUE))?;
        self.queue = Some(RequestQueue::new(requests));
        Ok(())
    }

    fn reset(&mut self) {
        self.session.end();
        self.queue = None;
        self.broken = false;
        self.left_at = None;
        self.interrupts = 0;
    }

    fn needs_reset(&self) -> bool {
        self.broken
    }

    fn take_interrupts(&mut self) -> u8 {
        std::mem::take(&mut self.interrupts)
    }

    fn config_len(&self) -> u32 {
        pci::DEVICE_CFG_SIZE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let fields = [
            (pci::CFG_PROTOCOL_VERSION, cairn_abi::PROTOCOL_VERSION),
            (pci::CFG_OLDEST_VERSION, OLDEST_VERSION),
        ];
        for (field, value) in fields {
            for (place, byte) in (u64::from(field)..).zip(value.to_le_bytes()) {
                let at = place.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
                if let Some(to) = at.and_then(|at| data.get_mut(at)) {
                    *to = byte;
                }
            }
        }
    }
}

impl fmt::Debug for CheckpointDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointDevice")
            .field("session", &self.session)
            .field("queue", &self.queue)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// Tells the first time from the others, so that a guest can't fill the log.
#[derive(Debug, Default)]
struct FirstTime {
    over: bool,
}

impl FirstTime {
    fn is_now(&mut self) -> bool {
        !std::mem::replace(&mut self.over, true)
    }
}
