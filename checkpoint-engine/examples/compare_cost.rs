//! What the engine itself costs, without a hypervisor: time per checkpoint and per written page.
//!
//! `cargo run --release -p cairn-engine --example compare_cost [THREADS]`
//!
//! With more than one thread, a pool helps where enough pages were written.
//! The tracker here is told what was written, so its own cost is close to nothing. One 8-byte word of each page
//! changes in each epoch, written by this thread or by one that is pinned to another core.

use std::error::Error;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use cairn_abi::{RegionId, RegionName};
use cairn_engine::{Config, Engine, LiveMemory, PAGE_SIZE, PageSet, Pool, Rule, TrackError, Tracker};

const EPOCHS: usize = 200;
/// Epochs whose times don't count: the history fills up and the pages become hot.
const WARM_UP: usize = 20;
const MIB: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:<42} {:>10} {:>10} {:>9}", "case", "p10", "p50", "p50/page");
    let threads = std::env::args().nth(1).map_or(Ok(1), |text| text.parse::<usize>())?;
    let pool = NonZeroUsize::new(threads.saturating_sub(1));
    let pool =
        pool.map(|helpers| Pool::start(helpers, || Ok::<_, std::io::Error>(()))).transpose()?.map(Arc::new);
    let sizes = [
        (64, 0),
        (1024, 0),
        (64, 16),
        (64, 163),
        (64, 819),
        (64, 1638),
        (64, 16384),
        (1024, 2621),
        (1024, 26214),
    ];
    for (mib, pages) in sizes {
        for (writer, other_core) in [("same core", false), ("other core", true)] {
            // A writer of its own takes a core from the pool.
            if !other_core || (pages > 0 && pool.is_none()) {
                let mut case = Case::new(mib, pages, pool.clone())?;
                report(
                    &format!("checkpoint, {pages} pages of {mib} MiB, {writer}"),
                    pages,
                    case.run(other_core, false)?,
                );
            }
        }
    }
    for (what, fill) in [("zeros", 0), ("a word in each page", 1)] {
        let times: Result<Vec<u64>, _> = (0..10).map(|_| first_checkpoint(64, fill, pool.clone())).collect();
        report(&format!("first checkpoint of 64 MiB, {what}"), 16384, times?);
    }
    let mut case = Case::new(64, 16384, pool.clone())?;
    case.writes = Writes::Whole;
    report("checkpoint, 16384 whole pages, same core", 16384, case.run(false, false)?);
    for pages in [163, 1638] {
        // What would be left of a checkpoint whose pages had all been compared and taken before.
        let mut case = Case::new(64, pages, pool.clone())?;
        case.writes = Writes::Same;
        report(&format!("checkpoint, {pages} pages of 64 MiB, same bytes"), pages, case.run(false, false)?);
    }
    for pages in [163, 1638, 16384] {
        report(
            &format!("rollback, {pages} pages of 64 MiB, same core"),
            pages,
            Case::new(64, pages, pool.clone())?.run(false, true)?,
        );
    }
    Ok(())
}

fn report(case: &str, pages: usize, mut nanoseconds: Vec<u64>) {
    nanoseconds.sort_unstable();
    let (p10, p50) = (nanoseconds[nanoseconds.len() / 10], nanoseconds[nanoseconds.len() / 2]);
    #[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
    let per_page = if pages == 0 { 0.0 } else { p50 as f64 / pages as f64 };
    println!("{case:<42} {p10:>7} ns {p50:>7} ns {per_page:>6.1} ns");
}

/// Times the first checkpoint of a region that was written before.
fn first_checkpoint(mib: usize, fill: u64, pool: Option<Arc<Pool>>) -> Result<u64, Box<dyn Error>> {
    let (mut engine, memory) = new_engine(mib, pool)?;
    (0..mib * MIB / PAGE_SIZE).for_each(|page| write(memory, page, fill));
    let start = Instant::now();
    engine.checkpoint()?;
    Ok(u64::try_from(start.elapsed().as_nanos())?)
}

/// An engine with one region, all of which is reported as written.
fn new_engine(mib: usize, pool: Option<Arc<Pool>>) -> Result<(Engine<Told>, NonNull<u8>), Box<dyn Error>> {
    let (memory, total) = (map(mib * MIB)?, mib * MIB / PAGE_SIZE);
    let mut written = PageSet::new(total)?;
    written.fill();
    let config = Config { rule: Rule::Model, history: NonZeroUsize::MIN, ..Config::default() };
    let mut engine = Engine::new(Told { written, quiet: false }, config).with_pool(pool);
    // SAFETY: the mapping is never unmapped, and only raw pointers write it.
    let live = unsafe { LiveMemory::new(memory, total) };
    engine.add_region(RegionName::new(b"case")?, live)?;
    Ok((engine, memory))
}

/// Reports the pages it was told about.
struct Told {
    written: PageSet,
    /// Reports nothing, without looking.
    quiet: bool,
}

impl Tracker for Told {
    fn attach(&mut self, _: RegionId, _: &LiveMemory) -> Result<(), TrackError> {
        Ok(())
    }

