//! With a full history, no checkpoint allocates. A test program of its own, for its allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_abi::{RegionId, RegionName};
use cairn_engine::{Config, Engine, LiveMemory, PAGE_SIZE, PageSet, Pool, TrackError, Tracker};

/// Pages of each of two regions: enough in one of them for helpers to come.
const PAGES: [usize; 2] = [8192, 40];
/// Every so many pages are hot.
const STEP: usize = 3;

/// The system's allocator, and how often it was asked by any thread.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: whatever is asked for is asked of `System`, in the same words; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise for this method is the one that `System` wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; every block is from `System`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reports every `STEP`th page, and the pages that were never protected.
struct Hot {
    open: Vec<PageSet>,
}

impl Tracker for Hot {
    fn attach(&mut self, _: RegionId, memory: &LiveMemory) -> Result<(), TrackError> {
        let mut open = PageSet::new(memory.pages()).unwrap();
        open.fill();
        self.open.push(open);
        Ok(())
    }

    fn detach(&mut self, _: RegionId) {}

    fn collect(&mut self, region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        let open = &mut self.open[region.0 as usize - 1];
        (0..open.pages()).step_by(STEP).for_each(|page| open.insert(page));
        written.union_with(open);
        Ok(())
    }

    fn protect(&mut self, region: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        self.open[region.0 as usize - 1].subtract(pages);
        Ok(())
    }
}

/// Aligned memory that is never given back.
fn pages(count: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).unwrap();
    // SAFETY: the layout has bytes.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    NonNull::new(memory).unwrap()
}

#[test]
fn a_checkpoint_with_a_full_history_allocates_nothing() {
    let pool = Pool::start(NonZeroUsize::new(2).unwrap(), || Ok::<_, std::io::Error>(())).unwrap();
    for pool in [None, Some(Arc::new(pool))] {
        let history = NonZeroUsize::new(8).unwrap();
        let helped = pool.is_some();
        let mut engine =
            Engine::new(Hot { open: Vec::new() }, Config { history, ..Config::default() }).with_pool(pool);
        let memory = PAGES.map(pages);
        for (name, (base, pages)) in ["large", "small"].into_iter().zip(memory.into_iter().zip(PAGES)) {
            // SAFETY: aligned pages that are never given back, reached by raw pointers only.
            let live = unsafe { LiveMemory::new(base, pages) };
            engine.add_region(RegionName::new(name.as_bytes()).unwrap(), live).unwrap();
        }
        let mut epoch = |value: u64| {
            for (base, pages) in memory.into_iter().zip(PAGES) {
                for page in (0..pages).step_by(STEP) {
                    // SAFETY: a word of the pages, which no other thread uses now.
                    unsafe {
                        base.add(page * PAGE_SIZE + page % 500 * 8).cast::<u64>().write_volatile(value)
                    };
                }
            }
            engine.checkpoint().unwrap()
        };
        // The history fills up, and the predictor makes up its mind.
        let filled = (0..40).map(|value| epoch(value).0).max();
        assert_eq!(filled, Some(40));
        let before = ASKED.load(Ordering::Relaxed);
        assert!(0 < before, "the allocator counts");
        let ids = (100..200).map(|value| epoch(value).0).max();
        assert_eq!(ASKED.load(Ordering::Relaxed) - before, 0, "helped: {helped}");
        assert_eq!(ids, Some(140));
    }
}
