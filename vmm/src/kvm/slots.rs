//! The memslots of a guest whose guest-physical addresses are offsets into one reservation.
//!
//! Memory gets slots when it's first needed, an extent at a time (a slot costs KVM memory for each of
//! its pages). A region that is tracked has a slot of its own, so that only it is logged: the slots
//! that it overlaps are cut. Cutting means deleting and making anew, so no vCPU may run meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::kvm::vm::Vm;
use crate::memory::layout::{DEVICES, PAGE, WINDOW_SIZE, round_down};
use crate::memory::program::ProgramMemory;

/// Bytes of an extent, the unit in which memory gets slots.
pub const EXTENT: u64 = 256 << 20;
/// The first slot's number; those below are the machine's own.
const FIRST_SLOT: u32 = 8;

/// Why the slots could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("KVM refused to {what} the memslot of {start:#x}..{end:#x}")]
pub struct SlotError {
    what: &'static str,
    start: u64,
    end: u64,
    #[source]
    source: kvm_ioctls::Error,
}

/// The slots, by their start.
#[derive(Debug)]
pub struct SlotMap {
    vm: Arc<Vm>,
    memory: Arc<ProgramMemory>,
    slots: BTreeMap<u64, Slot>,
    regions: BTreeMap<u64, u64>,
    free: Vec<u32>,
    next: u32,
    /// Whether every slot is logged, also those to come.
    logs_all: bool,
}

#[derive(Debug)]
struct Slot {
    number: u32,
    end: u64,
}

impl SlotMap {
    /// No slots yet.
    #[must_use]
    pub fn new(vm: Arc<Vm>, memory: Arc<ProgramMemory>) -> Self {
        Self {
            vm,
            memory,
            slots: BTreeMap::new(),
            regions: BTreeMap::new(),
            free: Vec::new(),
            next: FIRST_SLOT,
            logs_all: false,
        }
    }

