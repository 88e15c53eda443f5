//! The naive model: a full copy of every region for each checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName};

use super::elsewhere::{Elsewhere, HistoryElsewhere};
use super::memory::Memory;
use super::tracker::{FakeTracker, assert_protected_is_unchanged};
use crate::{Config, Engine, EngineError, GatherPlace, PAGE_SIZE, Pool, Rule, Ticket};

/// All regions' bytes.
pub(super) type Copies = BTreeMap<RegionId, Vec<u8>>;

struct Kept {
    parent: Option<CheckpointId>,
    copies: Copies,
}

/// An engine, the memory it works on, and what is expected of it.
pub(super) struct World {
    pub(super) engine: Engine<FakeTracker>,
    pub(super) regions: Vec<(RegionId, RegionName, Memory)>,
    kept: BTreeMap<CheckpointId, Kept>,
    history: usize,
    max_history_bytes: u64,
    /// The newest id that was evicted because the history was full.
    evicted: Option<CheckpointId>,
    taken: u64,
    names: u32,
    /// The checkpoint that memory derives from, retained or not, with its bytes.
    current: Option<(CheckpointId, Copies)>,
    /// The asynchronous checkpoint in the making, and the bytes at its call.
    started: Option<(CheckpointId, Copies)>,
    /// The newest id that was ever given or left out.
    pub(super) newest: u64,
    /// All that were ever given, or imported.
    given: BTreeSet<CheckpointId>,
    /// What somebody else keeps.
    pub(super) elsewhere: Elsewhere,
    pub(super) history_elsewhere: HistoryElsewhere,
    config: Config,
}

impl World {
    pub(super) fn new(rule: Rule, history: usize, tracker: FakeTracker) -> Self {
        let history_config = NonZeroUsize::new(history).unwrap();
        let config = Config {
            history: history_config,
            rule,
            max_regions: 4,
            records_changes: true,
            ..Config::default()
        };
        Self::with_config(config, tracker)
    }

    /// The same with the help of `pool`.
    pub(super) fn with_pool(self, pool: Option<Arc<Pool>>) -> Self {
        Self { engine: self.engine.with_pool(pool), ..self }
    }

    pub(super) fn with_config(config: Config, tracker: FakeTracker) -> Self {
        Self {
            engine: Engine::new(tracker, config),
            regions: Vec::new(),
            kept: BTreeMap::new(),
            history: config.history.get(),
            max_history_bytes: config.max_history_bytes,
            evicted: None,
            taken: 0,
            names: 0,
            current: None,
            started: None,
            newest: 0,
            given: BTreeSet::new(),
            elsewhere: Elsewhere::default(),
            history_elsewhere: HistoryElsewhere::default(),
            config,
        }
    }

    /// Adds a region, with some bytes already in it.
    pub(super) fn add(&mut self, pages: usize) -> Result<RegionId, EngineError> {
        self.settle();
        self.add_in(RegionMode::Tracked, pages)
    }

    pub(super) fn add_in(&mut self, mode: RegionMode, pages: usize) -> Result<RegionId, EngineError> {
        self.names += 1;
        let name = RegionName::new(format!("region {}", self.names).as_bytes()).unwrap();
        let memory = Memory::new(pages);
        memory.write(pages * PAGE_SIZE / 2, 77);
        let id = match mode {
            RegionMode::Tracked => self.engine.add_region(name, memory.live())?,
            RegionMode::Hinted => self.engine.add_hinted_region(name, memory.live(), false)?,
        };
        assert!(self.regions.iter().all(|(other, ..)| *other < id));
        self.regions.push((id, name, memory));
        Ok(id)
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.settle();
        let (id, ..) = self.regions[at];
        self.engine.remove_region(id).unwrap();
        self.regions.remove(at);
        assert!(matches!(self.engine.remove_region(id), Err(EngineError::NoRegion(no)) if no == id));
    }

