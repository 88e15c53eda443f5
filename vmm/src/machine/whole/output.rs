//! The file of standard output across rollbacks: what one cuts off belongs to checkpoints that the program can still go
//! on from, so the checkpoint that notes the rollback takes it along.
//!
//! | name | what |
//! |---|---|
//! | section `stdout` | [`OutputFile`], in each checkpoint of a program that has such a file |
//! | section `turn` | [`Turn`]: where the file begins to differ from what it was before |
//! | object `output:cut` | what it had from there on |
//! | object `output:put` | what it has instead, as far as that isn't simply cut |
//!
//! A checkpoint's file is found by going from it to the newest: the first turn that cut a byte off has that byte. Who
//! brings a program back from an older checkpoint notes no turn: what that one's file had is still there then, and
//! whatever followed is lost, which the next checkpoint says. Until there is one, the file tells by its
//! [checksum](Prefix) that it isn't any more what checkpoints say that were newer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_abi::CheckpointId;
use cairn_store::{Batch, PAGE_SIZE, Store, section};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};

use super::objects;
use super::prefix::Prefix;
use super::saved::{SavedError, output_file};
use super::stdout;
use super::take::TakeError;
use crate::store::signature::{CheckedSnapshot, Key, Unsigned};

/// Bytes that a rollback takes along at most. Bounds what a program that prints a lot costs in memory.
const MOST: u64 = 64 << 20;
/// Bytes of a [`Turn`] at most.
const MAX_TURN: usize = 64;
const TURN: &str = "turn";
const CUT: &str = "output:cut";
const PUT: &str = "output:put";
const TAG: u64 = u64::from_le_bytes(*b"output\0\0");

/// The file when a checkpoint was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OutputFile {
    /// All that it had.
    pub(super) prefix: Prefix,
    /// Bytes at its beginning that it still had of the file of the checkpoint before it in the store, before a turn that
    /// this one notes: all of them, unless another run has begun since. A checkpoint that is complete may well go on in
    /// the file of the one before it, so that its parent doesn't tell.
    pub(super) kept: u64,
}

/// Where the file turned into another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Turn {
    /// The first byte that differs.
    start: u64,
    /// Bytes that were taken along, of those that were cut off.
    cut: u64,
    /// Bytes that stand there instead.
    put: u64,
}

/// Why the file can't be made what it was.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// What it had was cut off and not kept.
    #[error(
        "what the program had written to standard output by checkpoint {0} was cut off, and there was too much of it \
         to be kept, or another run of the program did so"
    )]
    Lost(u64),
    /// What it had was cut off by somebody else.
    #[error(
        "what the program had written to standard output by then is kept in checkpoint {id}, which is not this user's"
    )]
    Unsigned {
        /// The later checkpoint.
        id: u64,
        /// Why it doesn't count.
        #[source]
        source: Unsigned,
    },
    /// The present one can't be read.
    #[error("the file of standard output can't be read")]
    Read(#[source] io::Error),
}

/// What the file is to be: as it is up to `start`, then these bytes. By default nothing at all.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Output {
    pub(super) start: u64,
    pub(super) put: Vec<u8>,
    file: OutputFile,
}

impl Output {
    /// The file of a checkpoint that left it with `prefix`, as far as it's to be made from what it is now. With a key
    /// only checkpoints count that were signed with it.
    ///
    /// # Errors
    /// [`SavedError`]; [`OutputError::Lost`] in it.
    pub(super) fn of(
        store: &Store,
        id: CheckpointId,
        prefix: Prefix,
        key: Option<&Key>,
    ) -> Result<Self, SavedError> {
        let length = prefix.length;
        let open = |id: CheckpointId| -> Result<CheckedSnapshot, SavedError> {
            let snapshot = Arc::new(store.snapshot(id)?);
            match key {
                None => Ok(CheckedSnapshot::unchecked(snapshot)),
                Some(key) => Ok(CheckedSnapshot::open(snapshot, key)?
                    .map_err(|source| OutputError::Unsigned { id: id.0, source })?),
            }
        };
        let mut start = length;
        // From the end to the beginning.
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut before = id;
        for checkpoint in store.checkpoints().iter().filter(|checkpoint| id < checkpoint.id) {
            // A change to the one before goes on in its file.
            if checkpoint.parent != Some(before) && start != 0 {
                let snapshot = open(checkpoint.id)?;
                if output_file(&snapshot)?.map_or(0, |file| file.kept) < start {
                    return Err(OutputError::Lost(id.0).into());
                }
                if let Some(turn) = turn(&snapshot)?.filter(|turn| turn.start < start) {
                    let missing = start - turn.start;
                    if turn.cut < missing || MOST < length - turn.start {
                        return Err(OutputError::Lost(id.0).into());
                    }
                    pieces.push(bytes(&snapshot, CUT, missing)?);
                    start = turn.start;
                }
            }
            before = checkpoint.id;
        }
        let mut put: Vec<u8> = pieces.into_iter().rev().flatten().collect();
        let own = open(id)?;
        if let (true, Some(turn)) = (put.is_empty(), turn(&own)?) {
            // Who noted the turn may have been killed before the file was what it says.
            put = bytes(&own, PUT, turn.put)?;
            start = length.checked_sub(turn.put).ok_or(OutputError::Lost(id.0))?;
        }
        let kept = if before == id { length } else { start };
        Ok(Self { start, put, file: OutputFile { prefix, kept } })
    }

