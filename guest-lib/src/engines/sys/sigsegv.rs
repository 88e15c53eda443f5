//! The SIGSEGV handler: a write to a protected page is noted, and the page made writable.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{self, MprotectFlags};

use crate::engines::runs::masks;
use crate::memory::PAGE;

/// Spans that all sessions of the process may watch at once: the handler's table is static, because a
/// handler can take no lock. 16 sessions with 64 regions each.
const MAX_WATCHES: usize = 1024;
/// The code of a fault that the page's protection caused: SEGV_ACCERR of `asm-generic/siginfo.h`.
const SEGV_ACCERR: libc::c_int = 2;
/// Pages to unprotect at a fault, smallest first: a page on its own splits a mapping in three, and
/// the kernel allows 65530 mappings (`vm.max_map_count`). When it has no more, larger runs merge them.
const RUN_PAGES: [usize; 4] = [1, 64, 1024, usize::MAX];
/// Turns to wait for handlers before a table is leaked rather than freed.
const MAX_SPINS: u32 = 1 << 20;

/// What the handler searches, up to `USED`.
static WATCHES: [AtomicPtr<Watched>; MAX_WATCHES] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_WATCHES];
static USED: AtomicUsize = AtomicUsize::new(0);
/// Handlers that may be reading the table now.
static READERS: AtomicUsize = AtomicUsize::new(0);
/// Who had the signal before. Set before the handler is there, which reads it.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
/// Whether the handler is there.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// What the handler needs to know of a span.
#[derive(Debug)]
struct Watched {
    start: NonNull<u8>,
    pages: usize,
    /// Bit `i` of word `w` is page `64 * w + i`: it is writable, or about to be.
    writable: Box<[AtomicU64]>,
}

// SAFETY: the pointer is only an address for mprotect; the bits are atomic.
unsafe impl Sync for Watched {}
// SAFETY: as above.
unsafe impl Send for Watched {}

/// A span of memory whose pages can be protected. Dropping it makes all of it writable.
#[derive(Debug)]
pub(crate) struct Watch {
    slot: usize,
    watched: NonNull<Watched>,
}

// SAFETY: the pointee is `Sync` and `Send`, and freed by the one owner.
unsafe impl Send for Watch {}

impl Watch {
    /// Watches the `pages` pages from `start`, all of them writable yet.
    ///
    /// # Safety
    /// They are readable and writable private memory and stay mapped until the watch is dropped.
    pub(crate) unsafe fn new(start: NonNull<u8>, pages: usize) -> io::Result<Self> {
        once(&INSTALLED, install)?;
        let writable = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(u64::MAX)).collect();
        let watched = NonNull::from(Box::leak(Box::new(Watched { start, pages, writable })));
        for (slot, entry) in WATCHES.iter().enumerate() {
            let free = entry.compare_exchange(
                ptr::null_mut(),
                watched.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            if free.is_ok() {
                USED.fetch_max(slot + 1, Ordering::SeqCst);
                return Ok(Self { slot, watched });
            }
        }
        // SAFETY: it came from the box above and was not published.
        drop(unsafe { Box::from_raw(watched.as_ptr()) });
        Err(io::Error::other("the process watches 1024 regions already"))
    }

    /// The pages that are writable.
    pub(crate) fn writable(&self) -> &[AtomicU64] {
        &self.watched().writable
    }

    /// Makes pages read-only. The program must not write them meanwhile.
    pub(crate) fn protect(&self, pages: Range<usize>) -> io::Result<()> {
        self.watched().set(pages.clone(), MprotectFlags::READ)?;
        clear_bits(self.writable(), pages);
        Ok(())
    }

    /// Makes pages writable without a fault, or more than these if the kernel has no mappings left.
    pub(crate) fn unprotect(&self, pages: Range<usize>) -> io::Result<()> {
        let watched = self.watched();
        watched.unprotect(pages).or_else(|_| watched.unprotect(0..watched.pages))
    }

    fn watched(&self) -> &Watched {
        // SAFETY: it was leaked in `new` and is freed only by `drop`.
        unsafe { self.watched.as_ref() }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let watched = self.watched();
        // One mapping with one protection needs no new mapping; if it fails all the same, writes go
        // on to fault, and nobody is left to resolve that: so the entry stays.
        if watched.unprotect(0..watched.pages).is_err() {
            return;
        }
        WATCHES[self.slot].store(ptr::null_mut(), Ordering::SeqCst);
        for _ in 0..MAX_SPINS {
            if READERS.load(Ordering::SeqCst) == 0 {
                // SAFETY: it came from a box in `new`. No handler has it: one that started before the
                // store is over (it was counted in READERS), one that starts later finds null.
                drop(unsafe { Box::from_raw(self.watched.as_ptr()) });
                return;
            }
            std::hint::spin_loop();
        }
        // A handler that was cut off by a fork in another thread is counted for ever: leak the table.
    }
}

