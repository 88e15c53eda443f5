//! Who serves a call: the one who finds it posted, or the one to whom its stub exits. Never both, never nobody.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CallPage, Posted, SystemPage};

/// A word that the program shares.
pub trait Word {
    /// As [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;

    /// As [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);

    /// As [`AtomicU64::swap`].
    fn swap(&self, value: u64, order: Ordering) -> u64;

    /// Whether the word was `from` and is `to` now. If not, nothing was ordered.
    fn change(&self, from: u64, to: u64, order: Ordering) -> bool;
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }

    fn change(&self, from: u64, to: u64, order: Ordering) -> bool {
        self.compare_exchange(from, to, order, Ordering::Relaxed).is_ok()
    }
}

/// The page's words.
pub trait Words {
    /// One of them.
    type Word: Word;

    /// The word at `offset` of the page, in bytes.
    fn word(&self, offset: u64) -> &Self::Word;
}

impl Words for SystemPage {
    type Word = AtomicU64;

    fn word(&self, offset: u64) -> &AtomicU64 {
        self.system.word(self.start + offset)
    }
}

/// What one thread at a time can use.
pub trait Lock {
    /// What it is.
    type Data;

    /// Waits for it and uses it.
    fn with<R>(&self, use_it: impl FnOnce(&mut Self::Data) -> R) -> R;

    /// Uses it, unless somebody else does.
    fn try_with<R>(&self, use_it: impl FnOnce(&mut Self::Data) -> R) -> Option<R>;
}

impl<T> Lock for Mutex<T> {
    type Data = T;

    /// A thread that panicked while it served a call has left it unfinished: the other one must not go on with it.
    fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        use_it(&mut self.lock().expect("no thread that serves the program has panicked"))
    }

    fn try_with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.try_lock().ok().map(|mut data| use_it(&mut data))
    }
}

/// What a program's calls change, and where they may be posted. Whoever serves a call has the lock from before he
/// takes it until it is answered.
#[derive(Debug)]
pub struct Handover<L, P> {
    state: L,
    page: Option<CallPage<P>>,
}

impl<L: Lock, P: Words> Handover<L, P> {
    /// Calls that are posted in `page`, or only made by exits.
    pub fn new(state: L, page: Option<CallPage<P>>) -> Self {
        Self { state, page }
    }

    /// Where calls are posted.
    pub fn page(&self) -> Option<&CallPage<P>> {
        self.page.as_ref()
    }

    /// Uses what the calls change.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut L::Data) -> R) -> R {
        self.state.with(use_it)
    }

    /// A call came by an exit; `posted` says that its stub had posted it and gave up. `serve` is told what became of
    /// it until then.
    pub fn exit<R>(&self, posted: bool, serve: impl FnOnce(&mut L::Data, Posted) -> R) -> R {
        self.state.with(|state| {
            let found = match &self.page {
                Some(page) if posted => page.withdraw(),
                _ => Posted::Declined,
            };
            serve(state, found)
        })
    }

    /// Serves the call that is posted, if there is one and `ready` says that one may be served. The answer is what
    /// `serve` makes of its number and arguments; without one it's to be made by an exit. Returns whether there was one.
    ///
    /// If somebody serves a call just now it was posted by a program that misuses the page, or its stub exits in a
    /// moment: then it's left alone.
    pub fn poll(
        &self,
        ready: impl FnOnce(&L::Data) -> bool,
        serve: impl FnOnce(&mut L::Data, u64, [u64; 6]) -> Option<u64>,
    ) -> bool {
        let Some(page) = self.page.as_ref().filter(|page| page.is_posted()) else { return false };
        let served = self.state.try_with(|state| {
            if !ready(state) {
                return false;
            }
            let Some((number, args)) = page.take() else { return false };
            match serve(state, number, args) {
                Some(value) => page.answer(value),
                None => page.decline(),
            }
            true
        });
        served.unwrap_or(false)
    }
}
