//! Sparse regions: only what has memory is copied, all else is zeros.

use std::ops::Range;

use super::sys::pagemap::Pagemap;
use crate::memory::{Block, PAGE};

/// Byte ranges of a block, ascending and apart.
pub(super) type Runs = Vec<Range<usize>>;

/// The ranges of `block` that have memory in this process, of which `pagemap` is. Memory that was
/// adopted may hold something before it is first touched, so that is all of it.
pub(super) fn runs(block: &Block, pagemap: Option<&mut Pagemap>) -> Runs {
    runs_in(block.address()..block.address() + block.len(), pagemap.filter(|_| block.is_owned()))
}

/// The ranges of a span that have memory in the process of `pagemap`, as distances from its start.
/// Without a pagemap that is all of it.
pub(super) fn runs_in(span: Range<usize>, pagemap: Option<&mut Pagemap>) -> Runs {
    let mut runs = Runs::new();
    let scanned = pagemap.map(|pagemap| {
        pagemap.resident(span.clone(), |found| {
            let found = found.start - span.start..found.end - span.start;
            match runs.last_mut() {
                Some(last) if last.end == found.start => last.end = found.end,
                _ => runs.push(found),
            }
        })
    });
    if !matches!(scanned, Some(Ok(()))) {
        runs.clear();
        runs.push(0..span.len());
    }
    runs
}

/// The parts of `runs` that are not in `others`.
pub(super) fn difference(runs: &[Range<usize>], others: &[Range<usize>]) -> Runs {
    let mut rest = Runs::new();
    let mut others = others.iter().peekable();
    for run in runs {
        let mut start = run.start;
        while let Some(other) = others.peek().filter(|other| other.start < run.end) {
            if start < other.start {
                rest.push(start..other.start);
            }
            start = start.max(other.end);
            if other.end > run.end {
                break;
            }
            others.next();
        }
        if start < run.end {
            rest.push(start..run.end);
        }
    }
    rest
}

/// Makes `live` equal to `wanted`, a multiple of pages long, writing only pages that differ: a write
/// to a page that is shared with a snapshot would cost a copy of its own.
pub(super) fn restore_pages(live: &mut [u8], wanted: &[u8]) {
    for (live, wanted) in live.chunks_mut(PAGE).zip(wanted.chunks(PAGE)) {
        if live != wanted {
            live.copy_from_slice(wanted);
        }
    }
}

/// Makes pages zeros, writing only those that aren't.
pub(super) fn restore_zeros(live: &mut [u8]) {
    for page in live.chunks_mut(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)) {
        page.fill(0);
    }
}

/// Pages in which two lengths of bytes differ.
pub(super) fn count_differing_pages(one: &[u8], other: &[u8]) -> u64 {
    one.chunks(PAGE).zip(other.chunks(PAGE)).filter(|(one, other)| one != other).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs_of(marks: &[bool]) -> Runs {
        let mut runs = Runs::new();
        for index in (0..marks.len()).filter(|index| marks[*index]) {
            match runs.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn the_difference_is_what_only_the_first_has(
            marks in proptest::collection::vec(any::<(bool, bool)>(), 0..60),
        ) {
            let (one, other): (Vec<_>, Vec<_>) = marks.iter().copied().unzip();
            let both: Vec<_> = marks.iter().map(|(one, other)| *one && !other).collect();
            prop_assert_eq!(difference(&runs_of(&one), &runs_of(&other)), runs_of(&both));
        }
    }

    #[test]
    fn only_pages_that_differ_are_counted_and_written() {
        let mut live = vec![1; 3 * PAGE];
        let mut wanted = live.clone();
        wanted[PAGE] = 2;
        assert_eq!(count_differing_pages(&live, &wanted), 1);
        restore_pages(&mut live, &wanted);
        assert_eq!(live, wanted);
        restore_zeros(&mut live);
        assert!(live.iter().all(|byte| *byte == 0));
    }
}