    /// Sees to it that all of `range` has slots.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn ensure(&mut self, range: &Range<u64>) -> Result<(), SlotError> {
        let mut start = round_down(range.start, EXTENT);
        while start < range.end {
            let extent = extent(start);
            if self.slots.range(extent.clone()).next().is_none() && !self.is_region(extent.start) {
                self.make(extent)?;
            }
            start += EXTENT;
        }
        Ok(())
    }

    /// Gives `region` a slot of its own. No vCPU may run.
    ///
    /// # Errors
    /// [`SlotError`]; the slots are as before, unless KVM refused that too.
    pub fn isolate(&mut self, region: &Range<u64>) -> Result<(), SlotError> {
        self.ensure(region)?;
        self.regions.insert(region.start, region.end);
        self.recut(region).or_else(|error| {
            self.regions.remove(&region.start);
            self.recut(region)?;
            Err(error)
        })
    }

    /// Takes `region`'s slot back into its surroundings, without logging. No vCPU may run.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn rejoin(&mut self, region: &Range<u64>) -> Result<(), SlotError> {
        self.regions.remove(&region.start);
        self.recut(region)
    }

    /// Makes KVM forget all that it derived from the guest's page tables: deleting a slot does that
    /// (KVM_X86_QUIRK_SLOT_ZAP_ALL, which is on unless it's turned off). A vCPU that runs is made to leave the
    /// guest, and waited for (KVM_REQ_MMU_FREE_OBSOLETE_ROOTS), so that it has forgotten when this returns.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn forget(&mut self) -> Result<(), SlotError> {
        // A page of the window that has no slot otherwise: the devices' hole.
        self.make(DEVICES.start..DEVICES.start + PAGE)?;
        self.delete(DEVICES.start)
    }

    /// Starts the dirty log of `region`'s own slot: every page counts as written.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn start_log(&self, region: &Range<u64>) -> Result<(), SlotError> {
        self.set_logged(region, true)
    }

    /// Ends the dirty log of `region`'s own slot, without which KVM may use large mappings in it again; unless all
    /// memory is logged.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn stop_log(&self, region: &Range<u64>) -> Result<(), SlotError> {
        if self.logs_all { Ok(()) } else { self.set_logged(region, false) }
    }

    /// Logs all memory from now on, that of slots to come too, regions or not: every page of a slot counts as written
    /// until its bit is cleared. A log that was begun before goes on. No vCPU may run.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn log_all(&mut self) -> Result<(), SlotError> {
        self.logs_all = true;
        for (span, _) in self.spans() {
            self.set_logged(&span, true)?;
        }
        Ok(())
    }

    /// Whether all memory is logged, so that somebody clears the log of regions beside whoever follows them.
    #[must_use]
    pub fn logs_all(&self) -> bool {
        self.logs_all
    }

    /// The spans of all slots in order, and whether each is a region. Without regions they are whole extents.
    #[must_use]
    pub fn spans(&self) -> Vec<(Range<u64>, bool)> {
        let span = |(start, slot): (&u64, &Slot)| (*start..slot.end, self.regions.contains_key(start));
        self.slots.iter().map(span).collect()
    }

    fn set_logged(&self, region: &Range<u64>, logged: bool) -> Result<(), SlotError> {
        let fail = |source| SlotError { what: "log", start: region.start, end: region.end, source };
        let number = self.own_slot(region).map_err(fail)?;
        let memory = self.memory.window().pointer(region).ok_or_else(|| fail(not_a_slot()))?;
        // SAFETY: the same memory as `make` gave this slot; only the logging changes.
        unsafe { self.vm.set_slot(number, region, memory, logged) }.map_err(fail)
    }

    /// The number of `region`'s own slot, by which KVM's dirty ring names it.
    #[must_use]
    pub fn number(&self, region: &Range<u64>) -> Option<u32> {
        self.own_slot(region).ok()
    }

    /// Reads the dirty log of `region`'s own slot.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn dirty_log(&self, region: &Range<u64>, bitmap: &mut [u64]) -> Result<(), SlotError> {
        let fail =
            |source| SlotError { what: "read the log of", start: region.start, end: region.end, source };
        let number = self.own_slot(region).map_err(fail)?;
        self.vm.dirty_log(number, pages(region), bitmap).map_err(fail)
    }

    /// Clears and write-protects the pages of `region` whose bits are set in `bitmap`, which begins
    /// with the bit of page `64 * first_word`.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn clear_dirty_log(
        &self,
        region: &Range<u64>,
        first_word: u64,
        bitmap: &[u64],
    ) -> Result<(), SlotError> {
        let fail = |source| SlotError { what: "protect in", start: region.start, end: region.end, source };
        let number = self.own_slot(region).map_err(fail)?;
        let first = first_word * 64;
        let count = (bitmap.len() as u64 * 64).min(pages(region) - first);
        let count = u32::try_from(count).map_err(|_| fail(not_a_slot()))?;
        self.vm.clear_dirty_log(number, first, count, bitmap).map_err(fail)
    }

    fn own_slot(&self, region: &Range<u64>) -> Result<u32, kvm_ioctls::Error> {
        match self.slots.get(&region.start) {
            Some(slot) if slot.end == region.end => Ok(slot.number),
            _ => Err(not_a_slot()),
        }
    }

    fn is_region(&self, address: u64) -> bool {
        self.regions.range(..=address).next_back().is_some_and(|(_, end)| address < *end)
    }

    /// Makes the slots of all extents that `range` touches what the regions ask for.
    fn recut(&mut self, range: &Range<u64>) -> Result<(), SlotError> {
        let span = self.affected(range);
        let wanted = cut(&span, &self.regions);
        let stale: Vec<u64> = self
            .slots
            .range(span)
            .filter(|(start, slot)| !wanted.contains(&(**start..slot.end)))
            .map(|(start, _)| *start)
            .collect();
        for start in stale {
            self.delete(start)?;
        }
        for piece in wanted {
            if !self.slots.contains_key(&piece.start) {
                self.make(piece)?;
            }
        }
        Ok(())
    }

    /// The extents of `range`, and of the regions that reach out of these, which must be cut together.
    fn affected(&self, range: &Range<u64>) -> Range<u64> {
        let mut span = extent(range.start).start..extent(range.end - 1).end;
        if let Some((start, end)) = self.regions.range(..span.start).next_back()
            && span.start < *end
        {
            span.start = extent(*start).start;
        }
        while let Some((_, end)) = self.regions.range(span.clone()).next_back()
            && span.end < *end
        {
            span.end = extent(end - 1).end;
        }
        span
    }

    fn make(&mut self, range: Range<u64>) -> Result<(), SlotError> {
        let fail = |source| SlotError { what: "make", start: range.start, end: range.end, source };
        let memory = self.memory.window().pointer(&range).ok_or_else(|| fail(not_a_slot()))?;
        let number = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        // SAFETY: the window is reserved for this guest and lives in an Arc beside the VM.
        if let Err(source) = unsafe { self.vm.set_slot(number, &range, memory, self.logs_all) } {
            self.free.push(number);
            return Err(fail(source));
        }
        self.slots.insert(range.start, Slot { number, end: range.end });
        Ok(())
    }

    fn delete(&mut self, start: u64) -> Result<(), SlotError> {
        let Some(slot) = self.slots.get(&start) else { return Ok(()) };
        let fail = |source| SlotError { what: "delete", start, end: slot.end, source };
        self.vm.delete_slot(slot.number).map_err(fail)?;
        self.free.push(slot.number);
        self.slots.remove(&start);
        Ok(())
    }
}

