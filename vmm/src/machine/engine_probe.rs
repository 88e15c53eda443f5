//! Measures what comparing and copying a page costs here, with the engine itself.

use std::io;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use cairn_abi::{RegionId, RegionName};
use cairn_engine::{Config, Engine, EngineError, LiveMemory, PageSet, Rule, TrackError, Tracker};
use std::sync::atomic::Ordering;

use crate::host::mapping::Reservation;
use crate::memory::layout::{PAGE, to_usize};

/// Pages that are compared: 8 MiB with their mirror, more than a core's own cache.
const PAGES: usize = 1024;

/// Checkpoints of each kind; the quickest counts.
const ROUNDS: u32 = 3;

/// Nanoseconds for each page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineCosts {
    /// A page in which nothing changed.
    pub compare_ns: u64,
    /// A page in which one word changed.
    pub word_ns: u64,
    /// A page that changed as a whole.
    pub copy_ns: u64,
    /// The vector instructions that are used.
    pub instructions: &'static str,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum EngineProbeError {
    /// The host refused memory.
    #[error("the host refused memory for measuring")]
    Memory(#[from] io::Error),
    /// The engine failed.
    #[error("the engine failed while measuring")]
    Engine(#[from] EngineError),
}

/// Measures; takes a few milliseconds.
///
/// # Errors
/// [`EngineProbeError`].
pub fn measure() -> Result<EngineCosts, EngineProbeError> {
    let align = to_usize(PAGE);
    let memory = Reservation::anonymous(PAGES * align, align)?;
    let write = |words: &[usize], value: u64| {
        for page in 0..PAGES {
            for word in words {
                memory.word((page * align + word * 8) as u64).store(value, Ordering::Relaxed);
            }
        }
    };
    let whole: Vec<usize> = (0..align / 8).collect();
    let base = memory
        .pointer(&(0..memory.len() as u64))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the reservation is readable and writable, page-aligned, outlives the engine (it's
    // declared before), and is only accessed as atomics.
    let live = unsafe { LiveMemory::new(base, PAGES) };
    // With one retained checkpoint, each one reuses the memory of the one that it evicts.
    let config = Config { rule: Rule::Always, history: NonZeroUsize::MIN, ..Config::default() };
    let mut engine = Engine::new(Everything, config);
    engine.add_region(name(), live)?;
    let mut value = 0;
    let mut timed = |words: &[usize]| -> Result<u64, EngineError> {
        let mut least = Duration::MAX;
        // The first rounds make the mirror's and the history's pages resident.
        for _ in 0..ROUNDS {
            value += 1;
            write(words, value);
            let start = Instant::now();
            engine.checkpoint()?;
            least = least.min(start.elapsed());
        }
        Ok(u64::try_from(least.as_nanos()).unwrap_or(u64::MAX) / PAGES as u64)
    };
    let copy_ns = timed(&whole)?;
    let word_ns = timed(&[77])?;
    let compare_ns = timed(&[])?;
    Ok(EngineCosts { compare_ns, word_ns, copy_ns, instructions: engine.instruction_set() })
}

fn name() -> RegionName {
    RegionName::new(b"probe").expect("a region's name")
}

/// A tracker that reports every page.
struct Everything;

impl Tracker for Everything {
    fn attach(&mut self, _region: RegionId, _memory: &LiveMemory) -> Result<(), TrackError> {
        Ok(())
    }

    fn detach(&mut self, _region: RegionId) {}

    fn collect(&mut self, _region: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        written.fill();
        Ok(())
    }

    fn protect(&mut self, _region: RegionId, _pages: &PageSet) -> Result<(), TrackError> {
        Ok(())
    }
}
