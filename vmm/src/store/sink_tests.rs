//! The sink over a disk that does what it's told.

use std::sync::mpsc::{self, Receiver, Sender};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

/// Commits when the test says so, with that result.
struct Told {
    newest: Option<CheckpointId>,
    begun: Sender<u64>,
    results: Receiver<Result<(), Failure>>,
}

/// How a commit fails.
#[derive(Debug)]
enum Failure {
    Io(io::ErrorKind),
    /// The parent isn't in the store.
    Parent,
    /// And what was committed before is lost.
    Lost,
}

impl Disk for Told {
    fn newest(&self) -> Option<CheckpointId> {
        self.newest
    }

    fn commit(&mut self, batch: &Batch, _level: Level) -> Result<u64, StoreError> {
        assert!(self.newest < Some(batch.id()), "ids rise");
        assert!(batch.parent().is_none() || batch.parent() == self.newest, "on top of the newest");
        self.begun.send(batch.id().0).unwrap();
        match self.results.recv().unwrap_or(Ok(())) {
            Ok(()) => {
                self.newest = Some(batch.id());
                Ok(batch.bytes() as u64)
            }
            Err(Failure::Io(kind)) => Err(failed(kind)),
            Err(Failure::Parent) => {
                Err(StoreError::Batch { id: batch.id().0, source: BatchError::Parent(1) })
            }
            Err(Failure::Lost) => {
                self.newest = self.newest.map(|newest| CheckpointId(newest.0 - 1));
                Err(failed(io::ErrorKind::Other))
            }
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.begun.send(0).map_err(|_| failed(io::ErrorKind::Other))
    }

    /// None that is committed can be read.
    fn snapshot(&self, id: CheckpointId) -> Result<Arc<Snapshot>, StoreError> {
        match Some(id) <= self.newest {
            true => Err(failed(io::ErrorKind::Other)),
            false => Err(StoreError::Unknown { path: "store".into(), id: id.0 }),
        }
    }
}

fn failed(kind: io::ErrorKind) -> StoreError {
    let errno = if kind == io::ErrorKind::StorageFull { libc::ENOSPC } else { libc::EIO };
    StoreError::Io { doing: "write", path: "store".into(), source: io::Error::from_raw_os_error(errno) }
}

struct Story {
    sink: Sink,
    begun: Receiver<u64>,
    results: Sender<Result<(), Failure>>,
}

impl Story {
    fn new(newest: Option<u64>) -> Self {
        let (begun, told) = mpsc::channel();
        let (results, wanted) = mpsc::channel();
        let disk = Told { newest: newest.map(CheckpointId), begun, results: wanted };
        Self { sink: Sink::start(disk, None, || Ok(())).unwrap(), begun: told, results }
    }

    /// Hands a batch over, and waits until the disk has begun with it if nothing is before it.
    fn submit(&self, id: u64) {
        let base = self.sink.base();
        let batch = self.sink.batch(CheckpointId(id), base.parent);
        self.sink.submit(batch, Level::Written, base).unwrap();
        if base.idle {
            assert_eq!(self.begun.recv().unwrap(), id);
        }
    }

