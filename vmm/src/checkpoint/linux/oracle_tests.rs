//! Checkpoints and rollbacks beside a plain model, while the kernel moves, swaps and holds the pages.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use cairn_abi::reply::Ask;
use cairn_abi::{CheckpointId, Hint, RegionId, RegionMode, RegionName};
use cairn_engine::HostCosts;

use super::LinuxKeeper;
use super::frames::testing::FakeLog;
use super::frames::{FrameLog, SessionIndex};
use super::testing::Guest;
use crate::checkpoint::KeeperConfig;
use crate::devices::checkpoint::{Again, Effect, Failure, Outcome, RegionSpan};
use crate::memory::ram::{MIN_BYTES, Ram};

/// Rounds in which a request must come to its end.
const ROUNDS: usize = 400;

type Content = Vec<Box<[u8]>>;

struct Bench {
    guest: Guest,
    keeper: LinuxKeeper<FakeLog>,
    log: FakeLog,
    saved: Vec<(CheckpointId, Content)>,
    region: RegionId,
    /// Whether the program says what it writes.
    hints: bool,
}

/// What a program asks for.
#[derive(Clone, Copy, Debug)]
enum Request {
    Checkpoint,
    Rollback(CheckpointId),
    Figures,
}

impl Request {
    fn effect(self, again: Again) -> Effect {
        match self {
            Self::Checkpoint => Effect::Checkpoint(again),
            Self::Rollback(id) => Effect::Rollback(id, again),
            Self::Figures => Effect::SessionFigures,
        }
    }
}

fn bench(pages: usize, frames: u64, seed: u64) -> Bench {
    bench_in(RegionMode::Tracked, pages, frames, seed)
}

fn bench_in(mode: RegionMode, pages: usize, frames: u64, seed: u64) -> Bench {
    let ram = Arc::new(Ram::new(MIN_BYTES).unwrap());
    let log = FakeLog::new(&ram);
    let frame_log = Arc::new(Mutex::new(FrameLog::new(log.clone(), Arc::clone(&ram))));
    let config = KeeperConfig {
        costs: HostCosts::default(),
        history: NonZeroUsize::new(5).unwrap(),
        max_region_bytes: 1 << 30,
        max_history_bytes: 1 << 30,
        stores: false,
    };
    let mut keeper = LinuxKeeper::new(frame_log, SessionIndex(0), config, None);
    let guest = Guest::new(&ram, log.clone(), pages, frames, seed);
    let span = RegionSpan::from_claim(guest.span()).unwrap();
    let name = RegionName::new(b"all").unwrap();
    let added = keeper.act(Effect::AddRegion { span, name, mode, tag: 0 }, &guest.paging());
    let Outcome::Region(region) = added else { panic!("{added:?}") };
    Bench { guest, keeper, log, saved: Vec::new(), region, hints: mode == RegionMode::Hinted }
}

impl Bench {
    /// Makes a request as a program would, with the kernel at work in between.
    fn ask(&mut self, request: Request, disturbed: bool) -> Outcome {
        let write = matches!(request, Request::Rollback(_));
        for round in 0..ROUNDS {
            let again = if round == 0 { Again::No } else { Again::Yes };
            let effect = request.effect(again);
            let paging = self.guest.paging();
            let (ask, missing) = match self.keeper.act(effect, &paging) {
                Outcome::Missing { ask, missing } => (ask, missing),
                outcome => return outcome,
            };
            assert!(!missing.spans().is_empty());
            for span in missing.spans() {
                match ask {
                    Ask::Settle => self.guest.settle(*span),
                    Ask::Touch => self.guest.touch(*span, write),
                }
            }
            if disturbed && self.guest.below(4) == 0 {
                self.guest.disturb();
            }
        }
        panic!("{request:?} doesn't come to an end");
    }

    fn content(&self) -> Content {
        let pages = usize::try_from(self.guest.span().len / 4096).unwrap();
        (0..pages).map(|page| self.guest.content(page)).collect()
    }

    fn checkpoint(&mut self) {
        let before = self.content();
        let Outcome::Checkpoint(id) = self.ask(Request::Checkpoint, true) else { panic!("no checkpoint") };
        self.saved.push((id, before));
        if 5 < self.saved.len() {
            self.saved.remove(0);
        }
    }

    fn rollback(&mut self) {
        let Some(at) = (self.saved.len() as u64).checked_sub(1) else { return };
        let at = usize::try_from(self.guest.below(at + 1)).unwrap();
        let (id, wanted) = self.saved[at].clone();
        assert_eq!(self.ask(Request::Rollback(id), true), Outcome::Done);
        let differing: Vec<_> =
            (0..wanted.len()).filter(|page| self.guest.content(*page) != wanted[*page]).collect();
        assert!(
            differing.is_empty(),
            "checkpoint {id:?} isn't what it was in pages {differing:?}: {}",
            self.guest.tell(&differing)
        );
    }

