//! A dirty log without KVM: the test says what the guest writes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::DirtyLog;
use crate::memory::layout::{PAGE, to_usize};
use crate::memory::ram::Ram;

/// Bytes of a slot of the tests' memory.
pub(crate) const SLOT: u64 = 16 << 20;

/// The log, and the test's hand on it.
#[derive(Clone, Debug)]
pub(crate) struct FakeLog {
    slots: Arc<Mutex<Vec<FakeSlot>>>,
    fails_once: Arc<AtomicBool>,
}

#[derive(Debug)]
struct FakeSlot {
    range: Range<u64>,
    /// `None` while it isn't logged.
    dirty: Option<Vec<u64>>,
}

impl FakeLog {
    pub(crate) fn new(ram: &Ram) -> Self {
        let mut slots = Vec::new();
        for (span, _) in ram.spans() {
            for start in span.clone().step_by(to_usize(SLOT)) {
                slots.push(FakeSlot { range: start..(start + SLOT).min(span.end), dirty: None });
            }
        }
        Self { slots: Arc::new(Mutex::new(slots)), fails_once: Arc::default() }
    }

    /// The guest writes the frame around `address`.
    pub(crate) fn write(&self, address: u64) {
        let mut slots = self.slots.lock().unwrap();
        let slot = slots.iter_mut().find(|slot| slot.range.contains(&address)).unwrap();
        let at = to_usize((address - slot.range.start) / PAGE);
        if let Some(dirty) = &mut slot.dirty {
            dirty[at / 64] |= 1 << (at % 64);
        }
    }

    /// The next read fails.
    pub(crate) fn fail_once(&self) {
        self.fails_once.store(true, Ordering::Relaxed);
    }

    /// Slots that are logged.
    pub(crate) fn logged(&self) -> usize {
        self.slots.lock().unwrap().iter().filter(|slot| slot.dirty.is_some()).count()
    }
}

impl DirtyLog for FakeLog {
    type Error = std::io::Error;

    fn slots(&self) -> Vec<Range<u64>> {
        self.slots.lock().unwrap().iter().map(|slot| slot.range.clone()).collect()
    }

    fn start(&mut self, slot: usize) -> Result<(), Self::Error> {
        let slot = &mut self.slots.lock().unwrap()[slot];
        let frames = to_usize((slot.range.end - slot.range.start) / PAGE);
        slot.dirty = Some(vec![u64::MAX; frames / 64]);
        Ok(())
    }

    fn stop(&mut self, slot: usize) -> Result<(), Self::Error> {
        self.slots.lock().unwrap()[slot].dirty = None;
        Ok(())
    }

    fn read(&self, slot: usize, bitmap: &mut [u64]) -> Result<(), Self::Error> {
        if self.fails_once.swap(false, Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        bitmap.copy_from_slice(self.slots.lock().unwrap()[slot].dirty.as_ref().unwrap());
        Ok(())
    }

    fn clear(&mut self, slot: usize, first: usize, bitmap: &[u64]) -> Result<(), Self::Error> {
        let mut slots = self.slots.lock().unwrap();
        let dirty = slots[slot].dirty.as_mut().unwrap();
        for (word, clear) in dirty[first..].iter_mut().zip(bitmap) {
            *word &= !clear;
        }
        Ok(())
    }
}
