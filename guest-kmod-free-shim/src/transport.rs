//! One request to the device, and its reply.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use cairn_abi::{DecodeError, Envelope, REPLY_SIZE, REQUEST_SIZE, Reply, Request, pci};
use thiserror::Error;

use crate::capabilities::Layout;
use crate::claim::Claim;
use crate::find::Function;
use crate::registers::{Registers, common, status};
use crate::ring::{HEAD, Ring};
use crate::start::{StartError, Starting};

/// How long the driver waits before it does something else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Looks at the used ring, with a PAUSE after each, before a polling device is notified anyway.
    pub(crate) polling: u32,
    /// Such looks after a notification, when the reply should be there already.
    pub(crate) notified: u32,
    /// Looks after these, with a `sched_yield` after each, before the device counts as dead.
    pub(crate) yielding: u32,
    /// Of these, looks from one further notification to the next.
    pub(crate) between: u32,
}

impl Patience {
    /// A PAUSE takes 40 to 140 cycles since Skylake: 30 to 100 us of polling, a few times what an exit costs
    /// on the slowest host that was measured. Yields: seconds, for a device whose host is busy.
    pub(crate) const DEFAULT: Self =
        Self { polling: 3000, notified: 200, yielding: 1_000_000, between: 1000 };
}

/// Why a request has no reply. None of these can be mended but by starting the device again.
#[derive(Debug, Error)]
pub enum CallError {
    /// The caller isn't who opened the device.
    #[error("the session belongs to the process that opened it, not to its forked child: open one here")]
    ForkedChild,
    /// An earlier request failed in the transport.
    #[error("the checkpoint device failed before and isn't used any more: open a new session")]
    Broken,
    /// The device gave up.
    #[error("the checkpoint device needs a reset (status {status:#x}): it found the request queue unusable")]
    NeedsReset {
        /// Its status.
        status: u8,
    },
    /// Nothing came.
    #[error("the checkpoint device doesn't answer: the hypervisor may be stuck or gone")]
    NoAnswer,
    /// The used ring's index is neither before nor behind the request.
    #[error("the checkpoint device's used index is {index} where {want} is due")]
    UsedIndex {
        /// What it reads.
        index: u16,
        /// What it should be.
        want: u16,
    },
    /// The device answers a request that wasn't made.
    #[error("the checkpoint device answers descriptor {0}, which no request starts with")]
    UsedId(u32),
    /// The device wrote no whole reply.
    #[error("the checkpoint device wrote {0} bytes of a reply of {REPLY_SIZE}")]
    ReplyLen(u32),
    /// The reply isn't one.
    #[error("the checkpoint device's reply makes no sense")]
    Reply(#[source] DecodeError),
}

/// A device that is up: requests go in, replies come out, one at a time.
#[derive(Debug)]
pub struct Transport {
    registers: Box<dyn Registers>,
    /// Where the device's status is in the BAR.
    device_status: usize,
    /// Where the request queue's notification address is in the BAR.
    doorbell: usize,
    ring: Arc<Ring>,
    /// The used index before the next request.
    answered: u16,
    patience: Patience,
    broken: bool,
    /// Last: the function is free when its BAR is no longer mapped. None in tests.
    _claim: Option<Claim>,
}

impl Transport {
    /// Brings up a claimed function.
    pub(crate) fn start(function: Function) -> Result<Self, StartError> {
        let ring = Arc::new(Ring::new().map_err(StartError::Memory)?);
        let Function { bar, layout, claim } = function;
        Self::bring_up(Box::new(bar), &layout, ring, Patience::DEFAULT, Some(claim))
    }

    /// Brings up the device behind `registers`.
    pub(crate) fn bring_up(
        registers: Box<dyn Registers>,
        layout: &Layout,
        ring: Arc<Ring>,
        patience: Patience,
        claim: Option<Claim>,
    ) -> Result<Self, StartError> {
        let doorbell = Starting::new(registers.as_ref(), layout).bring_up(&ring)?;
        let device_status = layout.common.offset as usize + common::DEVICE_STATUS;
        Ok(Self {
            registers,
            device_status,
            doorbell,
            ring,
            answered: 0,
            patience,
            broken: false,
            _claim: claim,
        })
    }

