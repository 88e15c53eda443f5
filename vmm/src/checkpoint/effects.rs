//! The effects that are the engine's alone, and what a program is told when one fails.

use cairn_abi::{Hint, RegionMode, RegionName};
use cairn_engine::{Engine, EngineError, LiveMemory, Tracker};

use crate::devices::checkpoint::{Effect, Failure, Outcome};
use crate::memory::layout::to_usize;

/// Does what needs nothing but the engine.
///
/// # Errors
/// The engine's; nothing was done, but for [`EngineError::Absent`].
pub(super) fn act<T: Tracker>(engine: &mut Engine<T>, effect: Effect) -> Result<Outcome, EngineError> {
    Ok(match effect {
        Effect::RemoveRegion(region) => {
            engine.remove_region(region)?;
            Outcome::Done
        }
        Effect::Checkpoint(_) => {
            let id = engine.checkpoint()?;
            warn_unprotected(engine);
            Outcome::Checkpoint(id)
        }
        Effect::Rollback(checkpoint, _) => {
            engine.rollback(checkpoint)?;
            warn_unprotected(engine);
            Outcome::Done
        }
        Effect::Release(checkpoint) => {
            engine.release(checkpoint)?;
            Outcome::Done
        }
        Effect::Hint(Hint { region, word, bits }) => {
            engine.hint(region, to_usize(word.into()), bits)?;
            Outcome::Done
        }
        Effect::SessionFigures => Outcome::Session(engine.figures()),
        Effect::Ticket(checkpoint, wait) => {
            let ticket = engine.ticket(checkpoint, wait)?;
            Outcome::Ticket { id: ticket.id, done: ticket.done }
        }
        Effect::CheckpointFigures(checkpoint) => {
            // It may be about the one that is in the making.
            engine.finish();
            Outcome::CheckpointFigures(engine.checkpoint_figures(checkpoint)?)
        }
        Effect::NextCheckpointFigures(after) => {
            engine.finish();
            Outcome::CheckpointFigures(engine.next_checkpoint_figures(after)?)
        }
        Effect::DropAll
        | Effect::PrepareRegion { .. }
        | Effect::AddRegion { .. }
        | Effect::CheckpointAsync
        | Effect::CheckpointDurable(..)
        | Effect::Durability(..)
        | Effect::StoreFigures
        | Effect::Recover(_)
        | Effect::Stored(..) => {
            tracing::error!(?effect, "an effect that needs more than the engine");
            Outcome::Failed(Failure::Host)
        }
    })
}

/// Makes `memory` a region. What is in it already isn't known.
///
/// # Errors
/// The engine's; there is no region.
pub(super) fn add_region<T: Tracker>(
    engine: &mut Engine<T>,
    name: RegionName,
    memory: LiveMemory,
    mode: RegionMode,
) -> Result<Outcome, EngineError> {
    let id = match mode {
        RegionMode::Tracked => engine.add_region(name, memory)?,
        RegionMode::Hinted => engine.add_hinted_region(name, memory, false)?,
    };
    Ok(Outcome::Region(id))
}

fn warn_unprotected<T: Tracker>(engine: &Engine<T>) {
    if let Some(error) = engine.unprotected() {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, "pages stay writable and will be compared");
    }
}

/// What the program is told of an engine's error. What isn't the program's doing goes to the log too.
pub(super) fn failure(error: &EngineError) -> Failure {
    match error {
        EngineError::NoRegion(_) => Failure::NoRegion,
        EngineError::NoCheckpoint(_) => Failure::NoCheckpoint,
        EngineError::Evicted { .. } => Failure::Evicted,
        EngineError::RegionSet { region, .. } => Failure::RegionSet(*region),
        EngineError::TooManyRegions { .. } | EngineError::TooManyBytes { .. } => Failure::Limit,
        EngineError::NoMemory => {
            tracing::warn!("no memory for checkpoint data; what was committed before stands");
            Failure::NoMemory
        }
        // The session has checked these before.
        EngineError::NameTaken(_)
        | EngineError::Overlap(_)
        | EngineError::EmptyRegion
        | EngineError::Absent
        | EngineError::NoImport
        | EngineError::Track(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "the checkpoint engine failed");
            Failure::Host
        }
    }
}
