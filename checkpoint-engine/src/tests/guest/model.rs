//! The naive model beside an engine over the fake guest: full copies, and a program that touches what is asked for.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId, RegionName};

use super::frames::{Guest, Kernel};
use super::tracker::GuestTracker;
use crate::{Config, Engine, EngineError, LiveMemory, PAGE_SIZE, PagePlaces, Pool, Rule};

/// Runs of absent pages that the program is told of at once.
const MAX_RUNS: usize = 16;

type Copies = BTreeMap<RegionId, Vec<u8>>;

/// What happens between the tries of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Between {
    /// The kernel does as it likes; the program only touches.
    Quiet,
    /// The program writes, too.
    Noisy,
}

pub(super) struct World {
    pub(super) engine: Engine<GuestTracker>,
    pub(super) guest: Guest,
    pub(super) regions: Vec<(RegionId, usize)>,
    /// A checkpoint's bytes. If the program wrote meanwhile, each page has those of one of the copies.
    kept: BTreeMap<CheckpointId, Vec<Copies>>,
    history: usize,
    /// Tries beyond the first, of all operations.
    pub(super) retries: usize,
    /// Runs that the last refusal named.
    waits_for: Vec<(RegionId, std::ops::Range<usize>)>,
    /// Memory before each try of the checkpoint that is under way.
    seen: Vec<Copies>,
    /// What is under way: a checkpoint, or the rollback to an id.
    unfinished: Option<Option<CheckpointId>>,
}

impl World {
    pub(super) fn new(frames: usize, rule: Rule, history: usize) -> Self {
        let history = NonZeroUsize::new(history).unwrap();
        Self::with_config(frames, Config { history, rule, max_regions: 3, ..Config::default() })
    }

    /// The same with the help of `pool`.
    pub(super) fn with_pool(self, pool: Option<Arc<Pool>>) -> Self {
        Self { engine: self.engine.with_pool(pool), ..self }
    }

    pub(super) fn with_config(frames: usize, config: Config) -> Self {
        let guest = Guest::new(frames);
        Self {
            engine: Engine::new(GuestTracker::new(guest.clone()), config),
            guest,
            regions: Vec::new(),
            kept: BTreeMap::new(),
            history: config.history.get(),
            retries: 0,
            waits_for: Vec::new(),
            seen: Vec::new(),
            unfinished: None,
        }
    }

