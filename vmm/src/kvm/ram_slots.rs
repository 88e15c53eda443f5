//! The memslots of a Linux guest's memory: pieces of equal size, so that one piece can be tracked apart.

use std::ops::Range;
use std::sync::Arc;

use crate::kvm::system::{KvmError, refused};
use crate::kvm::vm::Vm;
use crate::memory::layout::{LARGE_PAGE, PAGE};
use crate::memory::ram::Ram;

/// Bytes of a slot unless told otherwise.
pub const SLOT_BYTES: u64 = 64 << 20;

/// The slots, which exist as long as the machine.
#[derive(Debug)]
pub struct RamSlots {
    vm: Arc<Vm>,
    ram: Arc<Ram>,
    /// By address; a slot's number is its place here.
    slots: Vec<Range<u64>>,
}

impl RamSlots {
    /// Gives `vm` all of `ram`, in slots of `slot_bytes` (rounded up to whole large pages) and smaller ones
    /// where a span ends.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn new(vm: &Arc<Vm>, ram: &Arc<Ram>, slot_bytes: u64) -> Result<Self, KvmError> {
        let slot_bytes = slot_bytes.max(1).checked_next_multiple_of(LARGE_PAGE).unwrap_or(SLOT_BYTES);
        let slots: Vec<_> = ram.spans().flat_map(|(span, _)| cut(&span, slot_bytes)).collect();
        let slots = Self { vm: Arc::clone(vm), ram: Arc::clone(ram), slots };
        ram.spans().for_each(|(_, memory)| vm.keep(memory));
        for number in 0..slots.slots.len() {
            slots.set(number, false)?;
        }
        Ok(slots)
    }

    /// The slots that hold a byte of `range` (guest-physical): number and guest-physical range of each,
    /// ascending.
    pub fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u32, Range<u64>)> {
        let (start, end) = (range.start, range.end);
        let first = self.slots.partition_point(|slot| slot.end <= start);
        let slots = self.slots.iter().enumerate().skip(first);
        slots.take_while(move |(_, slot)| slot.start < end).map(|(index, slot)| (number(index), slot.clone()))
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The slots' guest-physical ranges, by number.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.slots
    }

    /// Starts or ends the dirty log of a slot. When it starts every page counts as written. No vCPU may run.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn set_logged(&self, index: usize, logged: bool) -> Result<(), KvmError> {
        self.set(index, logged)
    }

    /// Reads the dirty log of a slot: a bit for each page, rounded up to whole words. Nothing is used up.
    ///
    /// # Errors
    /// [`KvmError::Refused`], also for a slot that isn't logged or a bitmap that is too short.
    pub fn dirty_log(&self, index: usize, bitmap: &mut [u64]) -> Result<(), KvmError> {
        let pages = self.pages(index).filter(|pages| pages.div_ceil(64) <= bitmap.len() as u64);
        let pages = pages.ok_or_else(|| refused("the dirty log")(kvm_ioctls::Error::new(libc::EINVAL)))?;
        self.vm.dirty_log(number(index), pages, bitmap).map_err(refused("the dirty log"))
    }

    /// Clears and write-protects the pages of a slot that are set in `bitmap`, whose first word is word
    /// `first` of the slot's.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn clear_dirty_log(&self, index: usize, first: usize, bitmap: &[u64]) -> Result<(), KvmError> {
        let refuse = refused("to write-protect pages");
        let (start, count) = (first as u64 * 64, bitmap.len() as u64 * 64);
        let pages = self.pages(index).and_then(|pages| pages.checked_sub(start)).map(|rest| rest.min(count));
        match pages.and_then(|pages| u32::try_from(pages).ok()) {
            Some(pages) => self.vm.clear_dirty_log(number(index), start, pages, bitmap).map_err(refuse),
            None => Err(refuse(kvm_ioctls::Error::new(libc::EINVAL))),
        }
    }

    fn pages(&self, index: usize) -> Option<u64> {
        self.slots.get(index).map(|slot| (slot.end - slot.start) / PAGE)
    }

    fn set(&self, index: usize, logged: bool) -> Result<(), KvmError> {
        let invalid = || refused("a memslot")(kvm_ioctls::Error::new(libc::EINVAL));
        let slot = self.slots.get(index).ok_or_else(invalid)?;
        let memory = self.ram.frame(slot.start).ok_or_else(invalid)?;
        // SAFETY: `cut` keeps each slot within one span, which is contiguous in the VMM too, so all of it lies
        // behind the first frame's pointer. `new` made the machine keep all spans, which are this guest's.
        unsafe { self.vm.set_slot(number(index), slot, memory, logged) }.map_err(refused("a memslot"))
    }
}

/// The slot number of a place in the list: a guest's largest memory makes 2^19 of the smallest slots.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// `span` in pieces of `slot_bytes`, the last one perhaps smaller.
fn cut(span: &Range<u64>, slot_bytes: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (end, step) = (span.end, usize::try_from(slot_bytes).unwrap_or(usize::MAX));
    (span.start..end).step_by(step).map(move |start| start..end.min(start.saturating_add(slot_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_into_slots() {
        let pieces: Vec<_> = cut(&(0x20_0000..0xa0_0000), 0x40_0000).collect();
        assert_eq!(pieces, [0x20_0000..0x60_0000, 0x60_0000..0xa0_0000]);
        let pieces: Vec<_> = cut(&(0..0x60_0000), 0x40_0000).collect();
        assert_eq!(pieces, [0..0x40_0000, 0x40_0000..0x60_0000]);
    }
}
