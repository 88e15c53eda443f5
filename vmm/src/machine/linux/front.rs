//! What can be asked of a Linux guest on its socket.

use std::sync::Arc;

use cairn_abi::CheckpointId;

use crate::machine::control::Guest;
use crate::machine::linux::functions::Sessions;
use crate::machine::linux::world::World;
use crate::machine::status::About;
use crate::store::Sink;

/// Why there is no checkpoint of the whole.
const NOT_WHOLE: &str = "a Linux guest has no checkpoints of the whole, only its programs' sessions have: run the \
                         program alone, with cairn run --store DIR --every TIME";

/// Answers for a guest.
pub(super) struct Front {
    pub(super) about: About,
    pub(super) sessions: Sessions,
    pub(super) world: Arc<World>,
    pub(super) store: Option<Arc<Sink>>,
}

impl Guest for Front {
    fn status(&self) -> String {
        let figures = self.sessions.iter().enumerate();
        let figures = figures.filter_map(|(at, one)| Some((at, one.figures(self.world.pauses())?)));
        self.about.status([], figures, self.store.as_ref().map(|store| store.figures()))
    }

    fn checkpoint(&self) -> Result<CheckpointId, String> {
        Err(NOT_WHOLE.to_owned())
    }

    fn rollback(&self, _: CheckpointId) -> Result<String, String> {
        Err(NOT_WHOLE.to_owned())
    }
}
