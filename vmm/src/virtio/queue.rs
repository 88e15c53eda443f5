//! A queue of requests: a chain holds a request to read and room for its reply, and is used up in order.
//!
//! There are two ways through it. [`RequestQueue::front`] and [`finish`](RequestQueue::finish) leave a request
//! in the queue until it's answered; [`take`](RequestQueue::take) and [`give_back`](RequestQueue::give_back)
//! are for devices that move data.
//!
//! The addresses of rings and buffers are whatever the handed-in [`GuestMemory`] makes of them. All methods
//! take it anew, because a program's memory can be another one at each notification.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use super::buffers::Buffers;
use super::chain::{ChainError, ReplySpace, Table};

/// Bytes of flags and index, before the entries of both rings (virtio 1.2, 2.7.6 and 2.7.8).
const RING_HEADER: usize = 4;
/// Bytes of an entry of the available ring, of the used ring, and of a descriptor.
const AVAILABLE_ENTRY_LEN: usize = 2;
const USED_ENTRY_LEN: usize = 8;
const DESCRIPTOR_LEN: usize = 16;

/// A split queue whose chains are requests.
#[derive(Debug)]
pub struct RequestQueue {
    queue: Queue,
    /// The driver may use indirect tables.
    indirect: bool,
}

/// A chain that was taken off the queue, for [`RequestQueue::give_back`].
#[derive(Debug)]
pub struct Taken {
    head: u16,
    /// Its buffers, or what is wrong with it.
    pub buffers: Result<Buffers, ChainError>,
}

/// The request at the front of the queue.
#[derive(Debug)]
pub struct Posted {
    head: u16,
    /// Bytes of the request that were copied, or what is wrong with its chain.
    pub request: Result<usize, ChainError>,
    /// Where the reply goes. With a broken chain: what was found of it.
    pub reply: ReplySpace,
}

/// The rings are beyond use: the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A ring isn't memory, or isn't memory that may be used so.
    #[error("a ring of the queue can't be accessed")]
    Memory(#[source] virtio_queue::Error),
    /// The driver claims to have made more available than there are descriptors.
    #[error("the driver made {ahead} chains available in a queue of {size}")]
    TooFarAhead {
        /// Chains between the device's position and the driver's.
        ahead: u16,
        /// Descriptors of the queue.
        size: u16,
    },
    /// The driver made a descriptor available that isn't in the table.
    #[error("the driver made descriptor {head} available in a queue of {size}")]
    Head {
        /// The descriptor.
        head: u16,
        /// Descriptors of the queue.
        size: u16,
    },
}

impl RequestQueue {
    /// Takes over a queue that a driver set up.
    #[must_use]
    pub fn new(queue: Queue) -> Self {
        Self { queue, indirect: false }
    }

    /// Takes over a queue that a driver set up, with those of the agreed `features` that concern the queue.
    #[must_use]
    pub fn with_features(mut queue: Queue, features: u64) -> Self {
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        Self { queue, indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0 }
    }

    /// Whether all of the rings is memory that may be used as they are: in a program's address space a page can
    /// be absent for a while.
    #[must_use]
    pub fn is_reachable<M: GuestMemory>(&self, memory: &M) -> bool {
        let size = usize::from(self.queue.size());
        let rings = [
            (self.queue.desc_table(), DESCRIPTOR_LEN * size, Permissions::Read),
            (self.queue.avail_ring(), RING_HEADER + AVAILABLE_ENTRY_LEN * size, Permissions::Read),
            (self.queue.used_ring(), RING_HEADER + USED_ENTRY_LEN * size, Permissions::ReadWrite),
        ];
        rings.into_iter().all(|(address, len, access)| memory.check_range(GuestAddress(address), len, access))
    }

    /// Whether a request is there: one load, cheap enough to be polled.
    ///
    /// # Errors
    /// [`QueueError::Memory`] if the available ring isn't memory.
    pub fn is_pending<M: GuestMemory>(&self, memory: &M) -> Result<bool, QueueError> {
        Ok(self.available(memory)? != self.position())
    }

    /// How many requests were used up, modulo 65536: changes when the front does.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Goes on where a queue with the same rings was whose requests were all finished, so many of them.
    pub fn go_on_at(&mut self, position: u16) {
        self.queue.set_next_avail(position);
        self.queue.set_next_used(position);
    }

