//! Which pages of the whole program changed: KVM's dirty log of all memory, and what the monitor changed itself.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rangemap::RangeMap;

use crate::host::pagemap::Pagemap;
use crate::kvm::slots::{SlotError, SlotMap};
use crate::memory::layout::{PAGE, to_usize};
use crate::memory::program::ProgramMemory;

/// Runs of so many pages and more are looked at for pages that exist: most of them may have never been touched.
const LOOK_FROM: u64 = 8;

/// Words without a page that end a piece of the log which is cleared at once.
const QUIET_WORDS: usize = 16;

/// What a mapping's pages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Memory: a page that doesn't exist is zeros.
    Memory,
    /// A file: a page that doesn't exist is the file's.
    File,
}

/// What changed, as ranges of page numbers in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// Pages with content.
    pub(crate) content: Vec<Range<u64>>,
    /// Pages that are zeros, or not mapped any more.
    pub(crate) zeros: Vec<Range<u64>>,
}

/// Follows all memory of a program.
#[derive(Debug)]
pub(crate) struct Tracker {
    slots: Arc<Mutex<SlotMap>>,
    memory: Arc<ProgramMemory>,
    pagemap: Pagemap,
}

impl Tracker {
    /// Nothing is followed yet.
    pub(crate) fn new(slots: Arc<Mutex<SlotMap>>, memory: Arc<ProgramMemory>, pagemap: Pagemap) -> Self {
        Self { slots, memory, pagemap }
    }

    /// The program's memory.
    pub(crate) fn memory(&self) -> &ProgramMemory {
        &self.memory
    }

    /// Which pages exist.
    pub(crate) fn pagemap(&self) -> &Pagemap {
        &self.pagemap
    }

    /// Whether a session follows a part of the memory by itself.
    pub(crate) fn has_regions(&self) -> bool {
        self.slots().has_regions()
    }

    /// Follows all memory from now on: nothing counts as changed. The program stands still.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(crate) fn begin(&self) -> Result<(), SlotError> {
        self.memory.watch_all();
        self.slots().log_all()?;
        self.drain(&mut |_, _| {})
    }

    /// What changed since the last call, or since the beginning, of a program with these mappings. The program stands
    /// still; from now on it counts as unchanged.
    ///
    /// # Errors
    /// [`SlotError`]; what changed may be lost then, and all counts as changed.
    pub(crate) fn changes(&self, mappings: &RangeMap<u64, Backing>) -> Result<Changes, SlotError> {
        let mut changed: Vec<Range<u64>> = Vec::new();
        self.drain(&mut |first, word| add_bits(&mut changed, first, word))?;
        let mut changes = Changes::default();
        for run in changed {
            self.sort_run(&run, mappings, &mut changes);
        }
        Ok(changes)
    }

    /// All that a program with these mappings holds.
    pub(crate) fn all(&self, mappings: &RangeMap<u64, Backing>) -> Changes {
        let mut changes = Changes::default();
        for (span, backing) in mappings.iter() {
            self.sort_piece(&(span.start / PAGE..span.end / PAGE), *backing, &mut changes);
        }
        changes
    }

    /// Counts `pages` as changed, as they didn't come to rest in a checkpoint.
    pub(crate) fn mark_again(&self, changes: &Changes) {
        for run in changes.content.iter().chain(&changes.zeros) {
            self.memory.renew(&(run.start * PAGE..run.end * PAGE));
        }
    }

    /// Tells each word of the set of changed pages, with its first page's number, and makes it empty.
    fn drain(&self, tell: &mut dyn FnMut(u64, u64)) -> Result<(), SlotError> {
        let marks = self.memory.watch_all();
        let slots = self.slots();
        let mut log = Vec::new();
        for span in slots.unclaimed() {
            let first = span.start / PAGE;
            log.clear();
            log.resize(to_usize((span.end / PAGE - first).div_ceil(64)), 0);
            slots.dirty_log(&span, &mut log)?;
            clear(&slots, &span, &log)?;
            for (index, word) in (0..).zip(&log) {
                let page = first + index * 64;
                tell(page, *word | marks.take(to_usize(page / 64)));
            }
        }
        Ok(())
    }

    fn sort_run(&self, run: &Range<u64>, mappings: &RangeMap<u64, Backing>, changes: &mut Changes) {
        let span = run.start * PAGE..run.end * PAGE;
        for gap in mappings.gaps(&span) {
            push(&mut changes.zeros, gap.start / PAGE..gap.end / PAGE);
        }
        for (piece, backing) in mappings.overlapping(&span) {
            let piece = piece.start.max(span.start) / PAGE..piece.end.min(span.end) / PAGE;
            self.sort_piece(&piece, *backing, changes);
        }
    }

    /// Sorts pages of one mapping into those with content and those that were never touched.
    fn sort_piece(&self, piece: &Range<u64>, backing: Backing, changes: &mut Changes) {
        if backing == Backing::File || piece.end - piece.start < LOOK_FROM {
            return push(&mut changes.content, piece.clone());
        }
        let mut exists = vec![false; to_usize(piece.end - piece.start)];
        let address = self.memory.window().address(piece.start * PAGE);
        if let Err(error) = self.pagemap.existing(address, &mut exists) {
            tracing::debug!(%error, "which pages exist can't be told: all are read");
            return push(&mut changes.content, piece.clone());
        }
        for (page, exists) in piece.clone().zip(exists) {
            push(if exists { &mut changes.content } else { &mut changes.zeros }, page..page + 1);
        }
    }

    fn slots(&self) -> MutexGuard<'_, SlotMap> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clears what a slot's log says, piece by piece where it says anything: clearing costs for each page that is named, and
/// for each word.
fn clear(slots: &SlotMap, span: &Range<u64>, log: &[u64]) -> Result<(), SlotError> {
    let mut at = 0;
    while let Some(first) = log[at..].iter().position(|word| *word != 0).map(|next| at + next) {
        let quiet = log[first..].windows(QUIET_WORDS).position(|words| words.iter().all(|word| *word == 0));
        let end = quiet.map_or(log.len(), |quiet| first + quiet);
        slots.clear_dirty_log(span, first as u64, &log[first..end])?;
        at = end;
    }
    Ok(())
}

/// Adds the pages of a word to runs in order, of which the last may grow.
fn add_bits(runs: &mut Vec<Range<u64>>, first: u64, mut word: u64) {
    while word != 0 {
        let start = word.trailing_zeros();
        let count = (word >> start).trailing_ones();
        push(runs, first + u64::from(start)..first + u64::from(start + count));
        word &= if start + count == 64 { 0 } else { u64::MAX << (start + count) };
    }
}

fn push(runs: &mut Vec<Range<u64>>, run: Range<u64>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_runs() {
        let mut runs = Vec::new();
        add_bits(&mut runs, 0, 0b1011 | 1 << 63);
        add_bits(&mut runs, 64, u64::MAX);
        add_bits(&mut runs, 128, 0);
        add_bits(&mut runs, 192, 1);
        assert_eq!(runs, [0..2, 3..4, 63..128, 192..193]);
    }
}
