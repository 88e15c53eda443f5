//! What the tries of a checkpoint took, before it is committed or given up.

use std::collections::TryReserveError;

use crate::delta::Delta;
use crate::region::Passed;

/// The root's bytes that an unfinished checkpoint replaced in the mirror.
///
/// Each try adds a delta of pages that no other has. Two that are of like size become one, so that there are few
/// however many tries there are, and each byte is copied a few times at most.
#[derive(Default, Debug)]
pub(crate) struct Pending {
    /// Older and larger first.
    parts: Vec<Delta>,
    passed: Passed,
}

impl Pending {
    /// Makes room for another try, so that [`add`](Self::add) can't fail.
    pub(crate) fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.parts.try_reserve(1)
    }

    /// Bytes that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(Delta::bytes).sum()
    }

    /// Memory of the deltas.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.parts.iter().map(Delta::resident_bytes).sum()
    }

    /// Adds what a try took, or took before it failed. Room was made by [`reserve`](Self::reserve).
    pub(crate) fn add(&mut self, old: Delta) {
        self.parts.push(old);
    }

    /// Adds what a try met.
    pub(crate) fn count(&mut self, passed: Passed) {
        self.passed += passed;
    }

    /// After a try that wasn't the last: merges what is of like size. Without memory for that, parts stay apart.
    pub(crate) fn compact(&mut self) {
        while let [.., before, last] = self.parts.as_slice()
            && before.bytes() <= last.bytes().saturating_mul(2)
            && self.merge_last().is_ok()
        {}
    }

    /// All that was taken, in one delta, and what was met. Nothing is left.
    ///
    /// # Errors
    /// No memory; it is as it was.
    pub(crate) fn finish(&mut self) -> Result<(Delta, Passed), TryReserveError> {
        // Neighbours, round after round: however many parts there are, each byte is copied a few times.
        while self.parts.len() > 1 {
            let mut at = 0;
            while let Some([part, next]) = self.parts.get(at..at + 2) {
                self.parts[at] = part.merge(next)?;
                self.parts.remove(at + 1);
                at += 1;
            }
        }
        Ok((self.parts.pop().unwrap_or_default(), std::mem::take(&mut self.passed)))
    }

    /// Forgets what was met and yields what was taken, which goes back to the mirrors.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Delta> + '_ {
        self.passed = Passed::default();
        self.parts.drain(..)
    }

    fn merge_last(&mut self) -> Result<(), TryReserveError> {
        if let [.., before, last] = self.parts.as_mut_slice() {
            *before = before.merge(last)?;
            self.parts.pop();
        }
        Ok(())
    }
}