    fn step(&mut self) {
        match self.guest.below(40) {
            0 => self.checkpoint(),
            1 => self.rollback(),
            2 => {
                // A request that isn't followed to its end.
                let paging = self.guest.paging();
                if let Outcome::Checkpoint(id) = self.keeper.act(Effect::Checkpoint(Again::No), &paging) {
                    let now = self.content();
                    self.saved.push((id, now));
                    self.saved.drain(..self.saved.len().saturating_sub(5));
                }
            }
            3 => {
                let page = self.any_page();
                self.hint(page);
                self.guest.drop_page(page);
            }
            4..12 => self.guest.disturb(),
            _ => {
                let (page, at) = (self.any_page(), self.guest.below(4096));
                let byte = self.guest.below(3);
                self.hint(page);
                self.guest.write(page, usize::try_from(at).unwrap(), u8::try_from(byte).unwrap());
            }
        }
    }

    /// Says that `page` is written, as the device does after it has read that in the program's hint table.
    fn hint(&mut self, page: usize) {
        if self.hints {
            let (word, bits) = (u32::try_from(page / 64).unwrap(), 1 << (page % 64));
            let hint = Effect::Hint(Hint { region: self.region, word, bits });
            assert_eq!(self.keeper.act(hint, &self.guest.paging()), Outcome::Done);
        }
    }

    fn any_page(&mut self) -> usize {
        let pages = self.guest.span().len / 4096;
        usize::try_from(self.guest.below(pages)).unwrap()
    }
}

#[test]
fn with_frames_for_all() {
    for seed in 1..=8 {
        let mut bench = bench(40, 64, seed * 0x9e37_79b9);
        for _ in 0..1500 {
            bench.step();
        }
    }
}

#[test]
fn with_frames_for_half_of_the_region() {
    for seed in 1..=8 {
        let mut bench = bench(60, 30, seed * 0x9e37_79b9);
        for _ in 0..1500 {
            bench.step();
        }
    }
}

#[test]
fn with_a_program_that_hints() {
    for (pages, frames) in [(40, 64), (60, 30)] {
        for seed in 1..=8 {
            let mut bench = bench_in(RegionMode::Hinted, pages, frames, seed * 0x9e37_79b9);
            for _ in 0..1500 {
                bench.step();
            }
            assert!(!bench.saved.is_empty());
        }
    }
}

#[test]
fn with_large_pages() {
    let mut bench = bench(12 + 512 + 7, 600, 5);
    for round in 0..6 {
        for _ in 0..60 {
            bench.step();
        }
        bench.checkpoint();
        assert!(bench.guest.collapse((16 << 20) + round * (2 << 20)));
        let (_, saved) = bench.saved.last().unwrap().clone();
        assert!(bench.content() == saved);
        bench.checkpoint();
        bench.rollback();
    }
}

/// Nothing is read again, and nothing logged as written, where nothing happened.
#[test]
fn what_is_left_alone_is_found_unchanged() {
    let mut bench = bench(40, 64, 3);
    for page in 0..20 {
        bench.guest.write(page, 7, 1);
    }
    bench.checkpoint();
    let figures = |bench: &mut Bench| match bench.ask(Request::Figures, false) {
        Outcome::Session(figures) => figures,
        other => panic!("{other:?}"),
    };
    let compared = figures(&mut bench).pages_compared;
    let Outcome::Checkpoint(_) = bench.ask(Request::Checkpoint, false) else { panic!() };
    assert_eq!(figures(&mut bench).pages_compared, compared);
    bench.guest.write(3, 7, 2);
    let Outcome::Checkpoint(_) = bench.ask(Request::Checkpoint, false) else { panic!() };
    assert_eq!(figures(&mut bench).pages_compared, compared + 1);
}

/// A mark is taken back when it's read, so that it must not be lost with what else wasn't learned.
#[test]
fn what_a_device_wrote_is_found_after_a_look_that_failed() {
    let mut bench = bench(40, 64, 3);
    bench.guest.write(3, 7, 1);
    let Outcome::Checkpoint(_) = bench.ask(Request::Checkpoint, false) else { panic!() };
    bench.guest.write_by_device(3, 7, 2);
    bench.log.fail_once();
    assert_eq!(bench.ask(Request::Checkpoint, false), Outcome::Failed(Failure::Host));
    let wanted = bench.content();
    let Outcome::Checkpoint(id) = bench.ask(Request::Checkpoint, false) else { panic!() };
    bench.guest.write(3, 7, 3);
    assert_eq!(bench.ask(Request::Rollback(id), false), Outcome::Done);
    assert!(bench.content() == wanted);
}

#[test]
fn a_session_that_ends_leaves_nothing_logged() {
    let mut bench = bench(40, 64, 9);
    bench.guest.write(3, 7, 2);
    bench.checkpoint();
    assert_ne!(bench.log.logged(), 0);
    assert_eq!(bench.keeper.drop_all(), Outcome::Done);
    assert_eq!(bench.log.logged(), 0);
}
