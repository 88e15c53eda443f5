//! What can be asked of a running guest, and how it answers: one line each, which both ends take for a claim.

use std::fmt;

use cairn_abi::CheckpointId;

/// Bytes of a request at most, its end of line included: three times the longest that means anything.
pub(super) const MAX_REQUEST: usize = 96;
/// What an answer to a request begins with that was done, and to one that wasn't.
const DONE: &str = "done";
const ERROR: &str = "error";

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// To tell its [`status`](crate::machine::status).
    Status,
    /// To take a checkpoint of the whole program.
    Checkpoint,
    /// To go back to one.
    Rollback(CheckpointId),
}

/// Why a line is no request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the request {0:?} is none of: status, checkpoint, rollback ID")]
pub struct BadRequest(String);

impl Request {
    /// The request in a line, without its end.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn parse(line: &[u8]) -> Result<Self, BadRequest> {
        let bad = || BadRequest(String::from_utf8_lossy(&line[..line.len().min(MAX_REQUEST)]).into_owned());
        let text = std::str::from_utf8(line).map_err(|_| bad())?;
        match text.split_once(' ') {
            None if text == "status" => Ok(Self::Status),
            None if text == "checkpoint" => Ok(Self::Checkpoint),
            Some(("rollback", id)) if id.bytes().all(|byte| byte.is_ascii_digit()) => {
                id.parse().map(|id| Self::Rollback(CheckpointId(id))).map_err(|_| bad())
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => write!(f, "status"),
            Self::Checkpoint => write!(f, "checkpoint"),
            Self::Rollback(id) => write!(f, "rollback {}", id.0),
        }
    }
}

/// The answer to a request that was done, or not.
#[must_use]
pub(super) fn answer(result: Result<String, String>) -> String {
    let (word, text) = match result {
        Ok(text) => (DONE, text),
        Err(text) => (ERROR, text),
    };
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{word} {printable}\n")
}

/// What an answer says: what was done, or why not.
///
/// # Errors
/// The guest's, for a person.
pub fn read_answer(answer: &str) -> Result<&str, &str> {
    let line = answer.lines().next().unwrap_or_default();
    match line.split_once(' ') {
        Some((DONE, text)) => Ok(text),
        Some((ERROR, text)) => Err(text),
        _ => Err("the guest ended before it answered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines() {
        let largest = Request::Rollback(CheckpointId(u64::MAX));
        for request in [Request::Status, Request::Checkpoint, largest, Request::Rollback(CheckpointId(0))] {
            let line = request.to_string();
            assert_eq!(Request::parse(line.as_bytes()), Ok(request));
            assert!(line.len() < MAX_REQUEST);
        }
        let long = [b'1'; 300];
        for bad in [
            &b""[..],
            b"Status",
            b"status ",
            b"rollback",
            b"rollback ",
            b"rollback -1",
            b"rollback +1",
            b"rollback 1 2",
            b"rollback 18446744073709551616",
            b"checkpoint 1",
            b"\xff\xfe",
            b"\0",
            &long,
        ] {
            assert!(Request::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn answers_are_one_line() {
        assert_eq!(read_answer(&answer(Ok("7".to_owned()))), Ok("7"));
        assert_eq!(read_answer(&answer(Err("no\nsuch".to_owned()))), Err("no such"));
        for none in ["", "done", "what 7"] {
            assert!(read_answer(none).is_err());
        }
    }
}
