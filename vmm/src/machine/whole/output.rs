//! The file of standard output across rollbacks: what one cuts off belongs to checkpoints that the program can still go
//! on from, so the checkpoint that notes the rollback takes it along.
//!
//! | name | what |
//! |---|---|
//! | section `turn` | [`Turn`]: where the file begins to differ from what it was before |
//! | object `output:cut` | what it had from there on |
//! | object `output:put` | what it has instead, as far as that isn't simply cut |
//!
//! A checkpoint's file is found by going from it to the newest: the first turn that cut a byte off has that byte. Who
//! brings a program back from an older checkpoint notes no turn: what that one's file had is still there then, and
//! whatever followed is lost.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, PAGE_SIZE, Store, section};
use serde::{Deserialize, Serialize};

use super::objects;
use super::saved::{SavedError, output_length};
use crate::store::signature::{CheckedSnapshot, Key, Unsigned};

/// Bytes that a rollback takes along at most. Bounds what a program that prints a lot costs in memory.
const MOST: u64 = 64 << 20;
/// Bytes of a [`Turn`] at most.
const MAX_TURN: usize = 64;
const TURN: &str = "turn";
const CUT: &str = "output:cut";
const PUT: &str = "output:put";
const TAG: u64 = u64::from_le_bytes(*b"output\0\0");

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
    pub(crate) start: u64,
    pub(crate) put: Vec<u8>,
}

impl Output {
    /// The file of a checkpoint that left it with `length` bytes, as far as it's to be made from what it is now. With a
    /// key only checkpoints count that were signed with it.
    ///
    /// # Errors
    /// [`SavedError`]; [`OutputError::Lost`] in it.
    pub(super) fn of(
        store: &Store,
        id: CheckpointId,
        length: u64,
        key: Option<&Key>,
    ) -> Result<Self, SavedError> {
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
            if checkpoint.parent != Some(before) && start != 0 {
                let snapshot = open(checkpoint.id)?;
                let Some(turn) = turn(&snapshot)? else {
                    if Self::kept(store, checkpoint.parent, open)? < start {
                        return Err(OutputError::Lost(id.0).into());
                    }
                    before = checkpoint.id;
                    continue;
                };
                if turn.start < start {
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
        Ok(Self { start, put })
    }

    /// How many bytes stayed when the program was brought back from `parent`: as many as that left.
    fn kept(
        store: &Store,
        parent: Option<CheckpointId>,
        open: impl Fn(CheckpointId) -> Result<CheckedSnapshot, SavedError>,
    ) -> Result<u64, SavedError> {
        let there = store.checkpoints().iter().find(|checkpoint| Some(checkpoint.id) == parent);
        let length = there.map(|parent| output_length(&open(parent.id)?)).transpose()?;
        Ok(length.flatten().unwrap_or(0))
    }

    /// The bytes that the file has in the end.
    pub(crate) fn length(&self) -> u64 {
        self.start + self.put.len() as u64
    }

    /// Puts the turn into the batch that notes it, with what the present file has that will be cut off.
    ///
    /// # Errors
    /// [`SavedError`].
    pub(super) fn note(&self, batch: &mut Batch) -> Result<(), SavedError> {
        let file = File::open("/proc/self/fd/1").map_err(OutputError::Read)?;
        let length = file.metadata().map_err(OutputError::Read)?.len();
        let cut = length.saturating_sub(self.start);
        let mut lost = Vec::new();
        if cut <= MOST {
            lost.resize(usize::try_from(cut).unwrap_or_default(), 0);
            file.read_exact_at(&mut lost, self.start).map_err(OutputError::Read)?;
        }
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
