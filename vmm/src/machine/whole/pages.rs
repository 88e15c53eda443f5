//! Pages that were taken, in buffers that are used again.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::ops::Range;

use crate::host::copy::MAX_SPANS;
use crate::host::pagemap::Pagemap;
use crate::memory::layout::{PAGE, to_usize};
use crate::memory::program::ProgramMemory;

/// Bytes of a page, as indices count them.
const PAGE_BYTES: usize = 4096;
/// Pages of a slab: what memory is asked for at a time.
const SLAB_PAGES: usize = 256;
/// Slabs that are kept for the next time: what is usual between two checkpoints.
const KEPT_SLABS: usize = 64;

/// Copies of the program's pages by their numbers, each page once.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    numbers: Vec<u64>,
    slabs: Vec<Box<[u8]>>,
    /// Where each page is, once it was asked for.
    places: Option<HashMap<u64, usize>>,
}

impl Pages {
    /// Pages.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Forgets all pages, and keeps a reasonable part of the memory.
    pub(crate) fn clear(&mut self) {
        self.numbers.clear();
        self.slabs.truncate(KEPT_SLABS);
        self.places = None;
    }

    /// From now on pages may be taken again, in the place of what was taken before.
    pub(crate) fn index(&mut self) {
        self.places = Some(self.numbers.iter().copied().zip(0..).collect());
    }

    /// Copies the pages of `runs`, which are ranges of page numbers. What isn't there is zeros.
    pub(crate) fn take(&mut self, memory: &ProgramMemory, pagemap: &Pagemap, runs: &[Range<u64>]) {
        // New ones that go into one slab, one after another: a system call for each run would cost more than the copy.
        let (mut first, mut together) = (0, Vec::with_capacity(SLAB_PAGES));
        for run in runs {
            let mut start = run.start;
            while start < run.end {
                let part = start..self.contiguous(start..run.end);
                start = part.end;
                if let Some(at) = self.places.as_ref().and_then(|places| places.get(&part.start)) {
                    self.copy(memory, pagemap, *at, &[part]);
                    continue;
                }
                let at = self.add(part.clone());
                if together.is_empty() {
                    first = at;
                }
                together.push(part);
                if self.numbers.len().is_multiple_of(SLAB_PAGES) {
                    self.copy(memory, pagemap, first, &together);
                    together.clear();
                }
            }
        }
        self.copy(memory, pagemap, first, &together);
    }

    /// Makes pages zeros that were taken before and aren't any more what they were.
    pub(crate) fn blank(&mut self, runs: &[Range<u64>]) {
        let Some(places) = &self.places else { return };
        let mut blank = |at: usize| {
            let (slab, first) = (at / SLAB_PAGES, at % SLAB_PAGES);
            self.slabs[slab][first * PAGE_BYTES..][..PAGE_BYTES].fill(0);
        };
        for run in runs {
            // Runs may be longer than all that was taken.
            if places.len() as u64 <= run.end - run.start {
                places.iter().filter(|(page, _)| run.contains(page)).for_each(|(_, at)| blank(*at));
            } else {
                run.clone().filter_map(|page| places.get(&page)).for_each(|at| blank(*at));
            }
        }
    }

    /// The numbers and bytes of all pages.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8; PAGE_BYTES])> {
        let slabs = self.slabs.iter().flat_map(|slab| slab.chunks_exact(PAGE_BYTES));
        let pages = slabs.filter_map(|bytes| bytes.first_chunk::<PAGE_BYTES>());
        self.numbers.iter().copied().zip(pages)
    }

    /// The end of the pages from `run.start` on that go into one piece of one slab: new ones all together, those that
    /// are there one by one.
    fn contiguous(&mut self, run: Range<u64>) -> u64 {
        let is_new = |page: u64| self.places.as_ref().is_none_or(|places| !places.contains_key(&page));
        if !is_new(run.start) {
            return run.start + 1;
        }
        let room = SLAB_PAGES - self.numbers.len() % SLAB_PAGES;
        let most = run.end.min(run.start + room as u64);
        (run.start + 1..most).find(|page| !is_new(*page)).unwrap_or(most)
    }

    /// Copies the pages of `runs` to the place `at` and behind, all in one slab.
    fn copy(&mut self, memory: &ProgramMemory, pagemap: &Pagemap, at: usize, runs: &[Range<u64>]) {
        let spans: Vec<Range<u64>> = runs.iter().map(|run| run.start * PAGE..run.end * PAGE).collect();
        let len = spans.iter().map(|span| to_usize(span.end - span.start)).sum();
        let Some(slab) = self.slabs.get_mut(at / SLAB_PAGES) else { return };
        let into = &mut slab[at % SLAB_PAGES * PAGE_BYTES..][..len];
        let window = memory.window();
        let copied = window.gather(&spans, &mut [IoSliceMut::new(into)]).unwrap_or(0);
        // A page that can't be read stops the copy: it may be without rights, or beyond its file's end.
        let pages = runs.iter().cloned().flatten().zip(into.chunks_exact_mut(PAGE_BYTES));
        for (page, into) in pages.skip(copied / PAGE_BYTES) {
            if pagemap.read(window.address(page * PAGE), into).is_err() {
                into.fill(0);
            }
        }
    }

    /// Makes room for new pages; where the first is.
    fn add(&mut self, run: Range<u64>) -> usize {
        let at = self.numbers.len();
        if let Some(places) = &mut self.places {
            places.extend(run.clone().zip(at..));
        }
        self.numbers.extend(run);
        while self.slabs.len() * SLAB_PAGES < self.numbers.len() {
            self.slabs.push(vec![0; SLAB_PAGES * PAGE_BYTES].into_boxed_slice());
        }
        at
    }
}

const _: () = assert!(SLAB_PAGES <= MAX_SPANS && PAGE == PAGE_BYTES as u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::rights::Rights;

    const BASE: u64 = 0x10_0000 / PAGE;

    #[test]
    fn pages_are_taken_once_and_again_in_their_place() {
        let memory = ProgramMemory::new().unwrap();
        let span = BASE * PAGE..(BASE + 600) * PAGE;
        memory.window().place_anonymous(span.clone(), Rights::DATA.host()).unwrap();
        let set = |page: u64, value: u64| memory.write(page * PAGE, &value).unwrap();
        for page in BASE..BASE + 600 {
            set(page, page);
        }
        // Without rights, and without memory.
        memory.window().protect(&((BASE + 5) * PAGE..(BASE + 6) * PAGE), Rights::NONE.host()).unwrap();
        let pagemap = Pagemap::open().unwrap();
        let mut pages = Pages::default();
        pages.take(&memory, &pagemap, &[BASE - 2..BASE + 300, BASE + 310..BASE + 600]);
        pages.index();
        set(BASE + 299, 7);
        set(BASE + 305, 8);
        pages.take(&memory, &pagemap, std::slice::from_ref(&(BASE + 298..BASE + 312)));
        assert_eq!(pages.len(), 602);
        let found: HashMap<u64, u64> = pages
            .iter()
            .map(|(page, bytes)| (page, u64::from_le_bytes(*bytes.first_chunk().unwrap())))
            .collect();
        for page in BASE..BASE + 600 {
            let expected = match page - BASE {
                299 => 7,
                305 => 8,
                _ => page,
            };
            assert_eq!(found.get(&page), Some(&expected), "{}", page - BASE);
        }
        assert_eq!([found[&(BASE - 2)], found[&(BASE - 1)]], [0, 0]);
        pages.clear();
        assert_eq!(pages.iter().count(), 0);
    }
}
