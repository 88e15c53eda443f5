//! Figures of a session and of a checkpoint.

use super::{BODY, REPLY_SIZE};
use crate::ids::CheckpointId;
use crate::wire::{DecodeError, get_bool, get_u32, get_u64, put, reserved};

/// Figures of a session since HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionFigures {
    /// Registered regions.
    pub regions: u32,
    /// Retained checkpoints.
    pub retained: u32,
    /// The checkpoint that memory derives from; 0 before the first.
    pub current: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Rollbacks done.
    pub rollbacks: u64,
    /// Resident bytes of the mirror.
    pub mirror_bytes: u64,
    /// Bytes of the history.
    pub history_bytes: u64,
    /// Bytes of the engine's tables.
    pub table_bytes: u64,
    /// Pages compared with the mirror.
    pub pages_compared: u64,
    /// Of these, pages that had changed.
    pub pages_changed: u64,
    /// Pages that were write-protected again.
    pub pages_protected: u64,
    /// Pages that are writable and compared at every checkpoint.
    pub pages_open: u64,
    /// How often the guest's CPUs were stopped for requests, of any of its sessions; 0 where nothing is stopped.
    pub pauses: u64,
    /// Nanoseconds that they stood still, all together.
    pub pause_ns: u64,
    /// Nanoseconds of the longest time.
    pub longest_pause_ns: u64,
    /// Nanoseconds that it took to have the guest's memory watched, when regions were registered.
    pub arming_ns: u64,
    /// Pages that changed and had been left writable: faults that were spared.
    pub faults_avoided: u64,
    /// Pages that were written while they were protected.
    pub faults_taken: u64,
    /// Pages that had been left writable and didn't change.
    pub compares_wasted: u64,
}

/// Figures of one checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointFigures {
    /// The checkpoint.
    pub id: CheckpointId,
    /// The checkpoint that it came after, if any.
    pub parent: Option<CheckpointId>,
    /// Pages that changed since its parent.
    pub pages_changed: u64,
    /// Bytes that the host keeps for it alone.
    pub bytes: u64,
}

const SESSION_REGIONS: usize = BODY;
const SESSION_RETAINED: usize = 20;
const SESSION_CURRENT: usize = 24;
const SESSION_CHECKPOINTS: usize = 32;
const SESSION_ROLLBACKS: usize = 40;
const SESSION_MIRROR_BYTES: usize = 48;
const SESSION_HISTORY_BYTES: usize = 56;
const SESSION_TABLE_BYTES: usize = 64;
const SESSION_PAGES_COMPARED: usize = 72;
const SESSION_PAGES_CHANGED: usize = 80;
const SESSION_PAGES_PROTECTED: usize = 88;
const SESSION_PAGES_OPEN: usize = 96;
const SESSION_PAUSES: usize = 104;
const SESSION_PAUSE_NS: usize = 112;
const SESSION_LONGEST_PAUSE_NS: usize = 120;
const SESSION_ARMING_NS: usize = 128;
const SESSION_FAULTS_AVOIDED: usize = 136;
const SESSION_FAULTS_TAKEN: usize = 144;
const SESSION_COMPARES_WASTED: usize = 152;
pub(super) const SESSION_END: usize = 160;
const FIGURES_ID: usize = BODY;
const FIGURES_PARENT: usize = 24;
const FIGURES_PAGES_CHANGED: usize = 32;
const FIGURES_BYTES: usize = 40;
const FIGURES_HAS_PARENT: usize = 48;
pub(super) const FIGURES_END: usize = 52;

