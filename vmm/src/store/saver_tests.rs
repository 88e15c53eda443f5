//! Durable sessions of a program whose kernel moves, swaps and holds its pages, one run after the other.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;

use cairn_abi::reply::Ask;
use cairn_abi::{Level, RegionMode};
use cairn_engine::HostCosts;
use cairn_store::{Options, Writer};

use super::*;
use crate::checkpoint::KeeperConfig;
use crate::checkpoint::linux::LinuxKeeper;
use crate::checkpoint::linux::frames::testing::FakeLog;
use crate::checkpoint::linux::frames::{FrameLog, SessionIndex};
use crate::checkpoint::linux::testing::Guest;
use crate::memory::ram::{MIN_BYTES, Ram};

/// Rounds in which a request must come to its end.
const ROUNDS: usize = 400;
const PAGES: usize = 40;
const TAG: u64 = 0x1234_0000_0008;

type Content = Vec<Box<[u8]>>;

/// One run of the program.
struct Run {
    guest: Guest,
    keeper: LinuxKeeper<FakeLog>,
    saver: Saver,
    sink: Arc<Sink>,
    /// Checkpoints of this run with what they have.
    saved: Vec<(CheckpointId, Content)>,
    /// The newest that is on disk.
    stored: Option<(CheckpointId, Content)>,
}

impl Run {
    fn start(directory: &Path, seed: u64) -> Self {
        let ram = Arc::new(Ram::new(MIN_BYTES).unwrap());
        let log = FakeLog::new(&ram);
        let frames = Arc::new(Mutex::new(FrameLog::new(log.clone(), Arc::clone(&ram))));
        let config = KeeperConfig {
            costs: HostCosts::default(),
            history: NonZeroUsize::new(4).unwrap(),
            max_region_bytes: 1 << 30,
            max_history_bytes: 1 << 30,
            stores: true,
        };
        let writer = Writer::open(directory, Options::default()).unwrap();
        let sink = Arc::new(Sink::start(writer, None, || Ok(())).unwrap());
        let mut run = Self {
            guest: Guest::new(&ram, log, PAGES, 30, seed),
            keeper: LinuxKeeper::new(frames, SessionIndex(0), config, None),
            saver: Saver::new(Some(Arc::clone(&sink)), Owner(0), Duration::ZERO),
            sink,
            saved: Vec::new(),
            stored: None,
        };
        // As HELLO does.
        assert_eq!(run.act(Effect::DropAll), Outcome::Done);
        run
    }

    fn register(&mut self, name: &str, tag: u64) {
        let span = RegionSpan::from_claim(self.guest.span()).unwrap();
        let name = RegionName::new(name.as_bytes()).unwrap();
        let added = self.act(Effect::AddRegion { span, name, mode: RegionMode::Tracked, tag });
        assert!(matches!(added, Outcome::Region(_)), "{added:?}");
    }

    fn act(&mut self, effect: Effect) -> Outcome {
        let paging = self.guest.paging();
        let Self { keeper, saver, .. } = self;
        saver.act(effect, keeper, &mut |keeper, effect| keeper.act(effect, &paging))
    }

    /// Makes a request as a program would, with the kernel at work in between.
    fn ask(&mut self, effect: impl Fn(Again) -> Effect) -> Outcome {
        let mut again = Again::No;
        let mut rounds = 0;
        while rounds < ROUNDS {
            let write = matches!(effect(again), Effect::Rollback(..));
            match self.act(effect(again)) {
                Outcome::Missing { ask, missing } => {
                    for span in missing.spans() {
                        match ask {
                            Ask::Settle => self.guest.settle(*span),
                            Ask::Touch => self.guest.touch(*span, write),
                        }
                    }
                    again = Again::Yes;
                    rounds += 1;
                }
                // As long as the disk takes. The shim sleeps then.
                Outcome::Failed(Failure::Busy) => std::thread::yield_now(),
                outcome => return outcome,
            }
            if self.guest.below(4) == 0 {
                self.guest.disturb();
            }
        }
        panic!("{:?} doesn't come to an end", effect(again));
    }

    fn content(&self) -> Content {
        (0..PAGES).map(|page| self.guest.content(page)).collect()
    }

    fn step(&mut self) {
        match self.guest.below(60) {
            0 => self.checkpoint(),
            1 => self.rollback(),
            2 | 3 => self.checkpoint_durable(),
            4..16 => self.guest.disturb(),
            _ => {
                let page = usize::try_from(self.guest.below(PAGES as u64)).unwrap();
                let at = usize::try_from(self.guest.below(4096)).unwrap();
                let byte = u8::try_from(self.guest.below(3)).unwrap();
                self.guest.write(page, at, byte);
            }
        }
    }

