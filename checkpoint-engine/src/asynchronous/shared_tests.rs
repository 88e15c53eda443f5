//! Who copies, who is held back and who ends the work, in every order in which their steps can come.

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::shared::{Batches, Lock, Shared};

const PAGES: usize = 2;

/// Memory of a program, which orders nothing.
struct Memory {
    bytes: [AtomicU64; PAGES],
    held: [AtomicBool; PAGES],
}

/// Pages that are taken one by one.
struct Pages {
    memory: Arc<Memory>,
    taken: [Option<u64>; PAGES],
    /// The mistake that the model must find: a page is thawed before it is taken.
    thaws_first: bool,
}

struct Watched(Mutex<Option<Pages>>);

impl Lock for Watched {
    type Data = Option<Pages>;

    fn with<R>(&self, use_it: impl FnOnce(&mut Self::Data) -> R) -> R {
        use_it(&mut self.0.lock().unwrap())
    }
}

impl Memory {
    fn frozen() -> Arc<Self> {
        let bytes = std::array::from_fn(|page| AtomicU64::new(page as u64));
        Arc::new(Self { bytes, held: std::array::from_fn(|_| AtomicBool::new(true)) })
    }

    fn is_held(&self, page: usize) -> bool {
        self.held[page].load(Ordering::Acquire)
    }

    fn thaw(&self, page: usize) {
        self.held[page].store(false, Ordering::Release);
    }
}

impl Pages {
    fn take(&mut self, page: usize) {
        if self.thaws_first {
            self.memory.thaw(page);
        }
        self.taken[page] = Some(self.memory.bytes[page].load(Ordering::Relaxed));
        self.memory.thaw(page);
    }
}

impl Batches for Pages {
    fn copy_some(&mut self) -> bool {
        let next = self.taken.iter().position(Option::is_none);
        if let Some(page) = next {
            self.take(page);
        }
        next.is_some()
    }

    fn copy_at(&mut self, address: u64) -> bool {
        let page = usize::try_from(address).unwrap();
        if self.taken[page].is_none() {
            self.take(page);
        }
        self.memory.thaw(page);
        true
    }

    fn thaw_all(&self) {
        (0..PAGES).filter(|page| self.taken[*page].is_none()).for_each(|page| self.memory.thaw(page));
    }
}

/// A thread that copies, a program that writes each page (the last first), and the caller's end of the work.
fn with_all_of_them(thaws_first: bool, end: fn(&Shared<Watched>)) {
    loom::model(move || {
        let memory = Memory::frozen();
        let shared = Arc::new(Shared(Watched(Mutex::new(None))));
        shared.begin(Pages { memory: Arc::clone(&memory), taken: [None; PAGES], thaws_first });
        let copier = thread::spawn({
            let shared = Arc::clone(&shared);
            move || while shared.copy_some() {}
        });
        let program = thread::spawn({
            let (shared, memory) = (Arc::clone(&shared), Arc::clone(&memory));
            move || {
                for page in (0..PAGES).rev() {
                    if memory.is_held(page) {
                        // Whoever hears of the writer; where that is nobody's page any more, it's thawed already.
                        shared.copy_at(page as u64);
                        assert!(!memory.is_held(page), "a writer waits for ever");
                    }
                    memory.bytes[page].store(99, Ordering::Relaxed);
                }
            }
        });
        end(&shared);
        copier.join().unwrap();
        program.join().unwrap();
        assert!(!shared.copy_some() && !shared.copy_at(0) && shared.look(|_| ()).is_none(), "it has ended");
        assert!((0..PAGES).all(|page| !memory.is_held(page)));
    });
}

fn finish(shared: &Shared<Watched>) {
    let work = shared.finish().expect("nobody else ends it");
    assert_eq!(work.taken, [Some(0), Some(1)], "what the program had written when the work began");
}

#[test]
fn what_is_finished_is_what_was_frozen() {
    with_all_of_them(false, finish);
}

#[test]
fn a_caller_that_looks_before_it_finishes() {
    with_all_of_them(false, |shared| {
        let all_taken = shared.look(|work| work.taken.iter().all(Option::is_some));
        assert!(all_taken.is_some(), "it is there until it is finished");
        finish(shared);
    });
}

#[test]
fn nobody_waits_for_work_that_is_given_up() {
    with_all_of_them(false, Shared::cancel);
}

#[test]
#[should_panic(expected = "what the program had written when the work began")]
fn a_page_that_is_thawed_first_would_be_found() {
    with_all_of_them(true, finish);
}
