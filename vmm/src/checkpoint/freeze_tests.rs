//! Writers of frozen pages, where nothing is copied but when the test says so: every order of writes, batches, and
//! what makes memory go away.

use std::thread::{self, ScopedJoinHandle};

use cairn_abi::{RegionId, RegionName};
use cairn_engine::{Config, Engine, LiveMemory, TrackError, Tracker};
use cairn_test_host::{holds_writers, skipped};
use nix::sys::mman::MmapAdvise;

use super::*;
use crate::host::mapping::Reservation;
use crate::memory::layout::{LARGE_PAGE, PAGE};

/// Pages that are written, each in a large page, and so a batch, of its own.
const PLACES: [u64; 3] = [5 * PAGE, LARGE_PAGE + 500 * PAGE, 2 * LARGE_PAGE];
const BYTES: u64 = 3 * LARGE_PAGE;
/// Words of each that are written: one in each epoch, before it ends, and one for each step.
const WORDS: usize = 1 + STEPS;
const STEPS: usize = 4;

/// What may happen while pages are frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// A thread writes to this place.
    Write(usize),
    /// The copier takes a batch.
    Copy,
    /// The copier looks who waits.
    LetGo,
    /// This place is dropped, as by MADV_DONTNEED.
    Discard(usize),
    /// Someone wants the checkpoint done.
    Finish,
}

const ALL: [Step; 6] =
    [Step::Write(0), Step::Write(2), Step::Copy, Step::LetGo, Step::Discard(2), Step::Finish];

/// Memory that is only written as system calls write it: marked before.
#[derive(Debug)]
struct MarkTracker {
    freezer: Arc<Freezer>,
    base: usize,
    written: Arc<WrittenPages>,
    /// What the copier read before and acts on when pages are frozen the next time, before their work begins.
    late: Option<(u64, Arc<Copying>)>,
}

impl Tracker for MarkTracker {
    fn attach(&mut self, _: RegionId, _: &LiveMemory) -> Result<(), TrackError> {
        Ok(())
    }

    fn detach(&mut self, _: RegionId) {}

    fn collect(&mut self, _: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
        self.written.add_to(written.words_mut());
        Ok(())
    }

    fn protect(&mut self, _: RegionId, pages: &PageSet) -> Result<(), TrackError> {
        self.written.take_back(0, pages.words());
        Ok(())
    }

    fn freeze(
        &mut self,
        _: RegionId,
        pages: &PageSet,
        held: &PageSet,
    ) -> Result<Option<Box<dyn FrozenPages>>, TrackError> {
        for run in held.runs() {
            self.freezer.userfault.protect(&span(self.base, &run)).unwrap();
        }
        if let Some((address, copying)) = self.late.take() {
            self.freezer.let_writer_go(Some(&copying), address);
        }
        self.written.take_back(0, pages.words());
        let (freezer, written) = (Arc::clone(&self.freezer), Arc::clone(&self.written));
        Ok(Some(Box::new(Held { freezer, base: self.base, written })))
    }
}

/// As [`Frozen`], of memory without a slot.
#[derive(Debug)]
struct Held {
    freezer: Arc<Freezer>,
    base: usize,
    written: Arc<WrittenPages>,
}

impl FrozenPages for Held {
    fn taken(&self, range: Range<usize>, _: &PageSet) {
        self.thaw(range);
    }

    fn thaw(&self, pages: Range<usize>) {
        self.freezer.thaw(&span(self.base, &pages));
    }

    fn reopen(&self, pages: &PageSet) {
        for (index, word) in pages.words().iter().enumerate() {
            self.written.mark_word(index, *word);
        }
    }
}

type Words = [[u64; WORDS]; PLACES.len()];

struct Scene {
    engine: Engine<MarkTracker>,
    freezer: Arc<Freezer>,
    written: Arc<WrittenPages>,
    memory: Arc<Reservation>,
    /// What the words should be when nobody waits.
    live: Words,
    number: u64,
}