    pub(super) fn write(&mut self, at: usize, offset: usize, byte: u8) {
        let (id, _, memory) = &self.regions[at];
        let offset = offset % (memory.pages() * PAGE_SIZE);
        let page = offset / PAGE_SIZE;
        if self.engine.tracker().holds(*id, page) {
            assert!(self.engine.copying().copy_at(memory.live().address() + offset as u64));
        }
        self.engine.tracker_mut().wrote(*id, page);
        // In a tracked region that is no more than advice, and wrong as often as not.
        if self.engine.tracker().is_hinted(*id) || byte.is_multiple_of(4) {
            self.engine.hint(*id, page / 64, 1 << (page % 64)).unwrap();
        }
        memory.write(offset, byte);
    }

    /// Writes all of a page.
    pub(super) fn write_page(&mut self, at: usize, page: usize, byte: u8) {
        let (id, _, memory) = &self.regions[at];
        let page = page % memory.pages();
        if self.engine.tracker().holds(*id, page) {
            assert!(self.engine.copying().copy_at(memory.live().address() + (page * PAGE_SIZE) as u64));
        }
        self.engine.tracker_mut().wrote(*id, page);
        if self.engine.tracker().is_hinted(*id) {
            self.engine.hint(*id, page / 64, 1 << (page % 64)).unwrap();
        }
        memory.write_page(page, &[byte; PAGE_SIZE]);
    }

    pub(super) fn read(&self) -> Copies {
        self.regions.iter().map(|(id, _, memory)| (*id, memory.read())).collect()
    }

    /// Takes a checkpoint; a failure must leave everything as it was.
    pub(super) fn checkpoint(&mut self) -> Result<CheckpointId, EngineError> {
        self.settle();
        let before = self.read();
        let result = self.engine.checkpoint();
        assert!(self.read() == before, "a checkpoint changed memory");
        let id = result?;
        self.committed(id, before);
        self.check();
        Ok(id)
    }

    /// Begins an asynchronous checkpoint.
    pub(super) fn checkpoint_async(&mut self) -> Result<Ticket, EngineError> {
        self.settle();
        let before = self.read();
        let result = self.engine.checkpoint_async();
        assert!(self.read() == before, "a checkpoint changed memory");
        let ticket = result?;
        if ticket.done {
            self.committed(ticket.id, before);
            self.check();
        } else {
            assert_eq!(ticket.id, CheckpointId(self.newest + 1), "the next id");
            assert_eq!(self.engine.ticket(ticket.id, false).unwrap(), ticket, "nobody copies");
            assert!(self.engine.checkpoint_figures(ticket.id).is_err(), "it isn't one yet");
            self.started = Some((ticket.id, before));
        }
        Ok(ticket)
    }

    /// Asks about the asynchronous checkpoint that was begun last. Whether it's done is the engine's business, but
    /// then nobody is held back.
    pub(super) fn ask(&mut self, wait: bool) {
        let Some((id, _)) = self.started else { return };
        let ticket = self.engine.ticket(id, wait).unwrap();
        assert!(ticket.done || !wait);
        if ticket.done {
            assert!(!self.engine.tracker().holds_any());
            self.settle();
            self.check();
        }
    }

    /// The engine finishes what was begun before it does anything else.
    fn settle(&mut self) {
        if let Some((id, copies)) = self.started.take() {
            if self.max_history_bytes < u64::MAX {
                // What is evicted to make room depends on what it holds.
                self.engine.finish();
            }
            self.committed(id, copies);
        }
    }

    fn committed(&mut self, id: CheckpointId, before: Copies) {
        self.taken += 1;
        self.newest += 1;
        assert_eq!(id, CheckpointId(self.newest), "ids count up");
        self.given.insert(id);
        let parent = self.current.as_ref().map(|(id, _)| *id);
        self.kept.insert(id, Kept { parent, copies: before.clone() });
        self.current = Some((id, before));
        if self.kept.len() > self.history {
            self.kept.pop_first();
        }
        // An engine without a limit may not have finished yet.
        if self.max_history_bytes < u64::MAX {
            while (self.engine.figures().retained as usize) < self.kept.len() {
                self.evicted = self.kept.pop_first().map(|(id, _)| id);
            }
            assert!(self.history_bytes() <= self.max_history_bytes);
        }
    }

