//! Who depends on which frame of a Linux guest's memory, and which of these frames were written.
//!
//! One for the whole guest. A session *claims* the frames that it has seen its pages and its page tables in,
//! and asks which of them were written since they were last protected. Memory is logged slot by slot, and only
//! the slots that hold claimed frames.
//!
//! A claim is what a session believes, as of its last look at its page tables. The guest's kernel may have
//! given the frame to another program since; when that one claims it, the first owner is told that it lost it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::memory::layout::{PAGE, to_usize};
use crate::memory::ram::Ram;

/// The dirty log of guest memory, in slots.
///
/// A slot that is logged reports every frame until it is cleared, and from then on those that were written.
/// No vCPU runs while these are called.
pub trait DirtyLog: std::fmt::Debug + Send {
    /// Why something was refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The slots' guest-physical ranges, ascending; whole 64 pages each.
    fn slots(&self) -> Vec<Range<u64>>;

    /// Starts to log `slot`: all of its frames count as written.
    ///
    /// # Errors
    /// The slot isn't logged.
    fn start(&mut self, slot: usize) -> Result<(), Self::Error>;

    /// Stops logging `slot`.
    ///
    /// # Errors
    /// The slot is still logged, which costs time and nothing else.
    fn stop(&mut self, slot: usize) -> Result<(), Self::Error>;

    /// Reads which frames of `slot` were written: bit i of word w is its frame 64 w + i. Nothing is used up.
    ///
    /// # Errors
    /// It isn't known.
    fn read(&self, slot: usize, bitmap: &mut [u64]) -> Result<(), Self::Error>;

    /// Write-protects the frames of `slot` that are set in `bitmap`, whose first word is word `first`.
    ///
    /// # Errors
    /// Some may still be unprotected; these are reported as written.
    fn clear(&mut self, slot: usize, first: usize, bitmap: &[u64]) -> Result<(), Self::Error>;
}

/// A session among those of one guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionIndex(pub u8);

/// What a frame holds for a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Content {
    /// A page of a region: the region's number in the session, and the page in the region.
    Page(u16, u32),
    /// A page table.
    Table,
}

/// A frame, and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    /// The frame's guest-physical address.
    pub frame: u64,
    /// What it holds.
    pub content: Content,
}

/// The claims and the log.
#[derive(Debug)]
pub struct FrameLog<L> {
    log: L,
    ram: Arc<Ram>,
    slots: Vec<Slot>,
    /// Claims that somebody else took over, or whose frames the VMM wrote, for their owners to learn of. A set, as
    /// a session may be idle for long while others look: there are never more than it has claims.
    news: HashMap<SessionIndex, HashSet<Claim>>,
    arming: Duration,
}

#[derive(Debug)]
struct Slot {
    range: Range<u64>,
    logged: bool,
    /// By frame; empty until there is a claim.
    owners: Vec<Option<Owner>>,
    claims: usize,
    /// Which frames have an owner.
    claimed: Vec<u64>,
    /// What was read last, or what is to be cleared.
    bitmap: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owner {
    session: SessionIndex,
    content: Content,
}

impl<L: DirtyLog> FrameLog<L> {
    /// No claims, on all of `ram`, which `log` logs.
    #[must_use]
    pub fn new(log: L, ram: Arc<Ram>) -> Self {
        let slots = log.slots().into_iter().map(Slot::new).collect();
        Self { log, ram, slots, news: HashMap::new(), arming: Duration::ZERO }
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Time that arming the log has taken: KVM stops making large mappings in a slot that is logged, and splits
    /// those that there are when one of their pages is protected.
    #[must_use]
    pub fn arming(&self) -> Duration {
        self.arming
    }

    /// Claims a frame, whoever had it before. It counts as written until it's cleared, if its slot wasn't
    /// logged before; otherwise the log says what it says, so the claimer takes it for written once.
    ///
    /// # Errors
    /// Its slot can't be logged; then nothing is claimed. A frame that isn't memory isn't claimed either, but
    /// that is no error: it can't be written.
    pub fn claim(&mut self, session: SessionIndex, claim: Claim) -> Result<(), L::Error> {
        let Some((index, at)) = self.place(claim.frame) else { return Ok(()) };
        self.arm(index)?;
        let slot = &mut self.slots[index];
        let owner = Owner { session, content: claim.content };
        let before = slot.set(at, Some(owner));
        if let Some(before) = before.filter(|before| *before != owner) {
            self.tell(before, claim.frame);
        }
        Ok(())
    }

    /// Claims a frame only if nobody has it. Answers whether it's claimed so now.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_free(&mut self, session: SessionIndex, claim: Claim) -> Result<bool, L::Error> {
        match self.owner(claim.frame) {
            None => self.claim(session, claim).map(|()| true),
            Some(owner) => Ok(owner == Owner { session, content: claim.content }),
        }
    }

    /// Gives a claim up, if it still holds. A slot without claims is no longer logged.
    pub fn release(&mut self, session: SessionIndex, claim: Claim) {
        if !self.holds(session, claim) {
            return;
        }
        let Some((index, at)) = self.place(claim.frame) else { return };
        self.slots[index].set(at, None);
        if self.slots[index].claims == 0 {
            self.disarm(index);
        }
    }

    /// Whether a claim holds.
    #[must_use]
    pub fn holds(&self, session: SessionIndex, claim: Claim) -> bool {
        self.owner(claim.frame) == Some(Owner { session, content: claim.content })
    }