    /// Reads the request at the front into `buffer`, whose length bounds it, and leaves it there: it's gone
    /// only with [`finish`](Self::finish). `None` if the queue is empty.
    ///
    /// # Errors
    /// [`QueueError`]; what is wrong with one request alone is in [`Posted::request`].
    pub fn front<M: GuestMemory>(&self, memory: &M, buffer: &mut [u8]) -> Result<Option<Posted>, QueueError> {
        let Some(head) = self.front_head(memory)? else { return Ok(None) };
        let mut reply = ReplySpace::default();
        let request = self.table().walk(memory, head, buffer, &mut reply);
        Ok(Some(Posted { head, request, reply }))
    }

    /// Takes `posted` off the front and gives its chain back with `written` bytes in it.
    ///
    /// # Errors
    /// [`QueueError::Memory`] if the used ring isn't memory that may be written.
    #[expect(clippy::needless_pass_by_value, reason = "a request is finished once")]
    pub fn finish<M: GuestMemory>(
        &mut self,
        memory: &M,
        posted: Posted,
        written: u32,
    ) -> Result<(), QueueError> {
        self.pass_front();
        self.queue.add_used(memory, posted.head, written).map_err(QueueError::Memory)
    }

    /// Takes the chain at the front off the queue. `None` if the queue is empty.
    ///
    /// # Errors
    /// [`QueueError`]; what is wrong with one chain alone is in [`Taken::buffers`].
    pub fn take<M: GuestMemory>(&mut self, memory: &M) -> Result<Option<Taken>, QueueError> {
        let Some(head) = self.front_head(memory)? else { return Ok(None) };
        let buffers = self.table().buffers(memory, head, self.indirect);
        self.pass_front();
        Ok(Some(Taken { head, buffers }))
    }

    /// Gives a chain back to the driver with `written` bytes in it, and says whether the driver wants to be
    /// interrupted for it.
    ///
    /// # Errors
    /// [`QueueError::Memory`] if a ring isn't memory that may be used so.
    #[expect(clippy::needless_pass_by_value, reason = "a chain is given back once")]
    pub fn give_back<M: GuestMemory>(
        &mut self,
        memory: &M,
        taken: Taken,
        written: u32,
    ) -> Result<bool, QueueError> {
        self.queue.add_used(memory, taken.head, written).map_err(QueueError::Memory)?;
        self.queue.needs_notification(memory).map_err(QueueError::Memory)
    }

    /// Tells the driver not to notify, because somebody polls (VIRTQ_USED_F_NO_NOTIFY, 2.7.10).
    ///
    /// # Errors
    /// [`QueueError::Memory`] if the used ring isn't memory that may be written.
    pub fn suppress_notifications<M: GuestMemory>(&mut self, memory: &M) -> Result<(), QueueError> {
        self.queue.disable_notification(memory).map_err(QueueError::Memory)
    }

    /// Tells the driver to notify again. Returns whether a request slipped in before it could know.
    ///
    /// # Errors
    /// [`QueueError::Memory`] if a ring isn't memory that may be used so.
    pub fn resume_notifications<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, QueueError> {
        self.queue.enable_notification(memory).map_err(QueueError::Memory)
    }

    /// The driver's position. What it wrote before moving it is visible afterwards.
    fn available<M: GuestMemory>(&self, memory: &M) -> Result<u16, QueueError> {
        let position = self.queue.avail_idx(memory, Ordering::Acquire).map_err(QueueError::Memory)?;
        Ok(position.0)
    }

    fn table(&self) -> Table {
        Table { address: GuestAddress(self.queue.desc_table()), size: self.queue.size() }
    }

    fn pass_front(&mut self) {
        self.queue.set_next_avail(self.position().wrapping_add(1));
    }

    /// The head of the chain at the front, a descriptor of the table; `None` if the queue is empty.
    fn front_head<M: GuestMemory>(&self, memory: &M) -> Result<Option<u16>, QueueError> {
        let ahead = (Wrapping(self.available(memory)?) - Wrapping(self.position())).0;
        let size = self.queue.size();
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > size {
            return Err(QueueError::TooFarAhead { ahead, size });
        }
        let head = self.head(memory)?;
        if head < size { Ok(Some(head)) } else { Err(QueueError::Head { head, size }) }
    }

    /// What the driver says is the head of the chain at the front.
    fn head<M: GuestMemory>(&self, memory: &M) -> Result<u16, QueueError> {
        let entry = usize::from(self.position() % self.queue.size());
        let address = GuestAddress(self.queue.avail_ring())
            .checked_add((RING_HEADER + entry * AVAILABLE_ENTRY_LEN) as u64)
            .ok_or(QueueError::Memory(virtio_queue::Error::AddressOverflow))?;
        memory
            .load(address, Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|error| QueueError::Memory(virtio_queue::Error::GuestMemory(error)))
    }
}
