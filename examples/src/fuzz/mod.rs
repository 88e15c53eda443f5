//! A small parser under a mutation loop: each input meets the same prepared state, as if the program had just loaded
//! it.
//!
//! What the parser is given, a table with many entries in tens of mebibytes, takes longer to prepare than thousands of
//! inputs take to parse. So it is prepared once, and put back after each input: by a rollback ([`Prepared`]), or by a
//! child process that parses on its copy and ends ([`forked`]). The loop is the same for both, and with the same seed
//! the inputs are, too, as long as the parser judges alike: what it says of an input decides what is tried next.

pub mod forked;
mod input;
mod mutator;
pub mod parser;

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use cairn_guest::{CheckpointId, Error, Region, Session, SessionFigures};

pub use input::first_input;
pub use mutator::Mutator;

/// 8-byte words in a page.
pub const PAGE_WORDS: usize = 4096 / size_of::<u64>();
/// 8-byte words in a mebibyte.
pub const MIB_WORDS: usize = (1 << 20) / size_of::<u64>();

/// What came of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was parsed to its end.
    Read {
        /// How deep its lists are nested.
        depth: u8,
        /// Lines that are malformed, [`Verdict::MAX_ERRORS`] meaning that or more.
        errors: u8,
    },
    /// The parser panicked.
    Crash,
}

impl Verdict {
    /// The largest number of errors that verdicts tell apart.
    pub const MAX_ERRORS: u8 = 15;
    /// The code of [`Verdict::Crash`]: no list is nested 15 deep.
    const CRASH: u8 = 0xff;

    /// The verdict in a byte, which is what a process can end with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Read { depth, errors } => depth << 4 | errors.min(Self::MAX_ERRORS),
            Self::Crash => Self::CRASH,
        }
    }

    /// The verdict of a code.
    #[must_use]
    pub fn of_code(code: u8) -> Self {
        match code {
            Self::CRASH => Self::Crash,
            _ => Self::Read { depth: code >> 4, errors: code & Self::MAX_ERRORS },
        }
    }
}

/// Parses `input` on `state`, which is as good as lost afterwards.
pub fn judge(state: &mut [u64], input: &[u8]) -> Verdict {
    hide_crashes();
    JUDGING.set(true);
    // What a panic leaves half done is in `state`, which is put back whatever the verdict is.
    let verdict = panic::catch_unwind(AssertUnwindSafe(|| parser::parse(state, input)));
    JUDGING.set(false);
    verdict.unwrap_or(Verdict::Crash)
}

thread_local! {
    /// Whether a panic of this thread is a verdict.
    static JUDGING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the parser's panics, which are what is looked for, off standard error; others are told as before.
fn hide_crashes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !JUDGING.get() {
                usual(panic);
            }
        }));
    });
}

/// A number that differs if a word of `state` does.
#[must_use]
pub fn digest(state: &[u64]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    // Eight sums at once, because one multiplication waits for the one before.
    let mut sums = [0xcbf2_9ce4_8422_2325_u64; 8];
    let (groups, rest) = state.as_chunks::<8>();
    for group in groups {
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum = (*sum ^ word).wrapping_mul(PRIME);
        }
    }
    sums.iter().chain(rest).fold(0, |digest, word| (digest ^ word).wrapping_mul(PRIME).rotate_left(23))
}

/// A state that is loaded into a session, and has no checkpoint yet.
#[derive(Debug)]
pub struct Loaded {
    session: Session,
    state: Region<u64>,
}

impl Loaded {
    /// Loads a state of `words` words into a region.
    ///
    /// # Errors
    /// The session's.
    pub fn new(mut session: Session, words: usize) -> Result<Self, Error> {
        let state = session.region("parser", words)?;
        parser::prepare(session.slice_mut(&state));
        Ok(Self { session, state })
    }

    /// Takes the checkpoint to go back to.
    ///
    /// # Errors
    /// The session's.
    pub fn checkpoint(mut self) -> Result<Prepared, Error> {
        let checkpoint = self.session.checkpoint()?;
        Ok(Prepared { session: self.session, state: self.state, checkpoint })
    }
}

/// A prepared state in a session, and the checkpoint to go back to.
#[derive(Debug)]
pub struct Prepared {
    session: Session,
    state: Region<u64>,
    checkpoint: CheckpointId,
}

impl Prepared {
    /// Parses an input, which leaves its marks in the state.
    pub fn judge(&mut self, input: &[u8]) -> Verdict {
        judge(self.session.slice_mut(&self.state), input)
    }

    /// Puts the prepared state back.
    ///
    /// # Errors
    /// The session's.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.session.rollback(self.checkpoint)
    }

    /// The state as it is.
    #[must_use]
    pub fn state(&self) -> &[u64] {
        self.session.slice(&self.state)
    }

    /// What the session's engine did and keeps.
    ///
    /// # Errors
    /// The session's.
    pub fn figures(&mut self) -> Result<SessionFigures, Error> {
        self.session.figures()
    }
}

#[cfg(test)]
mod tests {
    use cairn_guest::{EngineKind, Options};

    use super::*;

    #[test]
    fn a_verdict_fits_into_a_byte() {
        for verdict in [
            Verdict::Crash,
            Verdict::Read { depth: 0, errors: 0 },
            Verdict::Read { depth: 8, errors: 15 },
            Verdict::Read { depth: 3, errors: 7 },
        ] {
            assert_eq!(Verdict::of_code(verdict.code()), verdict);
        }
        assert_eq!(
            Verdict::Read { depth: 1, errors: 39 }.code(),
            Verdict::Read { depth: 1, errors: 15 }.code()
        );
    }

    #[test]
    fn a_digest_sees_every_word() {
        let mut words = vec![7_u64; 21];
        let plain = digest(&words);
        for at in 0..words.len() {
            words[at] ^= 1 << 63;
            assert_ne!(digest(&words), plain, "{at}");
            words[at] ^= 1 << 63;
        }
        assert_eq!(digest(&words), plain);
    }

    #[test]
    fn all_ways_judge_alike_and_leave_the_prepared_state() {
        let session = Options::new().engine(EngineKind::FullCopy).history(1).open().unwrap();
        let mut prepared = Loaded::new(session, MIB_WORDS).unwrap().checkpoint().unwrap();
        let mut plain = vec![0; MIB_WORDS];
        parser::prepare(&mut plain);
        let before = digest(&plain);
        let mut mutator = Mutator::new(3);
        for _ in 0..300 {
            let input = mutator.next_input();
            let verdict = prepared.judge(input);
            assert_eq!(forked::Child::judging(&mut plain, input).unwrap().verdict().unwrap(), verdict);
            assert_eq!(judge(&mut plain, input), verdict);
            prepared.reset().unwrap();
            parser::undo(&mut plain);
            assert_eq!((digest(&plain), digest(prepared.state())), (before, before));
            mutator.learn(verdict);
        }
    }
}
