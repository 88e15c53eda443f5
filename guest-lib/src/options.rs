//! How a session is opened.

use std::env;

use cairn_abi::Level;

use crate::engines;
use crate::error::Error;
use crate::kind::{ENGINE_VARIABLE, EngineKind, UnknownEngine};
use crate::session::Session;

/// Checkpoints that are retained unless the program asks for another number.
pub const DEFAULT_HISTORY: u32 = 8;
/// The most checkpoints that can be retained: bounds the processes of the `fork` engine and the
/// buffers of the others.
pub const MAX_HISTORY: u32 = 1024;

/// Choices for a new session.
///
/// ```
/// use cairn_guest::{EngineKind, Options};
///
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let session = Options::new().engine(EngineKind::FullCopy).history(2).open()?;
/// assert_eq!(session.engine(), EngineKind::FullCopy);
/// assert_eq!(session.history(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "call open() for a session"]
pub struct Options {
    engine: Option<EngineKind>,
    history: Option<u32>,
    durable: Option<Level>,
}

impl Options {
    /// What [`Session::open`] uses: the environment's engine or else the best, and a history of
    /// [`DEFAULT_HISTORY`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this engine, whatever the environment says.
    pub fn engine(mut self, kind: EngineKind) -> Self {
        self.engine = Some(kind);
        self
    }

    /// Retains the newest `checkpoints` (1 to [`MAX_HISTORY`]); older ones are evicted. The engine
    /// `cairn` takes its history from the hypervisor (`cairn run --history`), and this call has no
    /// effect on it: [`Session::history`] says what holds.
    pub fn history(mut self, checkpoints: u32) -> Self {
        self.history = Some(checkpoints);
        self
    }

    /// What a checkpoint has reached when [`Session::checkpoint_durable`] returns; [`Level::Synced`] by default.
    pub fn durable_level(mut self, level: Level) -> Self {
        self.durable = Some(level);
        self
    }

    /// Opens the session.
    ///
    /// # Errors
    /// - [`Error::UnknownEngine`]: [`ENGINE_VARIABLE`] was consulted and names none.
    /// - [`Error::Unavailable`]: the engine asked for doesn't work here, or there is a checkpoint
    ///   device and it can't be used.
    /// - [`Error::History`]: the history is out of range.
    pub fn open(self) -> Result<Session, Error> {
        let history = self.history.unwrap_or(DEFAULT_HISTORY);
        if !(1..=MAX_HISTORY).contains(&history) {
            return Err(Error::History { asked: history, limit: MAX_HISTORY });
        }
        let kind = match self.engine {
            Some(kind) => Some(kind),
            None => from_environment()?,
        };
        let (kind, engine) = match kind {
            Some(kind) => (kind, engines::open(kind, history)?),
            None => engines::open_best(history)?,
        };
        Session::new(kind, engine, self.durable.unwrap_or(Level::Synced))
    }
}

/// The engine that the environment names, if it names one.
fn from_environment() -> Result<Option<EngineKind>, Error> {
    let Some(value) = env::var_os(ENGINE_VARIABLE) else { return Ok(None) };
    parse_choice(&value.to_string_lossy())
}

/// Empty means no choice, as for an unset variable.
fn parse_choice(value: &str) -> Result<Option<EngineKind>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error: UnknownEngine| Error::UnknownEngine(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_may_name_an_engine_or_nothing() {
        assert!(matches!(parse_choice(""), Ok(None)));
        assert!(matches!(parse_choice("uffd-wp"), Ok(Some(EngineKind::UffdWp))));
        let message = parse_choice("userfault").unwrap_err().to_string();
        assert!(message.contains("CAIRN_ENGINE") && message.contains("uffd-wp"), "{message}");
    }

    #[test]
    fn a_history_has_limits() {
        let open = |history| Options::new().engine(EngineKind::FullCopy).history(history).open();
        assert!(open(1).is_ok() && open(MAX_HISTORY).is_ok());
        for history in [0, MAX_HISTORY + 1] {
            assert!(matches!(open(history), Err(Error::History { .. })));
        }
    }
}