    pub(super) fn kernel(&self) -> std::cell::RefMut<'_, Kernel> {
        self.guest.kernel()
    }

    pub(super) fn add(&mut self, pages: usize) -> Result<RegionId, EngineError> {
        let next = u64::from(self.regions.last().map_or(0, |(id, _)| id.0)) + 1;
        let name = RegionName::new(format!("region {next}").as_bytes()).unwrap();
        let places = PagePlaces::new(pages).unwrap();
        let id = self.engine.add_region(name, LiveMemory::scattered(next << 32, places))?;
        self.regions.push((id, pages));
        self.check_idle();
        Ok(id)
    }

    pub(super) fn remove(&mut self, at: usize) {
        let (id, _) = self.regions.remove(at);
        self.engine.remove_region(id).unwrap();
        self.check_idle();
    }

    pub(super) fn write(&self, at: usize, offset: usize, byte: u8) {
        let (id, pages) = self.regions[at % self.regions.len()];
        self.kernel().write(id, offset % (pages * PAGE_SIZE), byte);
    }

    pub(super) fn read(&self) -> Copies {
        let kernel = self.kernel();
        assert!(kernel.memory.read_page(0).iter().all(|byte| *byte == 0), "the shared zeros were written");
        self.regions.iter().map(|(id, _)| (*id, kernel.read(*id))).collect()
    }

    /// Tries a checkpoint at most `tries` times.
    pub(super) fn checkpoint(&mut self, tries: usize, between: Between) -> Result<CheckpointId, EngineError> {
        let newest = self.engine.figures().checkpoints;
        let went_on = self.goes_on(None);
        for try_number in 0..tries {
            let before = self.read();
            self.seen.push(before.clone());
            let result = self.engine.checkpoint();
            assert!(self.read() == before, "a checkpoint changed memory");
            match result {
                Err(EngineError::Absent) => {
                    self.check_waits();
                    self.between_tries(try_number, between, Kernel::touch);
                }
                Err(error) => {
                    self.check_idle();
                    return Err(error);
                }
                Ok(id) => {
                    assert_eq!(id.0, newest + 1, "ids count up");
                    self.check_idle();
                    if between == Between::Quiet && !went_on {
                        self.seen.truncate(1);
                    } else {
                        self.bring_all_back();
                    }
                    self.kept.insert(id, std::mem::take(&mut self.seen));
                    if self.kept.len() > self.history {
                        self.kept.pop_first();
                    }
                    return Ok(id);
                }
            }
            assert_eq!(self.engine.figures().checkpoints, newest);
        }
        Err(EngineError::Absent)
    }

    /// Tries a rollback at most `tries` times.
    pub(super) fn rollback(
        &mut self,
        id: CheckpointId,
        tries: usize,
        between: Between,
    ) -> Result<(), EngineError> {
        let went_on = self.goes_on(Some(id));
        for try_number in 0..tries {
            let before = self.read();
            match self.engine.rollback(id) {
                Err(EngineError::Absent) => {
                    let wanted = self.kept[&id].clone();
                    self.check_pages(id, &[wanted, vec![before]].concat());
                    self.check_waits();
                    self.between_tries(try_number, between, Kernel::touch_to_write);
                }
                Err(error) => {
                    assert!(self.read() == before, "a refused rollback changed memory");
                    self.check_idle();
                    return Err(error);
                }
                Ok(()) => {
                    self.check_idle();
                    assert_eq!(self.engine.figures().current, id.0);
                    if between == Between::Quiet && !went_on {
                        self.check_pages(id, &self.kept[&id]);
                    } else {
                        self.bring_all_back();
                    }
                    return Ok(());
                }
            }
        }
        Err(EngineError::Absent)
    }

    pub(super) fn release(&mut self, id: CheckpointId) -> Result<(), EngineError> {
        let before = self.read();
        let result = self.engine.release(id);
        assert!(self.read() == before, "a release changed memory");
        self.check_idle();
        if result.is_ok() {
            assert!(self.kept.remove(&id).is_some());
        }
        result
    }

    pub(super) fn abandon(&mut self) {
        let before = self.read();
        self.engine.abandon();
        assert!(self.read() == before, "giving up changed memory");
        self.check_idle();
    }

    /// Checks that memory as it is, and every retained checkpoint of today's regions, can be had back.
    pub(super) fn check_all(&mut self) {
        self.engine.tracker_mut().fail_in = 0;
        self.engine.tracker_mut().surprise = 0;
        if self.checkpoint(usize::MAX, Between::Quiet).is_err() {
            panic!("memory can't be had")
        }
        let ids: Vec<_> = self.kept.keys().copied().collect();
        for id in ids.iter().chain(ids.last()) {
            let same = self.kept[id][0].keys().eq(self.regions.iter().map(|(id, _)| id));
            assert_eq!(self.rollback(*id, usize::MAX, Between::Quiet).is_ok(), same, "rollback to {id}");
        }
    }

    /// Checks that each page is that of one of `copies`.
    fn check_pages(&self, id: CheckpointId, copies: &[Copies]) {
        for (region, now) in self.read() {
            for (page, now) in now.chunks(PAGE_SIZE).enumerate() {
                let page_of = |copies: &Copies| copies[&region][page * PAGE_SIZE..][..PAGE_SIZE] == *now;
                assert!(copies.iter().any(page_of), "rollback to {id}: page {page} of region {region}");
            }
        }
    }

    /// Whether this was begun before, and left. The program may have written since.
    fn goes_on(&mut self, rollback: Option<CheckpointId>) -> bool {
        let goes_on = self.unfinished == Some(rollback);
        self.unfinished = Some(rollback);
        if !goes_on {
            self.seen.clear();
        }
        goes_on
    }

    fn check_waits(&mut self) {
        self.waits_for = self.engine.absent().take(MAX_RUNS).collect();
        assert!(!self.waits_for.is_empty(), "it waits for nothing");
        let all: Vec<_> = self.engine.absent().collect();
        for pair in all.windows(2) {
            let [(one, before), (other, after)] = pair else { unreachable!() };
            assert!(one < other || (one == other && before.end < after.start), "runs are apart: {pair:?}");
        }
    }

    fn check_idle(&mut self) {
        self.unfinished = None;
        assert_eq!(self.engine.absent().next(), None, "nothing is unfinished");
    }

    /// The program reads all it has. What it wrote while it should have been quiet, and what then left memory, is
    /// seen when it is back, not before.
    fn bring_all_back(&self) {
        for &(region, pages) in &self.regions {
            (0..pages).for_each(|page| self.kernel().touch(region, page));
        }
    }

    /// The program makes pages present, and the kernel goes on as it likes.
    fn between_tries(
        &mut self,
        try_number: usize,
        between: Between,
        touch: fn(&mut Kernel, RegionId, usize),
    ) {
        self.retries += 1;
        assert!(try_number < 2000, "no progress");
        if between == Between::Noisy && try_number < 10 {
            for _ in 0..3 {
                let (at, offset) = self.random_place();
                self.write(at, offset, 200 + u8::try_from(try_number).unwrap());
            }
        }
        self.churn(2);
        let mut kernel = self.guest.kernel();
        for (region, pages) in self.waits_for.drain(..) {
            pages.for_each(|page| touch(&mut kernel, region, page));
        }
    }

    fn random_place(&self) -> (usize, usize) {
        let mut kernel = self.kernel();
        let at = kernel.next_random(self.regions.len());
        (at, kernel.next_random(self.regions[at].1 * PAGE_SIZE))
    }

    /// The kernel moves, shares and takes away pages.
    pub(super) fn churn(&self, times: usize) {
        for _ in 0..if self.regions.is_empty() { 0 } else { times } {
            let (at, offset) = self.random_place();
            let (region, page) = (self.regions[at].0, offset / PAGE_SIZE);
            let mut kernel = self.kernel();
            match kernel.next_random(3) {
                0 => kernel.swap_out(region, page),
                1 => kernel.migrate(region, page),
                _ => kernel.share(region, page),
            }
        }
    }
}