impl Scene {
    /// None where writers can't be held off.
    fn new() -> Option<Self> {
        if !holds_writers() {
            skipped("no userfaultfd for writes of the kernel");
            return None;
        }
        let freezer = Arc::new(Freezer::open().unwrap());
        let memory = Arc::new(Reservation::anonymous(to_usize(BYTES), to_usize(LARGE_PAGE)).unwrap());
        let base = memory.address(0);
        freezer.register(&(base..memory.address(BYTES))).unwrap();
        let written = Arc::new(WrittenPages::new(0..BYTES));
        let tracker =
            MarkTracker { freezer: Arc::clone(&freezer), base, written: Arc::clone(&written), late: None };
        let mut engine = Engine::new(tracker, Config::default());
        let start = memory.pointer(&(0..BYTES)).unwrap();
        // SAFETY: all of the reservation is anonymous memory that can be read and written, aligned to large pages, and
        // lives as long as the scene, which has the engine. Nothing but atomics refers to it.
        let live = unsafe { LiveMemory::new(start, to_usize(BYTES / PAGE)) };
        engine.add_region(RegionName::new(b"frozen").unwrap(), live).unwrap();
        Some(Self { engine, freezer, written, memory, live: Words::default(), number: 0 })
    }

    fn look(&self) -> Words {
        let word = |place: usize, word: usize| self.memory.word(offset(place, word)).load(Ordering::Relaxed);
        std::array::from_fn(|place| std::array::from_fn(|at| word(place, at)))
    }

    /// Another number that was never written.
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn mark(&self, place: usize) {
        self.written.mark(&(PLACES[place]..PLACES[place] + PAGE));
    }

