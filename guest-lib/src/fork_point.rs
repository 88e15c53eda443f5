//! Checkpoints of the whole program that the program asks for itself.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use cairn_abi::CheckpointId;
use cairn_abi::fork_point::{Answer, MOST_ANSWER, PATH, REQUEST};

use crate::Error;

/// On which side of a checkpoint of the whole program it goes on: what [`fork_point`] answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum ForkPoint {
    /// The checkpoint was taken and is in the store, and this is the program that asked for it.
    Taken(CheckpointId),
    /// The program was brought back, by `cairn restore` or `cairn rollback`.
    Resumed {
        /// The checkpoint that it was brought back from.
        from: CheckpointId,
    },
}

/// Takes a checkpoint of the whole program: its memory, its registers and its files, as `cairn run --every` does by
/// time. It returns each time that the program goes on from here: once when the checkpoint is in the store, and again
/// in every process that is started from it. As `fork` does, it tells which of these it is.
///
/// That makes a costly start a matter of milliseconds: the program gets ready once, and asks for its input after the
/// fork point.
///
/// ```no_run
/// use cairn_guest::{ForkPoint, fork_point};
///
/// # fn get_ready() -> Vec<u8> { Vec::new() }
/// # fn serve(_: &[u8], _: &str) {}
/// let table = get_ready();
/// match fork_point()? {
///     ForkPoint::Taken(id) => println!("ready as checkpoint {id:?}"),
///     ForkPoint::Resumed { .. } => {
///         // Standard input is that of `cairn restore`.
///         serve(&table, &std::io::read_to_string(std::io::stdin())?);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It works under `cairn run --store DIR --every TIME`, where TIME is `never` if no other checkpoints are wanted:
///
/// ```text
/// cairn run --store ck --every never -- program
/// echo one | cairn restore --no-checkpoints ck
/// echo two | cairn restore --no-checkpoints ck
/// ```
///
/// - A checkpoint that is taken by time or by `cairn checkpoint` while this function waits is as good: a program that
///   is brought back from it gets [`ForkPoint::Resumed`] with that one's id.
/// - Everything goes on as it was, also what should not be the same twice: the state of a random number generator, a
///   name for a temporary file. Draw such things after the fork point. Output that waits in a buffer of the program is
///   written by each process that goes on: flush it before.
/// - It survives what the store's checkpoints survive: the end of the program, or with `--durable` of the machine.
///
/// # Errors
/// [`Error::NoWholeCheckpoints`] where nobody takes checkpoints of the whole program, and [`Error::NotTaken`] when this
/// one couldn't be taken or written: those that were taken before stand, and the program may try again.
/// [`Error::System`] when too many requests wait.
pub fn fork_point() -> Result<ForkPoint, Error> {
    let file = OpenOptions::new().read(true).write(true).open(PATH);
    ask(file.map_err(|source| Error::NoWholeCheckpoints { source })?)
}

fn ask(mut file: File) -> Result<ForkPoint, Error> {
    file.write_all(REQUEST).map_err(Error::system("asking for a checkpoint of the whole program"))?;
    // Until the answer's end: nothing follows it before the next request.
    let mut line = Vec::new();
    while line.len() < MOST_ANSWER && line.last() != Some(&b'\n') {
        let mut bytes = [0; MOST_ANSWER];
        let count = file.read(&mut bytes).map_err(Error::system("waiting for a checkpoint"))?;
        if count == 0 {
            break;
        }
        line.extend_from_slice(&bytes[..count]);
    }
    match std::str::from_utf8(&line).ok().and_then(Answer::parse) {
        Some(Answer::Taken(id)) => Ok(ForkPoint::Taken(id)),
        Some(Answer::Resumed(from)) => Ok(ForkPoint::Resumed { from }),
        Some(Answer::Failed(reason)) => Err(Error::NotTaken { reason: reason.to_owned() }),
        None => Err(Error::NotTaken {
            reason: format!(
                "{PATH} answers {:?}, which is none of Cairn's answers",
                String::from_utf8_lossy(&line)
            ),
        }),
    }
}
