//! Which pages of the whole program changed: KVM's dirty log of all memory, and what the monitor changed itself.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rangemap::{RangeMap, RangeSet};

use super::hot::HotPages;
use crate::host::pagemap::Pagemap;
use crate::kvm::slots::{SlotError, SlotMap};
use crate::memory::layout::{PAGE, to_usize};
use crate::memory::program::ProgramMemory;

/// Words without a page that end a piece of the log which is cleared at once.
const QUIET_WORDS: usize = 16;

/// What a mapping's pages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Memory: a page that doesn't exist is zeros.
    Memory,
    /// A file: a page that doesn't exist is the file's.
    File,
    /// A file that checkpoints have by itself.
    Shown,
}

/// What changed, as ranges of page numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// Pages with content.
    pub(crate) content: Vec<Range<u64>>,
    /// Pages that are zeros, or not mapped any more.
    pub(crate) zeros: Vec<Range<u64>>,
    /// Pages that somebody else takes.
    pub(crate) shown: Vec<Range<u64>>,
    /// Pages that count as written in a log that has just begun, and were never touched: [`Tracker::settle`].
    pub(crate) untouched: Vec<Range<u64>>,
}

/// What changed in one slot.
struct SlotChanges {
    content: Vec<Range<u64>>,
    zeros: Vec<Range<u64>>,
    /// Pages that are zeros, and in KVM's log alone.
    unwritten: Vec<Range<u64>>,
    /// Pages in KVM's log that somebody else takes.
    shown: Vec<Range<u64>>,
}

impl Changes {
    fn add(&mut self, mut more: SlotChanges) {
        self.content.append(&mut more.content);
        self.zeros.append(&mut more.zeros);
        self.zeros.append(&mut more.unwritten);
    }
}

/// Follows all memory of a program.
#[derive(Debug)]
pub(crate) struct Tracker {
    slots: Arc<Mutex<SlotMap>>,
    memory: Arc<ProgramMemory>,
    pagemap: Pagemap,
    hot: Mutex<HotPages>,
}

impl Tracker {
    /// Nothing is followed yet.
    pub(crate) fn new(slots: Arc<Mutex<SlotMap>>, memory: Arc<ProgramMemory>, pagemap: Pagemap) -> Self {
        Self { slots, memory, pagemap, hot: Mutex::default() }
    }

    /// The program's memory.
    pub(crate) fn memory(&self) -> &ProgramMemory {
        &self.memory
    }

    /// Pages that stay writable. Whoever makes the checkpoint says what became of those that were reported.
    pub(crate) fn hot(&self) -> MutexGuard<'_, HotPages> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which pages exist.
    pub(crate) fn pagemap(&self) -> &Pagemap {
        &self.pagemap
    }