    /// Whether a writer waits, which has begun: if not, it's done.
    fn waits(&self, writer: &ScopedJoinHandle<'_, ()>) -> bool {
        while !writer.is_finished() {
            let mut fds = [PollFd::new(self.freezer.userfault.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(1_u8)).unwrap() == 1 {
                return true;
            }
        }
        false
    }

    /// Takes all steps while a checkpoint is in the making, and checks it and memory.
    fn play(&mut self, steps: &[Step]) {
        for place in 0..PLACES.len() {
            self.live[place][0] = self.next();
            self.mark(place);
            self.memory.word(offset(place, 0)).store(self.live[place][0], Ordering::Relaxed);
        }
        let frozen = self.live;
        let ticket = self.engine.checkpoint_async().unwrap();
        assert!(!ticket.done, "nobody has copied");
        let memory = Arc::clone(&self.memory);
        thread::scope(|scope| {
            let mut writers = Vec::new();
            for (at, step) in steps.iter().enumerate() {
                match *step {
                    Step::Write(place) => {
                        let (value, word) = (self.next(), memory.word(offset(place, 1 + at)));
                        let before = word.load(Ordering::Relaxed);
                        self.live[place][1 + at] = value;
                        self.mark(place);
                        let writer = scope.spawn(move || word.store(value, Ordering::Relaxed));
                        let waits = self.waits(&writer);
                        if writers.is_empty() && !steps[..at].iter().any(Step::thaws) {
                            assert!(waits && word.load(Ordering::Relaxed) == before, "nobody was held off");
                        }
                        writers.push(writer);
                    }
                    Step::Copy => drop(self.engine.copying().copy_some()),
                    Step::LetGo => self.freezer.let_writers_go(Some(self.engine.copying())),
                    Step::Discard(place) => {
                        self.engine.finish();
                        writers.drain(..).for_each(|writer| writer.join().unwrap());
                        self.mark(place);
                        let page = PLACES[place]..PLACES[place] + PAGE;
                        memory.advise(&page, MmapAdvise::MADV_DONTNEED).unwrap();
                        self.live[place] = [0; WORDS];
                    }
                    Step::Finish => self.engine.finish(),
                }
            }
            assert!(self.engine.ticket(ticket.id, true).unwrap().done);
            // Nobody is held off any more.
            writers.drain(..).for_each(|writer| writer.join().unwrap());
        });
        // What nobody waits for any more is still told.
        self.freezer.let_writers_go(Some(self.engine.copying()));
        assert_eq!(self.look(), self.live, "{steps:?}: live memory");
        let after = self.engine.checkpoint().unwrap();
        for (id, expected) in [(ticket.id, frozen), (after, self.live), (ticket.id, frozen)] {
            self.engine.rollback(id).unwrap();
            assert_eq!(self.look(), expected, "{steps:?}: checkpoint {id}");
        }
        self.live = frozen;
    }
}

impl Step {
    /// Whether pages may be thawed by it.
    fn thaws(&self) -> bool {
        !matches!(self, Self::Write(_))
    }
}

fn offset(place: usize, word: usize) -> u64 {
    PLACES[place] + 8 * word as u64
}

#[test]
fn in_every_order_a_writer_waits_until_its_page_is_taken() {
    let Some(mut scene) = Scene::new() else { return };
    let mut steps = vec![Vec::new()];
    for len in 1..=STEPS {
        steps = steps
            .iter()
            .flat_map(|before: &Vec<Step>| ALL.map(|step| [before.as_slice(), &[step]].concat()))
            .collect();
        // The longest ones that begin with a writer: before it nothing is held off.
        for steps in steps.iter().filter(|steps| len < STEPS || matches!(steps[0], Step::Write(_))) {
            scene.play(steps);
        }
    }
}

/// A writer that waits is let go before all that doesn't concern it.
#[test]
fn the_page_that_somebody_waits_for_is_next() {
    let Some(mut scene) = Scene::new() else { return };
    for place in 0..PLACES.len() {
        scene.live[place][0] = 1;
        scene.mark(place);
        scene.memory.word(offset(place, 0)).store(1, Ordering::Relaxed);
    }
    let ticket = scene.engine.checkpoint_async().unwrap();
    let memory = Arc::clone(&scene.memory);
    let last = PLACES.len() - 1;
    for place in [0, last] {
        scene.mark(place);
    }
    thread::scope(|scope| {
        let writer = scope.spawn(|| memory.word(offset(last, 1)).store(9, Ordering::Relaxed));
        assert!(scene.waits(&writer));
        scene.freezer.let_writers_go(Some(scene.engine.copying()));
        writer.join().unwrap();
        assert!(!scene.engine.ticket(ticket.id, false).unwrap().done, "only that page was taken");
        let other = scope.spawn(|| memory.word(offset(0, 1)).store(9, Ordering::Relaxed));
        assert!(scene.waits(&other), "the others are frozen still");
        scene.engine.finish();
        other.join().unwrap();
    });
    scene.engine.rollback(ticket.id).unwrap();
    assert_eq!(scene.look()[last][..2], [1, 0]);
}

/// The copier was held up between the message of a writer and what it does about it.
#[test]
fn what_a_writer_waited_for_before_thaws_nothing_that_is_frozen_now() {
    let Some(mut scene) = Scene::new() else { return };
    let memory = Arc::clone(&scene.memory);
    let word = |at: usize| memory.word(offset(0, at));
    scene.mark(0);
    word(0).store(1, Ordering::Relaxed);
    let first = scene.engine.checkpoint_async().unwrap();
    thread::scope(|scope| {
        scene.mark(0);
        let writer = scope.spawn(|| word(1).store(2, Ordering::Relaxed));
        assert!(scene.waits(&writer));
        let address = scene.freezer.userfault.next_waiting().unwrap().unwrap();
        scene.engine.finish();
        writer.join().unwrap();
        scene.engine.tracker_mut().late = Some((address, Arc::clone(scene.engine.copying())));
        let second = scene.engine.checkpoint_async().unwrap();
        assert!(!second.done && scene.engine.tracker().late.is_none());
        scene.mark(0);
        let writer = scope.spawn(|| word(1).store(3, Ordering::Relaxed));
        assert!(scene.waits(&writer), "its page isn't taken yet");
        scene.engine.finish();
        writer.join().unwrap();
        for (id, expected) in [(second.id, [1, 2]), (first.id, [1, 0])] {
            scene.engine.rollback(id).unwrap();
            assert_eq!(scene.look()[0][..2], expected);
        }
    });
}