    fn checkpoint(&mut self) {
        let content = self.content();
        let Outcome::Checkpoint(id) = self.ask(Effect::Checkpoint) else { panic!("no checkpoint") };
        self.keep(id, content);
    }

    fn keep(&mut self, id: CheckpointId, content: Content) {
        self.saved.push((id, content));
        self.saved.drain(..self.saved.len().saturating_sub(4));
    }

    fn checkpoint_durable(&mut self) {
        let content = self.content();
        let level = if self.guest.below(2) == 0 { Level::Written } else { Level::Synced };
        let taken = self.ask(|again| Effect::CheckpointDurable(level, again));
        let Outcome::Durability(Durability { id, reached: None }) = taken else { panic!("{taken:?}") };
        // Not always: the next one is made while this one is on its way.
        if self.guest.below(3) != 0 {
            self.wait(id, level);
        }
        self.keep(id, content.clone());
        self.stored = Some((id, content));
    }

    /// As a program does: with requests, in which what isn't gathered yet is gathered.
    fn wait(&mut self, id: CheckpointId, level: Level) {
        loop {
            match self.act(Effect::Durability(id, Some(level))) {
                Outcome::Durability(Durability { reached, .. }) if Some(level) <= reached => return,
                Outcome::Durability(_) => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn rollback(&mut self) {
        let Some(last) = (self.saved.len() as u64).checked_sub(1) else { return };
        let (id, content) = self.saved[usize::try_from(self.guest.below(last + 1)).unwrap()].clone();
        assert_eq!(self.ask(|again| Effect::Rollback(id, again)), Outcome::Done);
        assert!(self.content() == content, "rollback to {id}");
    }

    /// Ends the session, and with it the run.
    fn end(mut self) {
        assert_eq!(self.act(Effect::DropAll), Outcome::Done);
    }

    fn recover(&mut self, id: Option<CheckpointId>) -> Outcome {
        self.ask(|_| Effect::Recover(id))
    }
}

#[test]
fn each_run_goes_on_where_the_last_one_was_on_disk() {
    for seed in 1..=4 {
        let directory = tempfile::tempdir().unwrap();
        let mut stored: Option<(CheckpointId, Content)> = None;
        for generation in 0..6 {
            let mut run = Run::start(directory.path(), (seed * 100 + generation) * 0x9e37_79b9);
            run.register("all", TAG);
            for _ in 0..20 {
                // What is lost.
                run.guest.write(3, 5, 1);
                run.guest.disturb();
            }
            match &stored {
                None => assert_eq!(run.recover(None), Outcome::Failed(Failure::NoCheckpoint)),
                // Now and then a program begins anew.
                Some(_) if generation == 4 => {}
                Some((id, content)) => {
                    assert_eq!(run.recover(None), Outcome::Checkpoint(*id));
                    assert_eq!(run.ask(|again| Effect::Rollback(*id, again)), Outcome::Done);
                    assert!(run.content() == *content, "generation {generation} of seed {seed}");
                    run.keep(*id, content.clone());
                }
            }
            for _ in 0..700 {
                run.step();
            }
            if let Some((id, _)) = &run.stored {
                assert!(stored.as_ref().is_none_or(|(before, _)| before < id), "ids rise over runs");
                run.wait(*id, Level::Written);
            }
            stored = run.stored.take().or(stored);
        }
        assert!(stored.is_some());
    }
}

#[test]
fn an_older_checkpoint_can_be_recovered_and_gone_on_from() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 7);
    run.register("all", TAG);
    let mut versions = Vec::new();
    for byte in 1..=3 {
        run.guest.write(4, 0, byte);
        run.checkpoint_durable();
        versions.push(run.stored.clone().unwrap());
    }
    run.end();
    for round in 0..2 {
        let mut run = Run::start(directory.path(), 8 + round);
        run.register("all", TAG);
        let (id, content) = versions[usize::try_from(round).unwrap()].clone();
        assert_eq!(run.recover(Some(id)), Outcome::Checkpoint(id));
        assert_eq!(run.ask(|again| Effect::Rollback(id, again)), Outcome::Done);
        assert!(run.content() == content);
        run.guest.write(5, 0, 9);
        run.checkpoint_durable();
        let (next, now) = run.stored.clone().unwrap();
        assert!(versions.iter().all(|(id, _)| *id < next));
        run.end();
        let mut run = Run::start(directory.path(), 20 + round);
        run.register("all", TAG);
        assert_eq!(run.recover(None), Outcome::Checkpoint(next));
        assert_eq!(run.ask(|again| Effect::Rollback(next, again)), Outcome::Done);
        assert!(run.content() == now);
    }
}

#[test]
fn what_does_not_fit_is_named_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 7);
    run.register("all", TAG);
    run.checkpoint_durable();
    let (id, _) = run.stored.clone().unwrap();
    assert_eq!(run.recover(None), Outcome::Failed(Failure::NotFresh));
    let unknown = CheckpointId(id.0 + 7);
    assert_eq!(run.ask(|_| Effect::Durability(unknown, None)), Outcome::Failed(Failure::NoCheckpoint));
    run.end();

    let mut run = Run::start(directory.path(), 8);
    let Outcome::Failed(Failure::Mismatch { region: None, stored: Some(stored) }) = run.recover(None) else {
        panic!("a region less")
    };
    assert_eq!((stored.name.as_str(), stored.tag, stored.checkpoint), ("all", TAG, id));
    let name = RegionName::new(b"all").unwrap();
    assert_eq!(run.ask(|_| Effect::Stored(None, name)), Outcome::Stored(stored));
    let other = RegionName::new(b"other").unwrap();
    assert_eq!(run.ask(|_| Effect::Stored(None, other)), Outcome::Failed(Failure::NoRegion));
    assert_eq!(run.ask(|_| Effect::Stored(Some(unknown), name)), Outcome::Failed(Failure::NoCheckpoint));

    run.register("other", TAG);
    let outcome = run.recover(None);
    assert!(
        matches!(outcome, Outcome::Failed(Failure::Mismatch { region: Some(_), stored: None })),
        "{outcome:?}"
    );
    assert_eq!(run.act(Effect::DropAll), Outcome::Done);
    run.register("all", TAG + 1);
    let outcome = run.recover(None);
    assert!(
        matches!(outcome, Outcome::Failed(Failure::Mismatch { region: Some(_), stored: Some(_) })),
        "{outcome:?}"
    );
    assert_eq!(run.act(Effect::DropAll), Outcome::Done);
    run.register("all", TAG);
    assert_eq!(run.recover(None), Outcome::Checkpoint(id));
}

