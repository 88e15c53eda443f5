//! Sets of pages as runs: what a kernel call takes.

use std::ops::Range;

use cairn_engine::PageSet;

/// The words of a bitmap that hold `pages`, each with the bits that do.
pub(super) fn masks(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let words = if pages.is_empty() { 0..0 } else { pages.start / 64..pages.end.div_ceil(64) };
    words.map(move |word| {
        let first = pages.start.saturating_sub(word * 64);
        let last = (pages.end - word * 64).min(64);
        (word, (u64::MAX >> (64 - (last - first))) << first)
    })
}

/// The fewest runs that hold all pages of `set` and none of `others`: pages in neither may be in a
/// run, so that one kernel call does for many, but at most `gap` of them in a row.
pub(super) fn covering(
    set: &PageSet,
    others: &PageSet,
    gap: usize,
    mut each: impl FnMut(Range<usize>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut barriers = others.iter().peekable();
    let mut run = None::<Range<usize>>;
    for page in set {
        let mut parted = false;
        while let Some(barrier) = barriers.next_if(|barrier| *barrier < page) {
            parted |= run.as_ref().is_some_and(|run| barrier >= run.end);
        }
        match &mut run {
            Some(run) if !parted && page - run.end <= gap => run.end = page + 1,
            _ => {
                if let Some(done) = run.replace(page..page + 1) {
                    each(done)?;
                }
            }
        }
    }
    run.map_or(Ok(()), each)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: usize = 300;

    fn set_of(pages: impl IntoIterator<Item = usize>) -> PageSet {
        let mut set = PageSet::new(PAGES).unwrap();
        pages.into_iter().for_each(|page| set.insert(page));
        set
    }

    fn runs(set: &PageSet, others: &PageSet, gap: usize) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        covering(set, others, gap, |run| {
            runs.push(run);
            Ok(())
        })
        .unwrap();
        runs
    }

    #[test]
    fn gaps_are_bridged_up_to_the_limit() {
        let set = set_of([0, 1, 5, 100]);
        assert_eq!(runs(&set, &set_of([]), 0), [0..2, 5..6, 100..101]);
        assert_eq!(runs(&set, &set_of([]), 2), [0..2, 5..6, 100..101]);
        assert_eq!(runs(&set, &set_of([]), 3), [0..6, 100..101]);
        assert_eq!(runs(&set, &set_of([]), PAGES), vec![0..101]);
        assert_eq!(runs(&set, &set_of([3]), PAGES), [0..2, 5..101]);
        assert_eq!(runs(&set_of([]), &set, PAGES), []);
    }

    proptest! {
        #[test]
        fn runs_hold_the_set_and_nothing_of_the_others(
            marks in proptest::collection::vec(0..4_u8, PAGES),
            gap in 0..PAGES,
        ) {
            let marked = |mark| (0..PAGES).filter(|page| marks[*page] == mark).collect::<Vec<_>>();
            let (set, others) = (set_of(marked(1)), set_of(marked(2)));
            let mut covered = set_of([]);
            for run in runs(&set, &others, gap) {
                prop_assert!(set.contains(run.start) && set.contains(run.end - 1));
                covered.insert_run(run);
            }
            prop_assert!(set.iter().all(|page| covered.contains(page)));
            prop_assert!(others.iter().all(|page| !covered.contains(page)));
        }

        #[test]
        fn masks_cover_exactly_the_pages(start in 0..PAGES, len in 0..PAGES) {
            let end = PAGES.min(start + len);
            let mut set = set_of([]);
            set.insert_run(start..end);
            prop_assert!(set.iter().eq(start..end));
            set.insert_run(start..PAGES + 70);
            prop_assert!(set.iter().eq(start..PAGES));
            let copy = set.clone();
            set.subtract(&copy);
            prop_assert!(set.is_empty());
        }
    }
}