    /// What the file is then, and how much of that the file of the store's newest checkpoint has.
    pub(crate) fn file(&self) -> OutputFile {
        self.file
    }

    /// The same, once that newest checkpoint is one that [notes](Self::note) it.
    pub(crate) fn noted(&self) -> OutputFile {
        OutputFile { kept: self.length(), ..self.file }
    }

    /// The bytes that the file has in the end.
    pub(super) fn length(&self) -> u64 {
        self.file.prefix.length
    }

    /// Whether it can be made of `file`.
    ///
    /// # Errors
    /// What reading says.
    pub(super) fn fits(&self, file: &File) -> io::Result<bool> {
        let kept = Prefix::default().extended(file, self.start)?;
        Ok(kept.followed_by(&self.put) == self.file.prefix)
    }

    /// What the present file has that will be cut off; nothing if that is too much, or nothing that could be read again.
    fn lost(&self) -> io::Result<Vec<u8>> {
        let Some(file) = stdout::to_read()? else { return Ok(Vec::new()) };
        let cut = file.metadata()?.len().saturating_sub(self.start);
        let mut lost = vec![0; if MOST < cut { 0 } else { usize::try_from(cut).unwrap_or(0) }];
        file.read_exact_at(&mut lost, self.start)?;
        Ok(lost)
    }

    /// Puts the turn into the batch that notes it, with what the present file has that will be cut off.
    ///
    /// # Errors
    /// [`SavedError`].
    pub(super) fn note(&self, batch: &mut Batch) -> Result<(), SavedError> {
        let lost = self.lost().map_err(OutputError::Read)?;
        let turn = Turn { start: self.start, cut: lost.len() as u64, put: self.put.len() as u64 };
        let encoded = section::encode(&turn).map_err(|source| SavedError::Section { name: TURN, source })?;
        batch.section(TURN, encoded)?;
        add(batch, CUT, &lost)?;
        add(batch, PUT, &self.put)
    }
}

/// Whether a section or an object is one of a turn, which only the checkpoint has that notes it.
pub(super) fn is_of_turn(name: &str) -> bool {
    [TURN, CUT, PUT].contains(&name)
}

fn turn(snapshot: &CheckedSnapshot) -> Result<Option<Turn>, SavedError> {
    let Some(bytes) = snapshot.section(TURN)? else { return Ok(None) };
    let turn = section::decode(&bytes, MAX_TURN);
    turn.map(Some).map_err(|source| SavedError::Section { name: TURN, source })
}

fn add(batch: &mut Batch, name: &str, bytes: &[u8]) -> Result<(), SavedError> {
    let object = objects::add(batch, name, TAG, bytes.len().div_ceil(PAGE_SIZE) as u64)?;
    Ok(objects::put(batch, object, bytes)?)
}

/// The first `length` bytes of an object.
fn bytes(snapshot: &CheckedSnapshot, name: &'static str, length: u64) -> Result<Vec<u8>, SavedError> {
    let missing = || SavedError::NotWhole { id: snapshot.id().0, name };
    let length = usize::try_from(length).ok().filter(|length| *length as u64 <= MOST).ok_or_else(missing)?;
    let object = snapshot.find(name).ok_or_else(missing)?;
    let mut bytes = vec![0; length];
    for (page, piece) in (0..).zip(bytes.chunks_mut(PAGE_SIZE)) {
        let mut whole = [0; PAGE_SIZE];
        snapshot.read_page(object, page, &mut whole)?;
        piece.copy_from_slice(&whole[..piece.len()]);
    }
    Ok(bytes)
}

/// The file of standard output, from one checkpoint to the next.
#[derive(Debug)]
pub(super) struct OutputSource {
    /// What it was when it was last looked at.
    last: Mutex<OutputFile>,
    /// To be read, if it is a file.
    file: Option<File>,
}

