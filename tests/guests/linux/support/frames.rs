//! Which page frames are behind a span of memory, to see the kernel move them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use cairn_tests::pages::PAGE;

/// /proc/self/pagemap: the page is in memory; the frame's number, which only root is told.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// A span of memory under observation.
#[derive(Debug)]
pub(crate) struct Frames {
    pagemap: File,
    first_page: u64,
    last: Vec<u64>,
}

/// What happened to pages since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moves {
    /// Are in another frame.
    pub(crate) moved: u64,
    /// Were in memory and aren't.
    pub(crate) gone: u64,
}

impl Frames {
    pub(crate) fn of(address: usize, len: usize) -> Result<Self> {
        let pagemap = File::open("/proc/self/pagemap").context("opening /proc/self/pagemap")?;
        let mut frames =
            Self { pagemap, first_page: (address / PAGE) as u64, last: vec![0; len.div_ceil(PAGE)] };
        frames.look()?;
        Ok(frames)
    }

    /// Looks again.
    pub(crate) fn look(&mut self) -> Result<Moves> {
        let mut bytes = vec![0; self.last.len() * 8];
        self.pagemap.read_exact_at(&mut bytes, self.first_page * 8).context("reading /proc/self/pagemap")?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut moves = Moves::default();
        for (last, word) in self.last.iter_mut().zip(words) {
            let now = u64::from_le_bytes(*word);
            match (*last & PRESENT != 0, now & PRESENT != 0) {
                (true, true) => moves.moved += u64::from(*last & FRAME != now & FRAME),
                (true, false) => moves.gone += 1,
                (false, _) => {}
            }
            *last = now;
        }
        Ok(moves)
    }
}

impl std::ops::AddAssign for Moves {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.gone += other.gone;
    }
}