    /// Makes a request and waits for its reply, whatever its status.
    ///
    /// # Errors
    /// [`CallError`]. After one, but for [`CallError::ForkedChild`], every call fails: a late reply could be
    /// taken for that of another request.
    pub fn call(&mut self, envelope: &Envelope) -> Result<Reply, CallError> {
        if self.ring.is_inherited() {
            return Err(CallError::ForkedChild);
        }
        if self.broken {
            return Err(CallError::Broken);
        }
        let reply = self.exchange(envelope);
        if reply.is_err() {
            self.broken = true;
            // Bits of the status are added only (virtio 1.2, 2.1.1).
            let now = self.registers.read_u8(self.device_status);
            self.registers.write_u8(self.device_status, now | status::FAILED);
        }
        reply
    }

    fn exchange(&mut self, envelope: &Envelope) -> Result<Reply, CallError> {
        let mut request = [0; REQUEST_SIZE];
        envelope.encode(&mut request);
        let want = self.answered.wrapping_add(1);
        self.ring.publish(&request);
        let at_once = at_notification_only(&envelope.request);
        if at_once || !self.poll(want)? {
            self.notify();
            self.wait(want)?;
        }
        self.answered = want;
        self.take_reply(want.wrapping_sub(1))
    }

    /// Waits for a polling device, for a bounded time and while it polls. Says whether it answered.
    fn poll(&self, want: u16) -> Result<bool, CallError> {
        for _ in 0..self.patience.polling {
            if self.is_answered(want)? {
                return Ok(true);
            }
            if !self.ring.device_polls() {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        self.is_answered(want)
    }

    /// The store that the device serves requests in.
    fn notify(&self) {
        // The compiler may not move accesses of the ring over the store; the CPU doesn't, as registers aren't
        // cached.
        fence(Ordering::SeqCst);
        self.registers.write_u16(self.doorbell, pci::REQUEST_QUEUE);
        fence(Ordering::SeqCst);
    }

    /// Waits after a notification. The first look is all that a synchronous device needs, if it could reach
    /// the ring. It couldn't if the guest's kernel was just moving that page: then it's notified again.
    fn wait(&self, want: u16) -> Result<(), CallError> {
        for look in 0..self.patience.notified.saturating_add(self.patience.yielding) {
            if self.is_answered(want)? {
                return Ok(());
            }
            match look.checked_sub(self.patience.notified) {
                None => std::hint::spin_loop(),
                // Not each time: both are exits.
                Some(yielded) if yielded.is_multiple_of(self.patience.between) => {
                    self.check_status()?;
                    self.ring.touch();
                    self.notify();
                }
                Some(_) => std::thread::yield_now(),
            }
        }
        self.check_status()?;
        Err(CallError::NoAnswer)
    }

    fn is_answered(&self, want: u16) -> Result<bool, CallError> {
        match self.ring.used_index() {
            index if index == want => Ok(true),
            index if index == self.answered => Ok(false),
            index => Err(CallError::UsedIndex { index, want }),
        }
    }

    fn check_status(&self) -> Result<(), CallError> {
        match self.registers.read_u8(self.device_status) {
            status if status & status::DEVICE_NEEDS_RESET != 0 => Err(CallError::NeedsReset { status }),
            _ => Ok(()),
        }
    }

    fn take_reply(&self, index: u16) -> Result<Reply, CallError> {
        let (id, len) = self.ring.used_element(index);
        if id != u32::from(HEAD) {
            return Err(CallError::UsedId(id));
        }
        if usize::try_from(len) != Ok(REPLY_SIZE) {
            return Err(CallError::ReplyLen(len));
        }
        Reply::decode(&self.ring.reply()).map_err(CallError::Reply)
    }
}

/// Requests that a polling device leaves in the ring.
fn at_notification_only(request: &Request) -> bool {
    matches!(
        request,
        Request::Hello { .. }
            | Request::Register { .. }
            | Request::Unregister { .. }
            | Request::CheckpointDurable { .. }
            | Request::Durability { wait: Some(_), .. }
            | Request::Recover { .. }
            | Request::Stored { .. }
    )
}

/// Resets the device, which ends the session, before its ring goes away.
impl Drop for Transport {
    fn drop(&mut self) {
        // A forked child has the same registers, but the session is its parent's.
        if !self.ring.is_inherited() {
            self.registers.write_u8(self.device_status, 0);
        }
    }
}

#[cfg(test)]
mod tests;
