//! A region's part of a checkpoint: the mirror becomes equal to live memory.

use std::sync::atomic::{AtomicU64, Ordering};

use cairn_abi::RegionId;

use super::parts::{Cuts, Part};
use super::{PREFETCH_PAGES, Passed, Region};
use crate::access::Access;
use crate::delta::{Delta, Segment};
use crate::mirror::MirrorPart;
use crate::page_set::{Pages, WORD_PAGES};
use crate::pool::Pool;
use crate::{EngineError, LiveMemory};

/// Bytes that a thread takes before it says so: few enough that many threads don't exceed a limit by much.
const RECKONED_BYTES: u64 = 1 << 16;

/// Bytes that a checkpoint may keep of the version before it, whichever thread takes them.
#[derive(Debug)]
pub(crate) struct Ceiling {
    left: AtomicU64,
}

impl Ceiling {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes) }
    }

    /// Takes `bytes` from what is left.
    fn take(&self, bytes: u64) -> Result<(), EngineError> {
        let take = |left: u64| left.checked_sub(bytes);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::NoMemory),
        }
    }
}

/// Words of a region's sets, for one thread.
struct TakePart<'a> {
    access: Access,
    region: RegionId,
    live: &'a LiveMemory,
    mirror: MirrorPart<'a>,
    /// Whether a version needs the mirror's former bytes.
    keeps: bool,
    ceiling: &'a Ceiling,
    first_word: usize,
    written: &'a [u64],
    changed: &'a mut [u64],
    missing: &'a mut [u64],
    any_missing: bool,
    /// One for each part that this one may be cut into.
    segments: &'a mut [Segment],
    result: Result<Passed, EngineError>,
}

impl Region {
    /// Makes the mirror equal to live memory in what was written and isn't absent; the mirror's former bytes go
    /// to `old`, as far as `ceiling` allows. Scattered memory is compared as far as `budget`, in pages, goes. On failure `old` holds what was done so far.
    pub(crate) fn take(
        &mut self,
        access: Access,
        pool: Option<&Pool>,
        old: &mut Delta,
        ceiling: &Ceiling,
        budget: &mut u64,
    ) -> Result<Passed, EngineError> {
        if !self.any_written {
            return Ok(Passed::default());
        }
        if !self.tries.done.any() {
            self.changed.clear();
        }
        if self.is_scattered() {
            self.tries.missing.take_beyond(budget, &mut self.written);
        }
        let Self { id, live, mirror, in_root, written, changed, tries, .. } = self;
        let cuts = Cuts::new(pool, written.words());
        let whole = TakePart {
            access,
            region: *id,
            live,
            mirror: mirror.whole(),
            keeps: *in_root,
            ceiling,
            first_word: 0,
            written: written.words(),
            changed: changed.words_mut(),
            missing: tries.missing.words_mut(),
            any_missing: false,
            segments: old.open(cuts.parts())?,
            result: Ok(Passed::default()),
        };
        let (mut all, mut any_missing) = (Ok(Passed::default()), false);
        cuts.work(pool, whole, |part| {
            any_missing |= part.any_missing;
            match (&mut all, part.result) {
                (Ok(all), Ok(passed)) => *all += passed,
                (Ok(_), Err(error)) => all = Err(error),
                (Err(_), _) => {}
            }
        });
        self.tries.missing.may_have(any_missing);
        all
    }

    /// Ends a try of a checkpoint that needs another.
    pub(crate) fn keep_taken(&mut self) {
        self.tries.keep_done(&self.written);
    }
}

impl Part for TakePart<'_> {
    fn split_at(self, word: usize) -> (Self, Self) {
        let at = word - self.first_word;
        let (written, changed) = (self.written.split_at(at), self.changed.split_at_mut(at));
        let (missing, segments) = (self.missing.split_at_mut(at), self.segments.split_at_mut(1));
        let mirror = self.mirror.split_at(word);
        let part = |first_word, mirror, written, changed, missing, segments| Self {
            first_word,
            mirror,
            written,
            changed,
            missing,
            segments,
            result: Ok(Passed::default()),
            ..self
        };
        (
            part(self.first_word, mirror.0, written.0, changed.0, missing.0, segments.0),
            part(word, mirror.1, written.1, changed.1, missing.1, segments.1),
        )
    }

    fn work(&mut self) {
        self.result = self.take();
    }
}

impl TakePart<'_> {
    fn take(&mut self) -> Result<Passed, EngineError> {
        let Some(old) = self.segments.first_mut() else { return Ok(Passed::default()) };
        let mut passed = Passed::default();
        let mut reckoned = old.bytes();
        let pages = Pages::new(self.written, self.first_word * WORD_PAGES);
        let mut ahead = pages.clone().skip(PREFETCH_PAGES);
        for page in pages {
            old.reserve_page()?;
            let taken =
                self.access.take(self.live, &mut self.mirror, page, ahead.next(), old.chunks_mut())?;
            let (word, bit) = (page / WORD_PAGES - self.first_word, 1 << (page % WORD_PAGES));
            let Some(taken) = taken else {
                self.missing[word] |= bit;
                self.any_missing = true;
                continue;
            };
            passed.compared += 1;
            if taken.mask == 0 {
                continue;
            }
            passed.changed += 1;
            self.changed[word] |= bit;
            if !self.keeps {
                old.drop_page(taken);
                continue;
            }
            old.commit_page(self.region, page, taken);
            if RECKONED_BYTES <= old.bytes() - reckoned {
                self.ceiling.take(old.bytes() - reckoned)?;
                reckoned = old.bytes();
            }
        }
        self.ceiling.take(old.bytes() - reckoned)?;
        Ok(passed)
    }
}