    /// Hands every claim of `session` whose frame was written, by the guest, to `each`; and to `news` those
    /// that the VMM wrote or that were lost, which are told of once.
    ///
    /// # Errors
    /// What was written isn't known.
    pub fn written(
        &mut self,
        session: SessionIndex,
        mut each: impl FnMut(Claim),
        mut news: impl FnMut(Claim),
    ) -> Result<(), L::Error> {
        self.take_marks();
        for claim in self.news.get_mut(&session).map(std::mem::take).unwrap_or_default() {
            news(claim);
        }
        for index in 0..self.slots.len() {
            if !self.slots[index].logged {
                continue;
            }
            let slot = &mut self.slots[index];
            self.log.read(index, &mut slot.bitmap)?;
            for word in 0..slot.bitmap.len() {
                let bits = slot.bitmap[word] & slot.claimed[word];
                for at in bits_of(bits).map(|bit| word * 64 + bit) {
                    match slot.owners[at] {
                        Some(owner) if owner.session == session => {
                            each(Claim { frame: slot.frame(at), content: owner.content });
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Write-protects `frames`, so that the next write to each is reported.
    ///
    /// # Errors
    /// Some may still be unprotected; these are reported as written.
    pub fn protect(&mut self, frames: impl Iterator<Item = u64>) -> Result<(), L::Error> {
        for slot in &mut self.slots {
            slot.bitmap.fill(0);
        }
        for (index, at) in frames.filter_map(|frame| self.place(frame)).collect::<Vec<_>>() {
            if let Some(word) = self.slots[index].bitmap.get_mut(at / 64) {
                *word |= 1 << (at % 64);
            }
        }
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.logged) {
            let Some(first) = slot.bitmap.iter().position(|word| *word != 0) else { continue };
            let last = slot.bitmap.iter().rposition(|word| *word != 0).unwrap_or(first);
            self.log.clear(index, first, &slot.bitmap[first..=last])?;
        }
        Ok(())
    }

    /// Takes the VMM's own marks of claimed frames back and makes news of them.
    fn take_marks(&mut self) {
        for slot in self.slots.iter().filter(|slot| slot.logged) {
            for (word, claimed) in slot.claimed.iter().enumerate().filter(|(_, claimed)| **claimed != 0) {
                let address = slot.frame(word * 64);
                let marked = self.ram.marks(address) & claimed;
                if marked == 0 {
                    continue;
                }
                self.ram.clear_marks(address, marked);
                for at in bits_of(marked).map(|bit| word * 64 + bit) {
                    if let Some(Owner { session, content }) = slot.owners[at] {
                        let claim = Claim { frame: slot.frame(at), content };
                        self.news.entry(session).or_default().insert(claim);
                    }
                }
            }
        }
    }

    fn tell(&mut self, owner: Owner, frame: u64) {
        self.news.entry(owner.session).or_default().insert(Claim { frame, content: owner.content });
    }

    fn owner(&self, frame: u64) -> Option<Owner> {
        let (index, at) = self.place(frame)?;
        self.slots[index].owners.get(at).copied().flatten()
    }

    /// The slot of a frame, and its number there.
    fn place(&self, frame: u64) -> Option<(usize, usize)> {
        let index = self.slots.partition_point(|slot| slot.range.end <= frame);
        let slot = self.slots.get(index)?;
        let offset = frame.checked_sub(slot.range.start)?;
        Some((index, to_usize(offset / PAGE)))
    }

    fn arm(&mut self, index: usize) -> Result<(), L::Error> {
        if self.slots[index].logged {
            return Ok(());
        }
        let start = Instant::now();
        self.log.start(index)?;
        self.arming += start.elapsed();
        self.slots[index].open();
        Ok(())
    }

    fn disarm(&mut self, index: usize) {
        match self.log.stop(index) {
            Ok(()) => self.slots[index].close(),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a memslot without regions stays logged");
            }
        }
    }
}

impl Slot {
    fn new(range: Range<u64>) -> Self {
        let (owners, claimed, bitmap) = (Vec::new(), Vec::new(), Vec::new());
        Self { range, logged: false, owners, claims: 0, claimed, bitmap }
    }

    fn open(&mut self) {
        let frames = to_usize((self.range.end - self.range.start) / PAGE);
        self.owners = vec![None; frames];
        self.claimed = vec![0; frames.div_ceil(64)];
        self.bitmap = vec![0; frames.div_ceil(64)];
        self.logged = true;
    }

    fn close(&mut self) {
        *self = Self::new(self.range.clone());
    }

    /// Gives frame `at` an owner, or none. Answers the one before.
    fn set(&mut self, at: usize, owner: Option<Owner>) -> Option<Owner> {
        let slot = self.owners.get_mut(at)?;
        let before = std::mem::replace(slot, owner);
        let bit = 1 << (at % 64);
        match (before, owner) {
            (None, Some(_)) => {
                self.claims += 1;
                self.claimed[at / 64] |= bit;
            }
            (Some(_), None) => {
                self.claims -= 1;
                self.claimed[at / 64] &= !bit;
            }
            _ => {}
        }
        before
    }

    fn frame(&self, at: usize) -> u64 {
        self.range.start + at as u64 * PAGE
    }
}

/// The positions of the bits that are set.
fn bits_of(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
#[path = "frames_testing.rs"]
pub(crate) mod testing;

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
