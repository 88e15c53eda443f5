//! The stub, the polling thread and the vCPU's thread, in every order in which they can see each other's stores.

use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::handover::{Handover, Lock, Word, Words};
use super::{ANSWERED, ARGUMENTS, CallPage, DECLINED, NUMBER, POSTED, Posted, STATE};

/// Calls that the program makes, one after the other.
const CALLS: u64 = 2;
/// How often the stub looks for an answer.
const LOOKS: usize = 2;
/// How often the polling thread looks for a call.
const POLLS: usize = 3;

/// A word that loom watches.
#[derive(Debug)]
struct Watched {
    word: AtomicU64,
    /// The mistake that the model must find: a call is taken without seeing what was stored before it was posted.
    weak: bool,
}

impl Word for Watched {
    fn load(&self, order: Ordering) -> u64 {
        self.word.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.word.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.word.swap(value, order)
    }

    fn change(&self, from: u64, to: u64, order: Ordering) -> bool {
        let order = if self.weak { Ordering::Relaxed } else { order };
        self.word.compare_exchange(from, to, order, Ordering::Relaxed).is_ok()
    }
}

/// State, number and the first two arguments; the others are the second one.
#[derive(Debug)]
struct Page([Watched; 4]);

impl Words for Page {
    type Word = Watched;

    fn word(&self, offset: u64) -> &Watched {
        &self.0[usize::try_from(offset / 8).unwrap().min(3)]
    }
}

/// The calls that were served.
type Served = Arc<Mutex<Vec<u64>>>;

/// The lock of the process.
struct Process {
    served: Mutex<Served>,
    /// The mistake: who is exited to doesn't wait for the other.
    open: Option<Served>,
}

impl Lock for Process {
    type Data = Served;

    fn with<R>(&self, use_it: impl FnOnce(&mut Served) -> R) -> R {
        match &self.open {
            Some(served) => use_it(&mut Arc::clone(served)),
            None => use_it(&mut self.served.lock().unwrap()),
        }
    }

    fn try_with<R>(&self, use_it: impl FnOnce(&mut Served) -> R) -> Option<R> {
        self.served.try_lock().ok().map(|mut served| use_it(&mut served))
    }
}

type Calls = Handover<Process, Page>;

fn serve(served: &Served, number: u64) -> u64 {
    served.lock().unwrap().push(number);
    number + 100
}

/// Makes a call as the stub does, whose stores the CPU shows in their order.
fn call(calls: &Calls, number: u64) -> u64 {
    let page = calls.page().unwrap();
    page.words.word(NUMBER).store(number, Ordering::Relaxed);
    for argument in 0..2 {
        page.words.word(ARGUMENTS + argument * 8).store(number + argument, Ordering::Relaxed);
    }
    page.words.word(STATE).store(POSTED, Ordering::Release);
    for _ in 0..LOOKS {
        match page.words.word(STATE).load(Ordering::Acquire) {
            ANSWERED => return page.words.word(NUMBER).load(Ordering::Relaxed),
            DECLINED => break,
            _ => thread::yield_now(),
        }
    }
    calls.exit(true, |served, found| match found {
        Posted::Answered(value) => value,
        Posted::Untouched | Posted::Declined => serve(served, number),
    })
}

fn poll(calls: &Calls, declines: bool) {
    calls.poll(
        |_| true,
        |served, number, args| {
            assert_eq!(args[..2], [number, number + 1], "the arguments are the call's");
            (!declines).then(|| serve(served, number))
        },
    );
}

/// A program that makes calls, and a thread that polls for them or, if `declines`, leaves them to exits.
fn each_call_is_served_once(declines: bool, weak: bool, open: bool) {
    loom::model(move || {
        let served = Served::default();
        let process =
            Process { served: Mutex::new(Arc::clone(&served)), open: open.then(|| Arc::clone(&served)) };
        let words = std::array::from_fn(|_| Watched { word: AtomicU64::new(0), weak });
        let calls = Arc::new(Calls::new(process, Some(CallPage::new(Page(words)))));
        let poller = thread::spawn({
            let calls = Arc::clone(&calls);
            move || {
                for _ in 0..POLLS {
                    poll(&calls, declines);
                    thread::yield_now();
                }
            }
        });
        for number in 1..=CALLS {
            assert_eq!(call(&calls, number), number + 100, "the answer is the call's");
        }
        poller.join().unwrap();
        assert_eq!(*served.lock().unwrap(), (1..=CALLS).collect::<Vec<_>>(), "each call once");
    });
}

#[test]
fn polled_or_by_an_exit() {
    each_call_is_served_once(false, false, false);
}

#[test]
fn declined_and_by_an_exit() {
    each_call_is_served_once(true, false, false);
}

#[test]
#[should_panic(expected = "the arguments are the call's")]
fn without_acquire_it_would_be_another_call() {
    each_call_is_served_once(false, true, false);
}

#[test]
#[should_panic(expected = "each call once")]
fn without_the_lock_it_would_be_served_twice() {
    each_call_is_served_once(false, false, true);
}
