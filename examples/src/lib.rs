//! What the examples share: opening a session, keeping one checkpoint, reporting a failure, hashing; and the loop of
//! `reset_fuzz` ([`fuzz`]), which the benchmark times, too.

pub mod fuzz;

use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_guest::{CheckpointId, Error, Session};

/// Opens the best session there is and says on standard error which engine it runs on.
///
/// # Errors
/// No engine works here, or the one that `CAIRN_ENGINE` names doesn't.
pub fn open_session() -> Result<Session> {
    let session = Session::open().context("no checkpoints can be kept here")?;
    eprintln!("checkpoints are kept by: {}", session.engine());
    Ok(session)
}

/// Takes a checkpoint and gives up the one before it, for programs that only ever go back to the newest.
///
/// # Errors
/// The checkpoint can't be taken; the one before stands then.
pub fn replace_checkpoint(session: &mut Session, before: CheckpointId) -> Result<CheckpointId, Error> {
    let newest = session.checkpoint()?;
    match session.release(before) {
        // With a history of one, the new checkpoint itself took the old one's place.
        Ok(()) | Err(Error::Evicted { .. }) => Ok(newest),
        Err(error) => Err(error),
    }
}

/// The exit code of a program whose work ended so; a failure is told on standard error with its causes.
#[must_use]
pub fn exit_code(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// FNV-1a of `bytes`, 64 bits: spreads short keys well and needs no table.
#[must_use]
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> usize {
    const OFFSET_BASIS: usize = 0xcbf2_9ce4_8422_2325;
    const PRIME: usize = 0x0000_0100_0000_01b3;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ usize::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use cairn_guest::{EngineKind, Options};

    use super::*;

    #[test]
    fn one_checkpoint_at_a_time_needs_a_history_of_one_only() {
        let mut session = Options::new().engine(EngineKind::FullCopy).history(1).open().unwrap();
        let cell = session.region::<u64>("cell", 1).unwrap();
        let mut newest = session.checkpoint().unwrap();
        for value in 1..=3 {
            session.slice_mut(&cell)[0] = value;
            newest = replace_checkpoint(&mut session, newest).unwrap();
        }
        session.slice_mut(&cell)[0] = 9;
        session.rollback(newest).unwrap();
        assert_eq!(session.slice(&cell)[0], 3);
    }

    #[test]
    fn hash_is_fnv_1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(hash(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