    fn detach(&mut self, _: RegionId) {}

    fn collect(&mut self, _: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        if !self.quiet {
            written.union_with(&self.written);
        }
        Ok(())
    }

    fn protect(&mut self, _: RegionId, _: &PageSet) -> Result<(), TrackError> {
        Ok(())
    }
}

/// One region and the pages of it that are written in each epoch.
struct Case {
    engine: Engine<Told>,
    memory: NonNull<u8>,
    hot: Vec<usize>,
    writes: Writes,
}

/// What an epoch writes into each page.
#[derive(Clone, Copy)]
enum Writes {
    /// Another word.
    Word,
    /// All of it.
    Whole,
    /// The word that is there.
    Same,
}

impl Case {
    fn new(mib: usize, pages: usize, pool: Option<Arc<Pool>>) -> Result<Self, Box<dyn Error>> {
        let ((mut engine, memory), total) = (new_engine(mib, pool)?, mib * MIB / PAGE_SIZE);
        (0..total).for_each(|page| write(memory, page, 1));
        engine.checkpoint()?;
        // An odd multiplier scatters the pages and meets none twice.
        let hot: Vec<usize> = (0..pages).map(|i| i * 7919 % total).collect();
        let told = engine.tracker_mut();
        told.quiet = hot.is_empty();
        told.written.clear();
        hot.iter().for_each(|&page| told.written.insert(page));
        Ok(Self { engine, memory, hot, writes: Writes::Word })
    }

    /// Times `EPOCHS` checkpoints, or rollbacks.
    fn run(&mut self, other_core: bool, rollback: bool) -> Result<Vec<u64>, Box<dyn Error>> {
        if other_core {
            pin(0);
        }
        let memory = SendPtr(self.memory);
        let hot = self.hot.clone();
        let (asked, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            if other_core {
                scope.spawn(|| {
                    pin(1);
                    while !stop.load(Ordering::Relaxed) {
                        let epoch = asked.load(Ordering::Acquire);
                        if epoch != done.load(Ordering::Relaxed) {
                            hot.iter().for_each(|&page| write(memory.get(), page, epoch));
                            done.store(epoch, Ordering::Release);
                        }
                        std::thread::yield_now();
                    }
                });
            }
            let times = (1..=EPOCHS + WARM_UP).map(|epoch| {
                if other_core {
                    asked.store(epoch as u64 + 1, Ordering::Release);
                    while done.load(Ordering::Acquire) != epoch as u64 + 1 {
                        std::thread::yield_now();
                    }
                } else {
                    let value = epoch as u64 + 1;
                    self.hot.iter().for_each(|&page| match self.writes {
                        Writes::Word => write(self.memory, page, value),
                        Writes::Whole => write_whole(self.memory, page, value),
                        Writes::Same => write(self.memory, page, 1),
                    });
                }
                let start = Instant::now();
                if rollback {
                    let newest = self.engine.figures().current;
                    self.engine.rollback(cairn_abi::CheckpointId(newest))?;
                } else {
                    self.engine.checkpoint()?;
                }
                Ok(u64::try_from(start.elapsed().as_nanos())?)
            });
            let times: Result<Vec<u64>, Box<dyn Error>> = times.collect();
            stop.store(true, Ordering::Relaxed);
            Ok(times?.split_off(WARM_UP))
        })
    }
}

#[derive(Clone, Copy)]
struct SendPtr(NonNull<u8>);

impl SendPtr {
    fn get(self) -> NonNull<u8> {
        self.0
    }
}

// SAFETY: the mapping is never unmapped, and only raw pointers write it.
unsafe impl Send for SendPtr {}
// SAFETY: as above.
unsafe impl Sync for SendPtr {}

/// Writes one word of `page`; a different one in each page.
fn write(memory: NonNull<u8>, page: usize, value: u64) {
    let word = memory.as_ptr().wrapping_add(page * PAGE_SIZE + page % 512 * 8).cast::<u64>();
    // SAFETY: the word is inside the mapping and aligned; the engine reads it only when this thread is done.
    unsafe { word.write_volatile(value) };
}

/// Writes every word of `page`.
fn write_whole(memory: NonNull<u8>, page: usize, value: u64) {
    let first = memory.as_ptr().wrapping_add(page * PAGE_SIZE).cast::<u64>();
    for word in 0..PAGE_SIZE / 8 {
        // SAFETY: the word is inside the mapping and aligned; the engine reads it only when this thread is done.
        unsafe { first.wrapping_add(word).write_volatile(value) };
    }
}

fn map(len: usize) -> Result<NonNull<u8>, Box<dyn Error>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address that the kernel chooses touches no memory in use.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // As an app guest's memory.
    // SAFETY: the range is the mapping made above; the advice changes no content. Failure is harmless.
    unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
    Ok(NonNull::new(base.cast()).ok_or("mapped at address 0")?)
}

/// Pins this thread to `cpu`, if there is one.
fn pin(cpu: usize) {
    // SAFETY: an all-zero cpu_set_t is an empty set, and the kernel reads no more than it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
