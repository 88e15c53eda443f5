//! A random walk over one large region, beside a model that copies everything.
//!
//! The contract's own walk has small regions that only it knows; this one's can be shown to the kernel.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use cairn_guest::{CheckpointId, Region, Session};
use cairn_tests::pages::PAGE;
use cairn_tests::random::Random;

use super::frames::{Frames, Moves};

/// Checkpoints that the model keeps.
const KEPT: usize = 4;

/// The walk.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) session: Session,
    region: Region<u8>,
    model: Vec<u8>,
    kept: Vec<(CheckpointId, Vec<u8>)>,
    random: Random,
    frames: Frames,
    pub(crate) counts: Counts,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) checkpoints: u64,
    pub(crate) rollbacks: u64,
    /// What the kernel did meanwhile.
    pub(crate) moves: Moves,
}

impl Walk {
    /// Begins, with a region of so many pages, all written.
    pub(crate) fn start(session: Session, pages: usize, seed: u64) -> Result<Self> {
        let mut session = session;
        let region = session.region::<u8>("walk", pages * PAGE)?;
        let mut model = vec![0; pages * PAGE];
        for (page, bytes) in model.chunks_mut(PAGE).enumerate() {
            bytes.fill(content(page as u64));
        }
        session.slice_mut(&region).copy_from_slice(&model);
        let slice = session.slice_mut(&region);
        let frames = Frames::of(slice.as_mut_ptr().expose_provenance(), slice.len())?;
        let (kept, counts) = (Vec::new(), Counts::default());
        Ok(Self { session, region, model, kept, random: Random(seed), frames, counts })
    }

    /// Where the region is.
    pub(crate) fn span(&mut self) -> (usize, usize) {
        let slice = self.session.slice_mut(&self.region);
        (slice.as_mut_ptr().expose_provenance(), slice.len())
    }

    /// Pages of the region.
    pub(crate) fn pages(&self) -> usize {
        self.model.len() / PAGE
    }

    /// A few writes, and then a checkpoint or a rollback, compared in every byte.
    pub(crate) fn step(&mut self) -> Result<()> {
        for _ in 0..self.random.below(6) {
            self.write();
        }
        if self.kept.is_empty() || self.random.below(3) < 2 {
            self.checkpoint()?;
        } else {
            let index = self.below(self.kept.len());
            self.rollback(index)?;
        }
        self.counts.steps += 1;
        self.counts.moves += self.frames.look()?;
        Ok(())
    }

    /// Rolls back to everything that is kept.
    pub(crate) fn finish(&mut self) -> Result<()> {
        (0..self.kept.len()).try_for_each(|index| self.rollback(index))
    }

    /// The bytes of some pages, to do something to them; the model is told what they hold then.
    pub(crate) fn change(
        &mut self,
        pages: Range<usize>,
        change: impl FnOnce(&mut [u8]) -> std::io::Result<()>,
        after: Option<u8>,
    ) -> Result<()> {
        let bytes = pages.start * PAGE..pages.end * PAGE;
        change(&mut self.session.slice_mut(&self.region)[bytes.clone()])
            .with_context(|| format!("asking the kernel something about pages {pages:?}"))?;
        if let Some(byte) = after {
            self.model[bytes].fill(byte);
        }
        Ok(())
    }

    /// A few pages in a row.
    pub(crate) fn some_pages(&mut self, most: usize) -> Range<usize> {
        let first = self.below(self.pages());
        let count = 1 + self.below(most);
        first..(first + count).min(self.pages())
    }

    fn write(&mut self) {
        let page = self.below(self.pages());
        let (start, len, byte) = match self.random.below(5) {
            // Hot.
            0 => (page % 3 * PAGE, 8, content(self.counts.steps)),
            1 => (page * PAGE + self.below(PAGE), 1, content(self.counts.steps)),
            // Over the boundaries of pages, and now and then of huge ones.
            2 => (page * PAGE + self.below(PAGE), self.below(3 * PAGE), content(self.counts.steps)),
            // Alike, for a kernel that merges what is alike.
            3 => (page * PAGE, PAGE, 1),
            _ => (page * PAGE, PAGE, 0),
        };
        let range = start..(start + len).min(self.model.len());
        self.model[range.clone()].fill(byte);
        self.session.slice_mut(&self.region)[range].fill(byte);
    }

    fn checkpoint(&mut self) -> Result<()> {
        let id = self.session.checkpoint().context("a checkpoint")?;
        if self.kept.len() == KEPT {
            let (oldest, _) = self.kept.remove(0);
            self.session.release(oldest).context("a release")?;
        }
        self.kept.push((id, self.model.clone()));
        self.counts.checkpoints += 1;
        self.compare("after a checkpoint")
    }

    fn rollback(&mut self, index: usize) -> Result<()> {
        let (id, content) = &self.kept[index];
        self.session.rollback(*id).context("a rollback")?;
        self.model.copy_from_slice(content);
        self.counts.rollbacks += 1;
        self.compare("after a rollback")
    }

    fn compare(&self, when: &str) -> Result<()> {
        let found = self.session.slice(&self.region);
        if found == self.model {
            return Ok(());
        }
        let place = (0..found.len()).find(|place| found[*place] != self.model[*place]).unwrap_or_default();
        let (is, should) = (found[place], self.model[place]);
        ensure!(
            is == should,
            "{when}, in step {}, byte {place} is {is:#x} instead of {should:#x}",
            self.counts.steps
        );
        Ok(())
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.below(end as u64)).unwrap_or_default()
    }
}

/// A byte that isn't 0.
fn content(number: u64) -> u8 {
    1 | u8::try_from(number % 128 * 2).unwrap_or_default()
}
