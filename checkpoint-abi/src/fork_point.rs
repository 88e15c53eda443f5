//! The file by which a program in an app guest asks for a checkpoint of itself, and learns on which side of it it is.
//!
//! A guest has the file [`PATH`] where checkpoints of the whole program are taken. The program opens it for reading
//! and writing, writes [`REQUEST`] and reads. The read comes back when the store has the checkpoint, or when it is
//! known that there will be none, with one line: an [`Answer`].
//!
//! - One request at a time for each open file, and [`MOST_REQUESTS`] for a guest: further ones are `EBUSY`. A request
//!   ends when the first byte of its answer is read. Any other text than [`REQUEST`] is `EINVAL`.
//! - A read without a request answers no bytes. With `O_NONBLOCK` a read that would wait is `EAGAIN`, and poll tells
//!   when it wouldn't.
//! - A request is part of the program's state. In a program that is brought back from *any* checkpoint that was taken
//!   between the write and the end of the read, be it the one that was asked for or another that fell into that time,
//!   the read answers [`Answer::Resumed`] with that checkpoint.

use core::fmt;

use crate::CheckpointId;

/// Where the file is.
pub const PATH: &str = "/dev/cairn";

/// Asks for a checkpoint.
pub const REQUEST: &[u8] = b"checkpoint\n";

/// Requests of a guest that may wait for their answer, those included whose file was closed meanwhile.
pub const MOST_REQUESTS: usize = 16;

/// Bytes that an answer may have, its end of line included.
pub const MOST_ANSWER: usize = 1024;

/// What a request comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// The checkpoint is in the store.
    Taken(CheckpointId),
    /// The program was brought back from this checkpoint.
    Resumed(CheckpointId),
    /// There is no checkpoint, for this reason.
    Failed(&'a str),
}

impl<'a> Answer<'a> {
    /// Reads a line, with or without its end. None for what is no answer.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let (word, rest) = line.split_once(' ')?;
        // 0 is no id.
        let id = || rest.parse().ok().filter(|id| *id != 0).map(CheckpointId);
        match word {
            "taken" => id().map(Self::Taken),
            "resumed" => id().map(Self::Resumed),
            "failed" => Some(Self::Failed(rest)),
            _ => None,
        }
    }
}

/// The line without its end.
impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(id) => write!(f, "taken {}", id.0),
            Self::Resumed(id) => write!(f, "resumed {}", id.0),
            Self::Failed(reason) => write!(f, "failed {reason}"),
        }
    }
}