impl OutputSource {
    /// The file is `now` when the program begins to write to it.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn new(now: OutputFile) -> io::Result<Self> {
        Ok(Self { last: Mutex::new(now), file: stdout::to_read()? })
    }

    /// Bytes that it has of the file of the store's newest checkpoint.
    pub(super) fn kept(&self) -> u64 {
        self.last().kept
    }

    /// Where it ends; all that the program wrote is before that.
    ///
    /// # Errors
    /// [`TakeError::Stdout`].
    pub(super) fn position(&self) -> Result<u64, TakeError> {
        let position = lseek(io::stdout(), 0, Whence::SeekCur).map_err(TakeError::Stdout)?;
        u64::try_from(position).map_err(|_| TakeError::Stdout(Errno::EOVERFLOW))
    }

    /// What it was when it had `length` bytes, which it still has, and more since it was last looked at. Where somebody
    /// else has cut it off, that is told once, and nothing is known of it any more.
    ///
    /// # Errors
    /// [`TakeError::Output`].
    pub(super) fn describe(&self, length: u64) -> Result<OutputFile, TakeError> {
        let mut last = self.last();
        let Some(file) = &self.file else { return Ok(*last) };
        last.prefix = match last.prefix.extended(file, length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::warn!(
                    "somebody else has cut off the file of standard output: from its checkpoints from now on the \
                     program goes on with cairn restore --stdout FILE alone, and a file that isn't there yet"
                );
                Prefix::lost(length)
            }
            described => described.map_err(TakeError::Output)?,
        };
        Ok(*last)
    }

    /// What was described last is the store's newest now.
    pub(super) fn commit(&self) {
        let mut last = self.last();
        last.kept = last.prefix.length;
    }

    fn last(&self) -> MutexGuard<'_, OutputFile> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use cairn_store::{Level, Options, Writer};

    use super::*;

    /// Any file of that length.
    fn prefix(length: u64) -> Prefix {
        Prefix::default().followed_by(&vec![b'x'; usize::try_from(length).unwrap()])
    }

    /// A store to which checkpoints are added by their parent and their file.
    struct Place {
        directory: tempfile::TempDir,
        writer: Writer,
        newest: u64,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let writer = Writer::open(directory.path(), Options::default()).unwrap();
            Self { directory, writer, newest: 0 }
        }

        /// Adds one; `turn` is where the file turned into another, and what was cut off there.
        fn add(&mut self, parent: Option<u64>, length: u64, kept: u64, turn: Option<(u64, &[u8])>) {
            self.newest += 1;
            let mut batch = Batch::new(CheckpointId(self.newest), parent.map(CheckpointId));
            let file = section::encode(&Some(OutputFile { prefix: prefix(length), kept })).unwrap();
            batch.section("stdout", file).unwrap();
            if let Some((start, cut)) = turn {
                let turn = Turn { start, cut: cut.len() as u64, put: 0 };
                batch.section(TURN, section::encode(&turn).unwrap()).unwrap();
                add(&mut batch, CUT, cut).unwrap();
                add(&mut batch, PUT, &[]).unwrap();
            }
            self.writer.commit(&batch, Level::Written).unwrap();
        }

        /// Where the file of a checkpoint begins to be another than the present one, and what it has there; None if it's
        /// lost.
        fn find(&self, id: u64, length: u64) -> Option<(u64, Vec<u8>)> {
            let store = Store::open(self.directory.path()).unwrap();
            match Output::of(&store, CheckpointId(id), prefix(length), None) {
                Ok(output) => {
                    assert_eq!(output.length(), length);
                    assert_eq!(output.start + output.put.len() as u64, length);
                    assert_eq!(output.file().kept, if id == self.newest { length } else { output.start });
                    Some((output.start, output.put))
                }
                Err(SavedError::Output(OutputError::Lost(lost))) if lost == id => None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_complete_checkpoint_cuts_nothing_off() {
        let mut place = Place::new();
        place.add(None, 10, 0, None);
        place.add(Some(1), 20, 10, None);
        place.add(None, 30, 20, None);
        place.add(Some(3), 40, 30, None);
        for (id, length) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
            assert_eq!(place.find(id, length), Some((length, Vec::new())), "{id}");
        }
        // Another run, from its beginning.
        place.add(None, 50, 0, None);
        assert!((1..5).all(|id| place.find(id, 10 * id).is_none()));
    }

    #[test]
    fn what_was_kept_and_what_turns_have_is_found_and_nothing_else() {
        let mut place = Place::new();
        place.add(None, 10, 0, None);
        place.add(Some(1), 20, 10, None);
        place.add(Some(2), 30, 20, None);
        // Brought back from 2, rolled back to 1, and once more complete.
        place.add(Some(2), 25, 20, None);
        place.add(Some(1), 10, 25, Some((10, b"abcdefghijklmno")));
        place.add(None, 40, 10, None);
        assert_eq!(place.find(1, 10), Some((10, Vec::new())));
        assert_eq!(place.find(2, 20), Some((10, b"abcdefghij".to_vec())));
        assert_eq!(place.find(3, 30), None, "it was cut off when the program was brought back");
        assert_eq!(place.find(4, 25), Some((10, b"abcdefghijklmno".to_vec())));
        assert_eq!(place.find(6, 40), Some((40, Vec::new())));
        // Brought back from 1, and rolled back there when much was printed that no checkpoint has.
        place.add(Some(1), 10, 10, Some((10, &[b'x'; 100])));
        assert_eq!(place.find(6, 40), None, "what a turn has is another file's");
        assert_eq!(place.find(2, 20), Some((10, b"abcdefghij".to_vec())));
    }
}