    /// Follows all memory from now on. The program may run, but no session does anything meanwhile; what the program
    /// wrote before this returns may count as unchanged, and what it writes later counts as changed.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(crate) fn begin(&self) -> Result<(), SlotError> {
        let marks = self.memory.watch_all();
        self.hot().clear();
        self.slots().log_all()?;
        let spans = self.slots().spans();
        let mut log = Vec::new();
        for (span, is_region) in spans {
            let slots = self.slots();
            read_log(&slots, &span, &mut log)?;
            if is_region {
                self.memory.touch_pages(&span, &log);
            }
            clear(&slots, &span, &log)?;
            for (word, mask) in words_of(&span) {
                let _ = marks.take(word, mask);
            }
        }
        Ok(())
    }

    /// What changed since the last call, or since the beginning, of a program with these mappings. The program stands
    /// still, and no session does anything meanwhile; from now on it counts as unchanged, but for hot pages, which
    /// are reported each time. Pages that were `pending`
    /// before the call are what they were, though they may seem never touched: somebody else brings them, also
    /// meanwhile.
    ///
    /// # Errors
    /// [`SlotError`]; what changed may be lost then.
    pub(crate) fn changes(
        &self,
        mappings: &RangeMap<u64, Backing>,
        pending: &RangeSet<u64>,
    ) -> Result<Changes, SlotError> {
        let (slots, hot) = (self.slots(), self.hot());
        let mut changes = Changes::default();
        let mut log = Vec::new();
        for (span, is_region) in slots.spans() {
            read_log(&slots, &span, &mut log)?;
            if is_region {
                // A region's tracker isn't done with what is cleared here.
                self.memory.touch_pages(&span, &log);
                let more = self.changes_of(&span, &log, mappings, &hot);
                clear(&slots, &span, &log)?;
                changes.add(more);
                continue;
            }
            let mut more = self.changes_of(&span, &log, mappings, &hot);
            // Only what is taken now: the others were never touched, and clearing costs for each page.
            log.fill(0);
            let taken = more.content.iter().chain(&more.shown);
            let first = span.start / PAGE;
            taken.for_each(|run| set_bits(&mut log, first, run));
            for page in more.content.iter().cloned().flatten().filter(|page| hot.stays_writable(*page)) {
                log[to_usize((page - first) / 64)] &= !(1 << ((page - first) % 64));
            }
            clear(&slots, &span, &log)?;
            changes.untouched.append(&mut more.unwritten);
            changes.add(more);
        }
        // A call marks all that it may write to, there or not.
        for seemingly_zeros in [&mut changes.zeros, &mut changes.untouched] {
            leave_out(seemingly_zeros, pending);
        }
        Ok(changes)
    }

    /// What changed in a slot, by its log and by the marks of what the monitor wrote, which are taken back.
    fn changes_of(
        &self,
        span: &Range<u64>,
        log: &[u64],
        mappings: &RangeMap<u64, Backing>,
        hot: &HotPages,
    ) -> SlotChanges {
        let marks = self.memory.watch_all();
        let first = span.start / PAGE;
        let (mut logged, mut marked) = (Vec::new(), Vec::new());
        for (word, mask) in words_of(span) {
            add_bits(&mut marked, word as u64 * 64, marks.take(word, mask));
        }
        let mut by_monitor = vec![0; if marked.is_empty() { 0 } else { log.len() }];
        marked.iter().for_each(|run| set_bits(&mut by_monitor, first, run));
        let mut by_monitor = by_monitor.into_iter().chain(std::iter::repeat(0));
        for (page, word) in (first..).step_by(64).zip(log) {
            add_bits(&mut logged, page, word & !by_monitor.next().unwrap_or(0));
        }
        let (mut written, mut changes) = (Changes::default(), Changes::default());
        // Hot ones were written while they were followed, and nobody has discarded them since: that marks them.
        self.sort(&logged, mappings, |page| hot.stays_writable(page), &mut written);
        self.sort(&marked, mappings, |_| false, &mut changes);
        changes.content.append(&mut written.content);
        let (unwritten, shown) = (written.zeros, written.shown);
        SlotChanges { content: changes.content, zeros: changes.zeros, unwritten, shown }
    }

    /// Takes pages out of the log that count as written there and were never touched, while the program runs.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(crate) fn settle(&self, untouched: &[Range<u64>]) -> Result<(), SlotError> {
        let mut log = Vec::new();
        // None of them was a region's.
        let spans = if untouched.is_empty() { Vec::new() } else { self.slots().spans() };
        for (span, _) in spans.into_iter().filter(|(_, is_region)| !is_region) {
            let first = span.start / PAGE;
            let slots = self.slots();
            log.clear();
            log.resize(to_usize((span.end / PAGE - first).div_ceil(64)), 0);
            for run in untouched {
                set_bits(&mut log, first, run);
            }
            if slots.spans().contains(&(span.clone(), false)) {
                clear(&slots, &span, &log)?;
            }
        }
        // One that was touched just before its bit was cleared exists now.
        for run in untouched {
            for page in self.existing(run) {
                self.memory.renew(&(page * PAGE..(page + 1) * PAGE));
            }
        }
        Ok(())
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

    /// Sorts pages into what they are; asking for those that are `known` to exist would cost.
    fn sort(
        &self,
        runs: &[Range<u64>],
        mappings: &RangeMap<u64, Backing>,
        known: impl Fn(u64) -> bool,
        changes: &mut Changes,
    ) {
        for run in runs {
            let span = run.start * PAGE..run.end * PAGE;
            for gap in mappings.gaps(&span) {
                changes.zeros.push(gap.start / PAGE..gap.end / PAGE);
            }
            for (piece, backing) in mappings.overlapping(&span) {
                let piece = piece.start.max(span.start) / PAGE..piece.end.min(span.end) / PAGE;
                if *backing == Backing::Memory && piece.clone().all(&known) {
                    changes.content.push(piece);
                } else {
                    self.sort_piece(&piece, *backing, changes);
                }
            }
        }
    }

    /// Sorts pages of one mapping into those with content and those that were never touched.
    fn sort_piece(&self, piece: &Range<u64>, backing: Backing, changes: &mut Changes) {
        match backing {
            Backing::File => return changes.content.push(piece.clone()),
            Backing::Shown => return changes.shown.push(piece.clone()),
            Backing::Memory => {}
        }
        let mut at = piece.start;
        let mut runs = Vec::new();
        for page in self.existing(piece) {
            push(&mut runs, page..page + 1);
        }
        for run in runs {
            if at < run.start {
                changes.zeros.push(at..run.start);
            }
            at = run.end;
            changes.content.push(run);
        }
        if at < piece.end {
            changes.zeros.push(at..piece.end);
        }
    }

    /// Those pages of a run that exist; all of them where that can't be told.
    fn existing(&self, run: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
        let mut exists = vec![false; to_usize(run.end - run.start)];
        if let Err(error) = self.pagemap.existing(self.memory.window().address(run.start * PAGE), &mut exists)
        {
            tracing::debug!(%error, "which pages exist can't be told: all are read");
            exists.fill(true);
        }
        run.clone().zip(exists).filter_map(|(page, exists)| exists.then_some(page))
    }

    fn slots(&self) -> MutexGuard<'_, SlotMap> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a slot's log.