/// The extent around `address`. The devices' hole has no memory, so extents end where it begins.
fn extent(address: u64) -> Range<u64> {
    const { assert!(DEVICES.start.is_multiple_of(EXTENT) && DEVICES.end.is_multiple_of(EXTENT)) }
    let start = round_down(address, EXTENT);
    start..(start + EXTENT).min(WINDOW_SIZE)
}

/// `span`, a whole number of extents, cut so that each region is one piece and no other piece
/// crosses an extent's end.
fn cut(span: &Range<u64>, regions: &BTreeMap<u64, u64>) -> Vec<Range<u64>> {
    let mut pieces = Vec::new();
    let mut at = span.start;
    let fill = |pieces: &mut Vec<Range<u64>>, mut at: u64, end: u64| {
        while at < end {
            let next = extent(at).end.min(end);
            pieces.push(at..next);
            at = next;
        }
    };
    for (start, end) in regions.range(span.clone()) {
        fill(&mut pieces, at, *start);
        pieces.push(*start..*end);
        at = *end;
    }
    fill(&mut pieces, at, span.end);
    pieces
}

fn pages(range: &Range<u64>) -> u64 {
    (range.end - range.start) / PAGE
}

fn not_a_slot() -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_cut_out() {
        let span = 4 * EXTENT..7 * EXTENT;
        let regions = BTreeMap::from([
            (4 * EXTENT + PAGE, 4 * EXTENT + 2 * PAGE),
            (5 * EXTENT - PAGE, 6 * EXTENT + PAGE),
            (7 * EXTENT - PAGE, 7 * EXTENT),
        ]);
        let pieces = cut(&span, &regions);
        assert_eq!(
            pieces,
            [
                4 * EXTENT..4 * EXTENT + PAGE,
                4 * EXTENT + PAGE..4 * EXTENT + 2 * PAGE,
                4 * EXTENT + 2 * PAGE..5 * EXTENT - PAGE,
                5 * EXTENT - PAGE..6 * EXTENT + PAGE,
                6 * EXTENT + PAGE..7 * EXTENT - PAGE,
                7 * EXTENT - PAGE..7 * EXTENT,
            ]
        );
    }

    #[test]
    fn without_regions_each_extent_is_a_slot() {
        let pieces = cut(&(0..2 * EXTENT), &BTreeMap::new());
        assert_eq!(pieces, [0..EXTENT, EXTENT..2 * EXTENT]);
    }
}
