//! The dirty log of a Linux guest's memory, as KVM keeps it.

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::linux::frames::DirtyLog;
use crate::kvm::ram_slots::RamSlots;
use crate::kvm::system::KvmError;

/// KVM's log, with manual protection: reading it protects nothing.
#[derive(Clone, Debug)]
pub struct KvmLog(pub Arc<RamSlots>);

impl DirtyLog for KvmLog {
    type Error = KvmError;

    fn slots(&self) -> Vec<Range<u64>> {
        self.0.ranges().to_vec()
    }

    fn start(&mut self, slot: usize) -> Result<(), KvmError> {
        self.0.set_logged(slot, true)
    }

    fn stop(&mut self, slot: usize) -> Result<(), KvmError> {
        self.0.set_logged(slot, false)
    }

    fn read(&self, slot: usize, bitmap: &mut [u64]) -> Result<(), KvmError> {
        self.0.dirty_log(slot, bitmap)
    }

    fn clear(&mut self, slot: usize, first: usize, bitmap: &[u64]) -> Result<(), KvmError> {
        self.0.clear_dirty_log(slot, first, bitmap)
    }
}