    /// Rolls back, and checks every byte or the refusal.
    pub(super) fn rollback(&mut self, id: CheckpointId) -> Result<(), EngineError> {
        self.settle();
        let before = self.read();
        let result = self.engine.rollback(id);
        if let Err(error) = result {
            assert!(self.read() == before, "a refused rollback changed memory");
            self.check_refusal(id, &error);
            self.check();
            return Err(error);
        }
        let copies = self.kept[&id].copies.clone();
        assert!(self.read() == copies, "rollback to {id}");
        self.current = Some((id, copies));
        self.check();
        Ok(())
    }

    /// Hands what is new to whoever keeps checkpoints elsewhere, and checks that this is all.
    pub(super) fn save(&mut self) {
        self.settle();
        let from_nothing = self.elsewhere.is_empty();
        let (mut place, mut making) = (GatherPlace::default(), self.elsewhere.begin(from_nothing));
        // Few at a time: what was told before isn't told again.
        while !self.engine.gather(from_nothing, &mut place, 3, &mut making).unwrap() {}
        let Self { engine, history_elsewhere, .. } = self;
        engine.gather_history(from_nothing, |id, delta| history_elsewhere.take(id, delta)).unwrap();
        if let Some((_, copies)) = &self.current {
            let wanted = copies.iter().filter(|(id, _)| self.regions.iter().any(|(other, ..)| other == *id));
            assert!(self.elsewhere.newest().eq(wanted), "what is elsewhere isn't the checkpoint");
        }
        self.check();
    }

    /// The engine ends, and another one is built of its image over the same memory. Whoever keeps it elsewhere goes on
    /// with what is `kept`, or begins anew.
    pub(super) fn be_reborn(&mut self, kept: bool) {
        self.settle();
        let before = self.read();
        // The tracker may fail.
        let Ok(image) = self.engine.image() else { return };
        let mut mirrors = Elsewhere::default();
        self.engine.gather(true, &mut GatherPlace::default(), u64::MAX, &mut mirrors.begin(true)).unwrap();
        mirrors.kept();
        let Self { engine, history_elsewhere, .. } = self;
        engine.gather_history(false, |id, delta| history_elsewhere.take(id, delta)).unwrap();
        self.engine = Engine::new(engine.tracker().reborn(), self.config);
        for region in &image.regions {
            let (.., memory) = self.regions.iter().find(|(id, ..)| *id == region.id).unwrap();
            self.engine.rebuild_region(region, memory.live()).unwrap();
        }
        for (id, bytes) in mirrors.newest() {
            for (page, bytes) in bytes.as_chunks().0.iter().enumerate() {
                self.engine.rebuild_page(*id, page, bytes).unwrap();
            }
        }
        let history = &self.history_elsewhere;
        let read = |id, len| {
            let delta = history.delta(id);
            assert_eq!(delta.len() as u64, len);
            Ok::<_, crate::ImageError>(delta)
        };
        self.engine.rebuild_history(&image, kept, read).unwrap();
        self.history_elsewhere.kept();
        self.elsewhere = mirrors;
        if !kept {
            (self.elsewhere, self.history_elsewhere) = Default::default();
        }
        assert!(self.read() == before, "being reborn changed memory");
        let again = self.engine.image();
        assert!(again.is_err() || again.unwrap().versions == image.versions);
        self.check();
    }

    /// Takes a checkpoint back that somebody else kept.
    pub(super) fn import(&mut self, id: CheckpointId, copies: &Copies) {
        let before = self.read();
        for (region, bytes) in copies {
            for (page, bytes) in bytes.as_chunks().0.iter().enumerate() {
                if bytes.iter().any(|&byte| byte != 0) {
                    self.engine.import_page(*region, page, bytes).unwrap();
                }
            }
        }
        self.engine.end_import(id, true).unwrap();
        assert!(self.read() == before, "an import changed memory");
        self.newest = self.newest.max(id.0);
        self.given.insert(id);
        self.kept.insert(id, Kept { parent: None, copies: copies.clone() });
        self.current = Some((id, copies.clone()));
    }

