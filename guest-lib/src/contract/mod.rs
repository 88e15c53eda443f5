//! What every engine promises, as a program that checks it: for tests, in a guest or natively.
//!
//! [`run`] puts sessions through a fixed list of cases and then through a random walk beside a plain
//! model (every checkpoint a full copy). It needs no test harness, so it runs wherever programs do.
//!
//! ```
//! use cairn_guest::{EngineKind, Session, contract};
//!
//! let report = contract::run(|| Session::open_with(EngineKind::FullCopy), 1, 200)?;
//! assert_eq!(report.steps, 200);
//! # Ok::<(), contract::ContractError>(())
//! ```

mod arenas;
mod cases;
mod hint_cases;
mod memory_cases;
mod oracle;
mod pages;
mod random;
mod ticket_cases;
mod tree_cases;

use std::fmt;

use crate::error::Error;
use crate::session::Session;

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Cases of the fixed list.
    pub cases: u32,
    /// Steps of the random walk.
    pub steps: u32,
    /// Checkpoints that the walk took.
    pub checkpoints: u32,
    /// Rollbacks that the walk did, each compared with the model in every byte.
    pub rollbacks: u32,
    /// Requests of the walk that had to be refused, and were, for the right reason.
    pub refusals: u32,
}

/// The engine broke its promise.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {finding}")]
pub struct ContractError {
    /// The case, or the step of the random walk and its seed.
    pub place: String,
    /// What was found, and what should have been.
    pub finding: String,
    /// The engine's own error, if it gave one where none was due.
    #[source]
    pub source: Option<Error>,
}

/// Checkpoints that the fixed cases need at once.
pub const MIN_HISTORY: u32 = 5;

/// Checks every case and `steps` random steps on sessions from `open`, which retain [`MIN_HISTORY`]
/// checkpoints at least. At most one session is open at a time. The same seed takes the same steps.
///
/// # Errors
/// The first broken promise.
pub fn run(
    open: impl Fn() -> Result<Session, Error>,
    seed: u64,
    steps: u32,
) -> Result<Report, ContractError> {
    let mut cases = 0;
    let all = cases::ALL.iter().chain(tree_cases::ALL).chain(hint_cases::ALL).chain(memory_cases::ALL);
    for (name, case) in all.chain(ticket_cases::ALL) {
        let at = |finding: Finding| finding.at(format!("case \"{name}\""));
        let mut session = open().map_err(|error| at(error.into()))?;
        let history = session.history();
        let enough =
            ensure(history >= MIN_HISTORY, format_args!("a history of {history} is too short for it"));
        enough.and_then(|()| case(&mut session)).map_err(at)?;
        cases += 1;
    }
    let mut session = open().map_err(|error| Finding::from(error).at(String::from("random walk")))?;
    Ok(Report { cases, ..walk(&mut session, seed, steps)? })
}

/// Takes `steps` random steps with a fresh session of any history, beside the model.
///
/// # Errors
/// The first broken promise.
pub fn walk(session: &mut Session, seed: u64, steps: u32) -> Result<Report, ContractError> {
    let mut report = Report { steps, ..Report::default() };
    oracle::walk(session, seed, steps, &mut report)?;
    Ok(report)
}

/// Takes `steps` random steps with two arenas in a fresh session of any history, beside std's collections.
/// What the report counts as refusals is changes for which an arena was full.
///
/// # Errors
/// The first broken promise.
pub fn walk_arenas(session: &mut Session, seed: u64, steps: u32) -> Result<Report, ContractError> {
    let mut report = Report { steps, ..Report::default() };
    arenas::walk(session, seed, steps, &mut report)?;
    Ok(report)
}

/// A case: takes a fresh session through something.
type Case = (&'static str, fn(&mut Session) -> Result<(), Finding>);

/// A broken promise before it is known where.
#[derive(Debug)]
struct Finding {
    text: String,
    source: Option<Error>,
}

impl Finding {
    fn new(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), source: None }
    }

    fn at(self, place: String) -> ContractError {
        ContractError { place, finding: self.text, source: self.source }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        Self { text: String::from("failed where it must not"), source: Some(error) }
    }
}

/// Fails with `text` unless `holds`.
fn ensure(holds: bool, text: impl fmt::Display) -> Result<(), Finding> {
    if holds { Ok(()) } else { Err(Finding::new(text)) }
}

/// Fails unless `result` is an error of the kind that `expected` accepts.
fn ensure_refused<T: fmt::Debug>(
    result: Result<T, Error>,
    what: &str,
    expected: impl FnOnce(&Error) -> bool,
) -> Result<(), Finding> {
    match result {
        Err(error) if expected(&error) => Ok(()),
        Err(error) => {
            Err(Finding { text: format!("{what}: refused for the wrong reason"), source: Some(error) })
        }
        Ok(value) => Err(Finding::new(format_args!("{what}: not refused but answered {value:?}"))),
    }
}