    fn level(&self, id: u64, wanted: Option<Level>) -> Result<Option<Level>, SinkError> {
        self.sink.level_of(CheckpointId(id), wanted, PATIENCE)
    }
}

#[test]
fn one_is_written_and_one_waits_and_no_more() {
    let story = Story::new(Some(4));
    assert_eq!(story.sink.newest(), Some(CheckpointId(4)));
    story.submit(5);
    assert!(story.sink.has_room(NOW));
    story.submit(6);
    assert!(!story.sink.has_room(NOW));
    let figures = story.sink.figures();
    assert_eq!((figures.written, figures.queued, story.sink.newest()), (4, 2, Some(CheckpointId(6))));
    assert_eq!((story.level(4, None), story.level(5, None)), (Ok(Some(Level::Written)), Ok(None)));
    assert_eq!(story.level(7, None), Err(SinkError::NoCheckpoint));
    story.results.send(Ok(())).unwrap();
    assert!(story.sink.has_room(PATIENCE));
    assert_eq!(story.level(5, Some(Level::Written)), Ok(Some(Level::Written)));
    story.results.send(Ok(())).unwrap();
    assert_eq!(story.level(6, Some(Level::Written)), Ok(Some(Level::Written)));
    assert_eq!(
        story.level(6, Some(Level::Synced)),
        Ok(Some(Level::Written)),
        "nothing is on its way any more"
    );
}

#[test]
fn what_was_built_on_a_failure_fails_with_it_and_the_next_goes_on_from_what_stands() {
    let story = Story::new(None);
    story.submit(1);
    story.results.send(Ok(())).unwrap();
    assert_eq!(story.level(1, Some(Level::Written)), Ok(Some(Level::Written)));
    story.submit(2);
    story.submit(3);
    let outdated = story.sink.base();
    story.results.send(Err(Failure::Io(io::ErrorKind::StorageFull))).unwrap();
    let full = SinkError::Failed(libc::ENOSPC.unsigned_abs());
    assert_eq!(story.level(2, Some(Level::Written)), Err(full));
    assert_eq!(story.level(3, Some(Level::Written)), Err(full));
    let figures = story.sink.figures();
    assert_eq!((figures.written, figures.queued), (1, 0));
    assert_eq!((figures.failed, figures.failed_errno), (3, libc::ENOSPC.unsigned_abs()));

    let batch = story.sink.batch(CheckpointId(4), outdated.parent);
    assert!(story.sink.submit(batch, Level::Written, outdated).is_err(), "made on top of what failed");
    let base = story.sink.base();
    assert!(base.idle && base.parent == Some(CheckpointId(1)) && base.failures == outdated.failures + 1);
    story.submit(4);
    story.results.send(Ok(())).unwrap();
    assert_eq!(story.level(4, Some(Level::Written)), Ok(Some(Level::Written)));
    assert_eq!(story.level(2, None), Err(full), "it's told as often as somebody asks");
}

#[test]
fn the_end_writes_and_syncs_what_was_handed_over() {
    let Story { sink, begun, results } = Story::new(None);
    for id in [1, 2] {
        let base = sink.base();
        sink.submit(sink.batch(CheckpointId(id), base.parent), Level::Written, base).unwrap();
    }
    drop(results);
    drop(sink);
    assert_eq!(begun.iter().collect::<Vec<_>>(), [1, 2, 0]);
}

#[test]
fn one_owner_at_a_time() {
    let story = Story::new(None);
    let (one, other) = (Owner(1), Owner(2));
    assert!(story.sink.claim(one) && story.sink.claim(one) && !story.sink.claim(other));
    story.sink.unclaim(other);
    assert!(!story.sink.claim(other));
    story.sink.unclaim(one);
    assert!(story.sink.claim(other));
}

#[test]
fn a_thread_that_panics_leaves_nobody_waiting() {
    struct Broken;
    impl Disk for Broken {
        fn newest(&self) -> Option<CheckpointId> {
            None
        }
        fn commit(&mut self, _: &Batch, _: Level) -> Result<u64, StoreError> {
            panic!("a disk that breaks, on purpose")
        }
        fn sync(&mut self) -> Result<(), StoreError> {
            Ok(())
        }
        fn snapshot(&self, _: CheckpointId) -> Result<Arc<Snapshot>, StoreError> {
            panic!("a disk that breaks, on purpose")
        }
    }
    let sink = Sink::start(Broken, None, || Ok(())).unwrap();
    let base = sink.base();
    sink.submit(sink.batch(CheckpointId(1), None), Level::Written, base).unwrap();
    assert_eq!(sink.level_of(CheckpointId(1), Some(Level::Written), PATIENCE), Err(SinkError::Failed(0)));
    assert_eq!(sink.snapshot(Owner(1), CheckpointId(1), PATIENCE).err(), Some(SinkError::Failed(0)));
    let base = sink.base();
    assert!(sink.submit(sink.batch(CheckpointId(2), None), Level::Written, base).is_ok());
    assert_eq!(sink.level_of(CheckpointId(2), Some(Level::Written), NOW), Err(SinkError::Failed(0)));
}

#[test]
fn a_complete_one_follows_where_the_parent_is_gone() {
    for failure in [Failure::Parent, Failure::Lost] {
        let story = Story::new(Some(4));
        story.submit(5);
        story.results.send(Err(failure)).unwrap();
        assert!(story.level(5, Some(Level::Written)).is_err());
        assert_eq!(story.sink.base().parent, None);
    }
}

#[test]
fn each_gets_what_it_wants_to_read_whatever_others_want() {
    let (one, other, third) = (Owner(1), Owner(2), Owner(3));
    let story = Story::new(None);
    let read = |owner, id, patience| story.sink.snapshot(owner, CheckpointId(id), patience).map(|_| ());
    let none = Err(SinkError::NoCheckpoint);
    for round in [10, 20, 30] {
        // While the thread is busy, all can ask.
        story.submit(round);
        for id in [round + 1, round + 2] {
            assert_eq!(read(one, round + 1, NOW), Ok(()));
            assert_eq!(read(other, id, NOW), Ok(()));
            assert_eq!(read(third, 5, NOW), Ok(()));
        }
        story.results.send(Ok(())).unwrap();
        // Who asked last is served last.
        assert_eq!(read(other, round + 2, PATIENCE), none);
        assert_eq!(read(one, round + 1, NOW), none, "it was given to somebody else");
        assert_eq!(read(third, 5, NOW), Err(SinkError::Failed(libc::EIO.unsigned_abs())));
    }
}

#[test]
fn what_could_not_be_read_once_is_looked_for_again_when_there_is_more() {
    let (one, other) = (Owner(1), Owner(2));
    let story = Story::new(None);
    let read = |owner, id, patience| story.sink.snapshot(owner, CheckpointId(id), patience).map(|_| ());
    let there = Err(SinkError::Failed(libc::EIO.unsigned_abs()));
    let mut id = 1;
    for ends in [false, true] {
        story.submit(id);
        assert_eq!(read(one, id + 1, NOW), Ok(()));
        story.results.send(Ok(())).unwrap();
        // Behind the other's question.
        assert_eq!(read(other, 100, PATIENCE), Err(SinkError::NoCheckpoint));
        if ends {
            story.sink.unclaim(one);
        }
        story.submit(id + 1);
        story.results.send(Ok(())).unwrap();
        assert!(story.level(id + 1, Some(Level::Written)).is_ok());
        assert_eq!(read(one, id + 1, PATIENCE), there);
        id += 2;
    }
}

/// Whoever reads without end doesn't keep the store from being written.
#[test]
fn batches_are_written_between_what_is_read() {
    let story = Story::new(None);
    story.submit(1);
    for owner in 1..9 {
        assert!(story.sink.snapshot(Owner(owner), CheckpointId(50), NOW).is_ok_and(|found| found.is_none()));
    }
    story.submit(2);
    story.results.send(Ok(())).unwrap();
    story.results.send(Err(Failure::Io(io::ErrorKind::StorageFull))).unwrap();
    let last = |patience| story.sink.snapshot(Owner(8), CheckpointId(50), patience);
    assert_eq!(last(PATIENCE).err(), Some(SinkError::NoCheckpoint));
    let full = Err(SinkError::Failed(libc::ENOSPC.unsigned_abs()));
    assert_eq!(story.level(2, None), full, "all was read before");
}

#[test]
fn equal_failures_are_told_once_in_a_row() {
    let told = Lines::default();
    let writer = told.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut state = State::default();
        let full = io::ErrorKind::StorageFull;
        let results =
            [Err(full), Err(full), Err(full), Err(io::ErrorKind::Other), Err(full), Ok(1), Err(full)];
        for (id, result) in (1..).zip(results) {
            let job = Job { batch: Batch::new(CheckpointId(id), None), level: Level::Written };
            state.ended_commit(job, result.map_err(failed), None);
        }
    });
    let told = String::from_utf8(told.0.lock().unwrap().clone()).unwrap();
    let errors: Vec<&str> = told.lines().filter(|line| line.contains("ERROR")).collect();
    let ids = ["id=1", "id=4", "id=5", "id=7"];
    assert!(errors.len() == ids.len(), "{told}");
    assert!(errors.iter().zip(ids).all(|(line, id)| line.contains(id)), "{told}");
}

/// Keeps what is written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