    pub(super) fn release(&mut self, id: CheckpointId) -> Result<(), EngineError> {
        self.settle();
        let before = self.read();
        let result = self.engine.release(id);
        assert!(self.read() == before, "a release changed memory");
        if let Err(error) = &result {
            self.check_refusal(id, error);
        } else {
            assert!(self.kept.remove(&id).is_some(), "released an id that isn't retained");
        }
        self.check();
        result
    }

    /// Rolls back to every retained checkpoint that has today's regions.
    pub(super) fn rollback_to_all(&mut self) {
        self.settle();
        let ids: Vec<_> = self.kept.keys().copied().collect();
        for id in ids {
            let same = self.kept[&id].copies.keys().eq(self.regions.iter().map(|(id, ..)| id));
            assert_eq!(self.rollback(id).is_ok(), same, "rollback to {id}");
        }
    }

    /// Bytes that are kept for all retained checkpoints.
    pub(super) fn history_bytes(&self) -> u64 {
        self.kept.keys().map(|id| self.engine.checkpoint_figures(*id).unwrap().bytes).sum()
    }

    /// Leaves ids out.
    pub(super) fn skip_ids(&mut self, id: CheckpointId) {
        self.settle();
        self.engine.skip_ids(id);
        self.newest = self.newest.max(id.0);
    }

    /// Whether an id was ever one of ours, and is older than what is retained.
    fn is_past(&self, id: CheckpointId) -> bool {
        let after = self.given.iter().filter(|other| id < **other).count();
        self.given.contains(&id) && (Some(id) <= self.evicted || self.history <= after)
    }

    fn check_refusal(&self, id: CheckpointId, error: &EngineError) {
        match error {
            EngineError::NoCheckpoint(no) => {
                assert!(*no == id && !self.kept.contains_key(&id) && !self.is_past(id));
            }
            EngineError::Evicted { id: no, oldest } => {
                assert!(*no == id && !self.kept.contains_key(&id) && self.is_past(id));
                assert_eq!(*oldest, self.kept.keys().next().copied().unwrap_or(CheckpointId(0)));
            }
            EngineError::RegionSet { checkpoint, region, side, .. } => {
                assert_eq!(*checkpoint, id);
                let then = self.kept[&id].copies.contains_key(region);
                let now = self.regions.iter().any(|(id, ..)| id == region);
                assert_eq!(
                    (then, now),
                    (*side == crate::SetSide::Checkpoint, *side == crate::SetSide::Today)
                );
            }
            EngineError::Track(_) => {}
            other => panic!("unexpected: {other}"),
        }
    }

    fn check(&self) {
        let figures = self.engine.figures();
        assert_eq!(figures.regions as usize, self.regions.len());
        assert_eq!(figures.retained as usize, self.kept.len());
        assert_eq!(figures.checkpoints, self.taken);
        assert_eq!(figures.current, self.current.as_ref().map_or(0, |(id, _)| id.0));
        assert!(figures.pages_changed <= figures.pages_compared);
        let pages: usize = self.regions.iter().map(|(.., memory)| memory.pages()).sum();
        assert!(figures.mirror_bytes <= (pages * PAGE_SIZE) as u64);
        assert!(figures.pages_open <= pages as u64);
        for (id, kept) in &self.kept {
            let figures = self.engine.checkpoint_figures(*id).unwrap();
            assert_eq!((figures.id, figures.parent), (*id, kept.parent));
        }
        let Some((_, committed)) = &self.current else { return };
        for (id, _, memory) in &self.regions {
            if let Some(committed) = committed.get(id).filter(|_| !self.engine.tracker().is_hinted(*id)) {
                assert_protected_is_unchanged(self.engine.tracker(), *id, memory, committed);
            }
        }
    }
}