impl SessionFigures {
    pub(super) fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, SESSION_REGIONS, self.regions.to_le_bytes());
        put(out, SESSION_RETAINED, self.retained.to_le_bytes());
        put(out, SESSION_CURRENT, self.current.to_le_bytes());
        put(out, SESSION_CHECKPOINTS, self.checkpoints.to_le_bytes());
        put(out, SESSION_ROLLBACKS, self.rollbacks.to_le_bytes());
        put(out, SESSION_MIRROR_BYTES, self.mirror_bytes.to_le_bytes());
        put(out, SESSION_HISTORY_BYTES, self.history_bytes.to_le_bytes());
        put(out, SESSION_TABLE_BYTES, self.table_bytes.to_le_bytes());
        put(out, SESSION_PAGES_COMPARED, self.pages_compared.to_le_bytes());
        put(out, SESSION_PAGES_CHANGED, self.pages_changed.to_le_bytes());
        put(out, SESSION_PAGES_PROTECTED, self.pages_protected.to_le_bytes());
        put(out, SESSION_PAGES_OPEN, self.pages_open.to_le_bytes());
        put(out, SESSION_PAUSES, self.pauses.to_le_bytes());
        put(out, SESSION_PAUSE_NS, self.pause_ns.to_le_bytes());
        put(out, SESSION_LONGEST_PAUSE_NS, self.longest_pause_ns.to_le_bytes());
        put(out, SESSION_ARMING_NS, self.arming_ns.to_le_bytes());
        put(out, SESSION_FAULTS_AVOIDED, self.faults_avoided.to_le_bytes());
        put(out, SESSION_FAULTS_TAKEN, self.faults_taken.to_le_bytes());
        put(out, SESSION_COMPARES_WASTED, self.compares_wasted.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; REPLY_SIZE]) -> Self {
        Self {
            regions: get_u32(bytes, SESSION_REGIONS),
            retained: get_u32(bytes, SESSION_RETAINED),
            current: get_u64(bytes, SESSION_CURRENT),
            checkpoints: get_u64(bytes, SESSION_CHECKPOINTS),
            rollbacks: get_u64(bytes, SESSION_ROLLBACKS),
            mirror_bytes: get_u64(bytes, SESSION_MIRROR_BYTES),
            history_bytes: get_u64(bytes, SESSION_HISTORY_BYTES),
            table_bytes: get_u64(bytes, SESSION_TABLE_BYTES),
            pages_compared: get_u64(bytes, SESSION_PAGES_COMPARED),
            pages_changed: get_u64(bytes, SESSION_PAGES_CHANGED),
            pages_protected: get_u64(bytes, SESSION_PAGES_PROTECTED),
            pages_open: get_u64(bytes, SESSION_PAGES_OPEN),
            pauses: get_u64(bytes, SESSION_PAUSES),
            pause_ns: get_u64(bytes, SESSION_PAUSE_NS),
            longest_pause_ns: get_u64(bytes, SESSION_LONGEST_PAUSE_NS),
            arming_ns: get_u64(bytes, SESSION_ARMING_NS),
            faults_avoided: get_u64(bytes, SESSION_FAULTS_AVOIDED),
            faults_taken: get_u64(bytes, SESSION_FAULTS_TAKEN),
            compares_wasted: get_u64(bytes, SESSION_COMPARES_WASTED),
        }
    }
}

impl CheckpointFigures {
    pub(super) fn encode(&self, out: &mut [u8; REPLY_SIZE]) {
        put(out, FIGURES_ID, self.id.0.to_le_bytes());
        put(out, FIGURES_PARENT, self.parent.map_or(0, |parent| parent.0).to_le_bytes());
        put(out, FIGURES_PAGES_CHANGED, self.pages_changed.to_le_bytes());
        put(out, FIGURES_BYTES, self.bytes.to_le_bytes());
        put(out, FIGURES_HAS_PARENT, u32::from(self.parent.is_some()).to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; REPLY_SIZE]) -> Result<Self, DecodeError> {
        let parent = if get_bool(bytes, FIGURES_HAS_PARENT)? {
            Some(CheckpointId(get_u64(bytes, FIGURES_PARENT)))
        } else {
            reserved(bytes, FIGURES_PARENT..FIGURES_PAGES_CHANGED)?;
            None
        };
        Ok(Self {
            id: CheckpointId(get_u64(bytes, FIGURES_ID)),
            parent,
            pages_changed: get_u64(bytes, FIGURES_PAGES_CHANGED),
            bytes: get_u64(bytes, FIGURES_BYTES),
        })
    }
}
