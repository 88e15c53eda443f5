//! The ring's protocol, in every order in which two threads can see each other's stores.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::dirty_ring::{Consumer, DONE, FILLED, RingWords, WrittenPage};

const ENTRIES: usize = 2;
const SLOT: u64 = 9;

/// A ring in memory that loom watches, and KVM's side of it as virt/kvm/dirty_ring.c has it.
struct Model {
    heads: [AtomicU64; ENTRIES],
    offsets: [AtomicU64; ENTRIES],
    /// How many entries were reset, which KVM's own locks order.
    reset: AtomicU64,
}

/// What the consumer sees of it. The orders are parameters, to show that weaker ones fail.
struct View {
    ring: Arc<Model>,
    load: Ordering,
}

impl Model {
    fn new() -> Arc<Self> {
        let words = || std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self { heads: words(), offsets: words(), reset: AtomicU64::new(0) })
    }

    /// Pushes pages 1, 2, ... up to `pages`, as far as there is room, and answers how many.
    fn push(&self, pages: u64) -> u64 {
        for pushed in 0..pages {
            if pushed - self.reset.load(Ordering::Acquire) == ENTRIES as u64 {
                return pushed;
            }
            let entry = usize::try_from(pushed).unwrap() % ENTRIES;
            self.offsets[entry].store(pushed + 1, Ordering::Relaxed);
            self.heads[entry].store(SLOT << 32 | FILLED, Ordering::Release);
        }
        pages
    }

    /// Resets what is done, in order, and answers the pages that this protects.
    fn reset(&self) -> Vec<u64> {
        let mut protected = Vec::new();
        loop {
            let at = self.reset.load(Ordering::Relaxed);
            let entry = usize::try_from(at).unwrap() % ENTRIES;
            if self.heads[entry].load(Ordering::Acquire) != SLOT << 32 | DONE {
                return protected;
            }
            protected.push(self.offsets[entry].load(Ordering::Relaxed));
            self.heads[entry].store(0, Ordering::Relaxed);
            self.reset.store(at + 1, Ordering::Release);
        }
    }
}

impl RingWords for View {
    fn entries(&self) -> usize {
        ENTRIES
    }

    fn head(&self, entry: usize) -> u64 {
        self.ring.heads[entry].load(self.load)
    }

    fn offset(&self, entry: usize) -> u64 {
        self.ring.offsets[entry].load(Ordering::Relaxed)
    }

    fn give(&self, entry: usize, head: u64) {
        self.ring.heads[entry].store(head, Ordering::Release);
    }
}

/// A vCPU that writes three pages beside a consumer that takes and resets twice. What was taken must be what was
/// written, in order; what a reset protects must have been taken before.
fn takes_what_was_pushed(load: Ordering) {
    loom::model(move || {
        let ring = Model::new();
        let vcpu = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.push(3)
        });
        let mut consumer = Consumer::new(View { ring: Arc::clone(&ring), load });
        let (mut taken, mut protected) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            taken.extend(std::iter::from_fn(|| consumer.take()));
            protected.extend(ring.reset());
            assert_eq!(protected.len(), taken.len(), "a reset protects what was taken and nothing else");
        }
        let pushed = vcpu.join().unwrap();
        taken.extend(std::iter::from_fn(|| consumer.take()));
        protected.extend(ring.reset());
        let expected: Vec<u64> = (1..=pushed).collect();
        assert_eq!(protected, expected);
        let expected = expected.into_iter().map(|offset| WrittenPage { slot: 9, offset });
        assert_eq!(taken, expected.collect::<Vec<_>>());
    });
}

#[test]
fn every_page_is_taken_once_and_in_order() {
    takes_what_was_pushed(Ordering::Acquire);
}

#[test]
#[should_panic(expected = "assertion")]
fn without_acquire_a_page_would_be_another() {
    takes_what_was_pushed(Ordering::Relaxed);
}

#[test]
fn an_entry_that_is_done_is_not_taken_again() {
    loom::model(|| {
        let ring = Model::new();
        assert_eq!(ring.push(5), 2);
        let mut consumer = Consumer::new(View { ring: Arc::clone(&ring), load: Ordering::Acquire });
        assert_eq!(std::iter::from_fn(|| consumer.take()).count(), ENTRIES);
        assert_eq!(consumer.take(), None);
    });
}
