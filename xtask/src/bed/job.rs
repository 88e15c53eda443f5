//! What the bed is to run, as the host writes it into the image and init reads it there.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Result, bail};

/// A program and how it is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) terminal: Terminal,
    /// The program and its arguments.
    pub(crate) words: Vec<OsString>,
}

/// What stands between the job and the serial port that it talks over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// Nothing: bytes go through as they are.
    Raw,
    /// A terminal as a person expects it, with echo, editing and Ctrl-C.
    Interactive,
}

impl Job {
    /// The words, each ended by a NUL, after a word for the terminal.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let terminal: &[u8] = match self.terminal {
            Terminal::Raw => b"raw",
            Terminal::Interactive => b"interactive",
        };
        let words = std::iter::once(terminal).chain(self.words.iter().map(|word| word.as_bytes()));
        words.flat_map(|word| word.iter().copied().chain([0])).collect()
    }

    /// # Errors
    /// It isn't what `encode` makes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.strip_suffix(&[0]).context("the job is cut off")?;
        let mut words = bytes.split(|byte| *byte == 0);
        let terminal = match words.next() {
            Some(b"raw") => Terminal::Raw,
            Some(b"interactive") => Terminal::Interactive,
            other => bail!("no such terminal: {other:?}"),
        };
        Ok(Self { terminal, words: words.map(|word| OsString::from_vec(word.to_vec())).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_the_journey() {
        for terminal in [Terminal::Raw, Terminal::Interactive] {
            let job = Job { terminal, words: ["echo", "", "two words\n"].map(OsString::from).into() };
            assert_eq!(Job::decode(&job.encode()).unwrap(), job);
        }
        assert!(Job::decode(b"").is_err());
        assert!(Job::decode(b"raw\0cut").is_err());
        assert!(Job::decode(b"cooked\0a\0").is_err());
    }
}