impl Watched {
    /// Makes pages writable. Their bits are set first, so no write goes unnoticed.
    fn unprotect(&self, pages: Range<usize>) -> io::Result<()> {
        set_bits(&self.writable, pages.clone());
        self.set(pages, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    fn set(&self, pages: Range<usize>, protection: MprotectFlags) -> io::Result<()> {
        let start = self.start.as_ptr().wrapping_add(pages.start * PAGE);
        // SAFETY: `pages` are of this span, which is mapped by the contract of `Watch::new`. Reading
        // stays allowed; a write while it isn't faults into `on_fault`, which allows it.
        Ok(unsafe { mm::mprotect(start.cast(), pages.len() * PAGE, protection) }?)
    }

    /// Called by the handler: allows the write to `address` if it is in this span.
    fn resolve(&self, address: usize) -> Option<io::Result<()>> {
        let page = address.checked_sub(self.start.addr().get())? / PAGE;
        if page >= self.pages {
            return None;
        }
        let mut result = Ok(());
        for run in RUN_PAGES {
            let first = page - page % run;
            result = self.unprotect(first..first.saturating_add(run).min(self.pages));
            if result.is_ok() {
                break;
            }
        }
        Some(result)
    }
}

/// Does something once. When this returns without an error it's done, whoever does it.
fn once(done: &Mutex<bool>, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
    if !*done {
        work()?;
        *done = true;
    }
    Ok(())
}

/// Installs the handler. It stays: others may have chained to it.
fn install() -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction, and sigaction only fills it in.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the pointer is to a local.
    if unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), &raw mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    PREVIOUS.get_or_init(|| previous);
    // SAFETY: as above; an empty mask is all zeros.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
    action.sa_sigaction = handler as usize;
    // On the alternative stack where a thread has one: the previous handler may need it, Rust's
    // reports stack overflows there.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_fault` has the type that SA_SIGINFO asks for and makes only async-signal-safe calls.
    if unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Resolves faults in watched spans; all others are the previous handler's. Async-signal-safe: atomics
/// and mprotect, as a raw system call that leaves errno alone.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a SA_SIGINFO handler a valid siginfo.
    let code = unsafe { (*info).si_code };
    let resolved = if code == SEGV_ACCERR {
        // SAFETY: SEGV_ACCERR comes with an address.
        find_and_resolve(unsafe { (*info).si_addr() }.addr())
    } else {
        None
    };
    match resolved {
        Some(Ok(())) => {}
        Some(Err(_)) => {
            say(b"cairn: a write-protected page can't be made writable: raise vm.max_map_count or use CAIRN_ENGINE=uffd-wp\n");
            chain(signal, info, context);
        }
        None => chain(signal, info, context),
    }
}

fn find_and_resolve(address: usize) -> Option<io::Result<()>> {
    READERS.fetch_add(1, Ordering::SeqCst);
    let used = USED.load(Ordering::SeqCst).min(MAX_WATCHES);
    let resolved = WATCHES[..used].iter().find_map(|entry| {
        // SAFETY: a pointer in the table was leaked by `Watch::new`, and `Watch::drop` frees it only
        // after taking it out and seeing no reader; this is a reader.
        let watched = unsafe { entry.load(Ordering::SeqCst).as_ref() }?;
        watched.resolve(address)
    });
    READERS.fetch_sub(1, Ordering::SeqCst);
    resolved
}

/// Does what would have happened without us.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as in `on_fault`.
    let sent_by_a_process = unsafe { (*info).si_code } <= 0;
    let Some(previous) = PREVIOUS.get() else { return };
    match previous.sa_sigaction {
        libc::SIG_IGN if sent_by_a_process => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: all zeros is the default action with an empty mask.
            let default: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: async-signal-safe. The fault happens again on return and then kills; a signal
            // that a process sent doesn't, so it is raised again.
            unsafe {
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if sent_by_a_process {
                    libc::raise(signal);
                }
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: the program installed it with SA_SIGINFO, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, Action>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the program installed it without SA_SIGINFO, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}

/// Writes to standard error without any lock.
fn say(message: &[u8]) {
    // SAFETY: write is async-signal-safe and reads only `message`. Its failing can't be reported.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
}

fn set_bits(words: &[AtomicU64], pages: Range<usize>) {
    for (word, mask) in masks(pages) {
        words[word].fetch_or(mask, Ordering::Relaxed);
    }
}

fn clear_bits(words: &[AtomicU64], pages: Range<usize>) {
    for (word, mask) in masks(pages) {
        words[word].fetch_and(!mask, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn nobody_goes_on_before_it_is_done() {
        let (done, made) = (Mutex::new(false), Mutex::new(0));
        let (begin, begun) = channel();
        let (end, ended) = channel::<()>();
        thread::scope(|scope| {
            let (done, made) = (&done, &made);
            let make = move || {
                begin.send(()).unwrap();
                ended.recv().unwrap();
                *made.lock().unwrap() += 1;
                Ok(())
            };
            scope.spawn(move || once(done, make).unwrap());
            begun.recv().unwrap();
            let others: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(move || {
                        once(done, || panic!("twice")).unwrap();
                        assert_eq!(*made.lock().unwrap(), 1, "it isn't done");
                    })
                })
                .collect();
            end.send(()).unwrap();
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    #[test]
    fn what_failed_is_tried_again() {
        let done = Mutex::new(false);
        assert!(once(&done, || Err(io::ErrorKind::Other.into())).is_err());
        once(&done, || Ok(())).unwrap();
        once(&done, || panic!("twice")).unwrap();
    }
}