fn read_log(slots: &SlotMap, span: &Range<u64>, log: &mut Vec<u64>) -> Result<(), SlotError> {
    log.clear();
    log.resize(to_usize(((span.end - span.start) / PAGE).div_ceil(64)), 0);
    slots.dirty_log(span, log)
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

/// The words of a bitmap of all memory that have pages of `span`, and which bits of them.
fn words_of(span: &Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let pages = span.start / PAGE..span.end / PAGE;
    (pages.start / 64..pages.end.div_ceil(64)).map(move |word| {
        let first = pages.start.saturating_sub(word * 64);
        let last = (pages.end - word * 64).min(64);
        (to_usize(word), (u64::MAX >> (64 - (last - first))) << first)
    })
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

/// Sets the bits of those pages of `run` that are in the bitmap, which begins with page `first`.
fn set_bits(words: &mut [u64], first: u64, run: &Range<u64>) {
    let end = run.end.min(first + words.len() as u64 * 64);
    let mut page = run.start.max(first);
    while page < end {
        let (index, bit) = ((page - first) / 64, (page - first) % 64);
        let count = (64 - bit).min(end - page);
        words[to_usize(index)] |= (u64::MAX >> (64 - count)) << bit;
        page += count;
    }
}

/// Takes `pages` out of `runs`.
fn leave_out(runs: &mut Vec<Range<u64>>, pages: &RangeSet<u64>) {
    if !pages.is_empty() {
        *runs = runs.iter().flat_map(|run| pages.gaps(run)).collect();
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
        let mut words = [0; 4];
        for run in &runs {
            set_bits(&mut words, 64, run);
        }
        assert_eq!(words, [u64::MAX, 0, 1, 0]);
    }

    #[test]
    fn a_slot_has_its_bits_in_each_word() {
        for pages in [0..64, 0..128, 3..4, 63..65, 64..128, 70..200, 5..6] {
            let found: Vec<u64> = words_of(&(pages.start * PAGE..pages.end * PAGE))
                .flat_map(|(word, mask)| {
                    (0..64).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| word as u64 * 64 + bit)
                })
                .collect();
            assert_eq!(found, pages.collect::<Vec<_>>());
        }
    }
}
