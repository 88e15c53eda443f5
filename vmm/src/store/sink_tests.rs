//! The sink over a disk that does what it's told.

use std::sync::mpsc::{self, Receiver, Sender};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

/// Commits when the test says so, with that result.
struct Told {
    newest: Option<CheckpointId>,
    begun: Sender<u64>,
    results: Receiver<Result<(), io::ErrorKind>>,
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
            Err(kind) => Err(failed(kind)),
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.begun.send(0).map_err(|_| failed(io::ErrorKind::Other))
    }

    fn snapshot(&self, id: CheckpointId) -> Result<Arc<Snapshot>, StoreError> {
        Err(StoreError::Unknown { path: "store".into(), id: id.0 })
    }
}

fn failed(kind: io::ErrorKind) -> StoreError {
    let errno = if kind == io::ErrorKind::StorageFull { libc::ENOSPC } else { libc::EIO };
    StoreError::Io { doing: "write", path: "store".into(), source: io::Error::from_raw_os_error(errno) }
}

struct Story {
    sink: Sink,
    begun: Receiver<u64>,
    results: Sender<Result<(), io::ErrorKind>>,
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
    story.results.send(Err(io::ErrorKind::StorageFull)).unwrap();
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
    assert_eq!(sink.snapshot(CheckpointId(1), PATIENCE).err(), Some(SinkError::Failed(0)));
    let base = sink.base();
    assert!(sink.submit(sink.batch(CheckpointId(2), None), Level::Written, base).is_ok());
    assert_eq!(sink.level_of(CheckpointId(2), Some(Level::Written), NOW), Err(SinkError::Failed(0)));
}