/// What may change the newest version has all of it gathered first.
#[test]
fn a_large_checkpoint_is_gathered_in_several_requests() {
    let goes_on: [fn(&mut Run, CheckpointId); 4] = [
        |run, id| run.wait(id, Level::Written),
        |run, id| assert_eq!(run.ask(|again| Effect::Rollback(id, again)), Outcome::Done),
        |run, _| run.checkpoint_durable(),
        |run, _| run.checkpoint(),
    ];
    for (seed, go_on) in (1..).zip(goes_on) {
        let directory = tempfile::tempdir().unwrap();
        let mut run = Run::start(directory.path(), seed);
        run.register("all", TAG);
        for page in 0..PAGES {
            run.guest.write(page, 5, 7);
        }
        let content = run.content();
        let taken = run.ask(|again| Effect::CheckpointDurable(Level::Written, again));
        let Outcome::Durability(Durability { id, reached: None }) = taken else { panic!("{taken:?}") };
        let unknown = Err(SinkError::NoCheckpoint);
        assert_eq!(run.sink.level_of(id, None, Duration::ZERO), unknown, "all at once");
        let busy = Outcome::Failed(Failure::Busy);
        assert_eq!(run.act(Effect::CheckpointDurable(Level::Written, Again::No)), busy);
        run.guest.write(3, 5, 9);
        go_on(&mut run, id);
        assert_ne!(run.sink.level_of(id, None, Duration::ZERO), unknown);
        run.end();
        let mut run = Run::start(directory.path(), 10 + seed);
        run.register("all", TAG);
        assert_eq!(run.recover(Some(id)), Outcome::Checkpoint(id));
        assert_eq!(run.ask(|again| Effect::Rollback(id, again)), Outcome::Done);
        assert!(run.content() == content, "seed {seed}");
    }
}

#[test]
fn a_second_session_is_refused_until_the_first_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::start(directory.path(), 7);
    run.register("all", TAG);
    run.checkpoint_durable();
    let sink = Arc::clone(&run.sink);
    let busy = Outcome::Failed(Failure::Store(libc::EBUSY.unsigned_abs()));
    let mut other = Run::start(tempfile::tempdir().unwrap().path(), 8);
    other.saver = Saver::new(Some(sink), Owner(1), Duration::ZERO);
    other.register("all", TAG);
    assert_eq!(other.ask(|again| Effect::CheckpointDurable(Level::Written, again)), busy);
    assert_eq!(other.recover(None), busy);
    other.checkpoint();
    assert_eq!(run.act(Effect::DropAll), Outcome::Done);
    // Its id is greater than any that the store has, though it has one of its own already.
    other.checkpoint_durable();
    assert!(run.stored < other.stored);
}
