//! Keepers, as those see them who need no more than their engine.

use cairn_engine::{Engine, Tracker};

/// Somebody who does effects with an engine.
pub trait Keeping {
    /// What the engine knows of writes by.
    type Tracker: Tracker;

    /// The engine of the session.
    fn engine_mut(&mut self) -> &mut Engine<Self::Tracker>;
}
