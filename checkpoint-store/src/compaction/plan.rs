//! What to compact next: decisions, without files.

use std::collections::HashMap;
use std::path::Path;

use crate::catalogue::chain;
use crate::format::len64;
use crate::format::manifest::Entry;
use crate::format::segment::SEGMENT_HEADER;
use crate::state::State;
use crate::{Options, StoreError};

/// Checkpoints beyond the number that is kept, before the manifest is replaced for them alone. Readers count
/// themselves and see the right number at any time.
const LAZY: usize = 16;

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    /// What keeps chains and directory within bounds, at the least cost.
    Bounded,
    /// As small as it gets.
    Tight,
}

/// A checkpoint to write anew: its newest `take` layers in one, on what is below them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Merge {
    /// Its chain, itself first.
    pub(crate) chain: Vec<Entry>,
    /// How many of it go into the new one.
    pub(crate) take: usize,
}

/// One step of compaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Checkpoints below are dropped.
    pub(crate) oldest_kept: u64,
    /// These are written into a new segment, and take their old records' places.
    pub(crate) merges: Vec<Merge>,
}

impl Merge {
    /// Bytes that are read for it.
    pub(crate) fn bytes(&self) -> u64 {
        self.chain[..self.take].iter().map(|entry| entry.group.get()).sum()
    }
}

/// The next step, if there is any.
pub(crate) fn next(
    state: &State,
    options: &Options,
    goal: Goal,
    directory: &Path,
) -> Result<Option<Step>, StoreError> {
    let kept = state.oldest_kept();
    let chain_of = |id| chain(&state.entries, directory, id);
    let step = |oldest_kept, merges| Ok(Some(Step { oldest_kept, merges }));
    let Some((newest, _)) = state.entries.last_key_value() else { return Ok(None) };
    let Some((oldest, _)) = state.entries.range(kept..).next() else { return Ok(None) };
    let every = options.base_every.get();

    let oldest_chain = chain_of(*oldest)?;
    let newest_chain = chain_of(*newest)?;
    let depth = newest_chain.len() - 1;
    // What is there only for others to take from.
    let carriers = oldest_chain.len() - 1;
    let (few, deep) = match goal {
        Goal::Bounded => ((every / 2).max(1), every),
        Goal::Tight => (0, every),
    };
    if few < carriers || (deep < depth && every / 4 < carriers) {
        let take = if goal == Goal::Tight { oldest_chain.len() } else { tiers(&oldest_chain, every / 4 + 2) };
        return step(kept, vec![Merge { chain: oldest_chain, take }]);
    }
    if deep < depth {
        let take = tiers(&newest_chain, depth / 2 + 1);
        return step(kept, vec![Merge { chain: newest_chain, take }]);
    }

    let complete = newest_chain.last().map_or(0, |entry| entry.group.get());
    let too_large = options.keep_bytes.is_some_and(|most| bound(most, complete, options) < total(state));
    if let Some(segment) = wasteful(state, if goal == Goal::Tight || too_large { 8 } else { 2 }) {
        let own = state.entries.values().filter(|entry| entry.segment.get() == segment);
        let merges: Result<Vec<Merge>, StoreError> =
            own.map(|entry| Ok(Merge { chain: chain_of(entry.id.get())?, take: 1 })).collect();
        return step(kept, merges?);
    }
    if too_large && oldest < newest {
        // A quarter of them, so that the image is written rarely, and all that they leave goes into the next.
        let ids: Vec<u64> = state.entries.range(kept..).map(|(id, _)| *id).collect();
        let first = ids[(ids.len() / 4).max(1)];
        let chain = chain_of(first)?;
        let take = chain.len();
        let merges = if take == 1 { Vec::new() } else { vec![Merge { chain, take }] };
        return step(first, merges);
    }
    let dropped = state.entries.range(..kept).count();
    let lazy = if goal == Goal::Tight { 0 } else { LAZY };
    // Those that others take from stay, so only what the manifest doesn't know yet is a reason.
    if kept != state.manifest.oldest_kept && lazy < dropped.saturating_sub(carriers) {
        return step(kept, Vec::new());
    }
    Ok(None)
}

/// Bytes of the segments.
fn total(state: &State) -> u64 {
    let finished: u64 = state.manifest.segments.iter().map(|segment| segment.length.get()).sum();
    finished + state.active_end
}

/// Bytes that the segments may have. A complete checkpoint and the segment that is appended to are always there, so
/// less than these would only have them written again and again.
fn bound(most: u64, complete: u64, options: &Options) -> u64 {
    most.max(complete + complete / 4 + options.segment_bytes.get())
}

/// A finished segment of which more than one part in `parts` isn't needed.
fn wasteful(state: &State, parts: u64) -> Option<u64> {
    let mut needed: HashMap<u64, u64> = HashMap::new();
    for entry in state.entries.values() {
        *needed.entry(entry.segment.get()).or_default() += entry.group.get();
    }
    let found = state.manifest.segments.iter().find(|segment| {
        let needed = needed.get(&segment.number.get()).copied().unwrap_or(0) + len64(SEGMENT_HEADER);
        segment.length.get() / parts < segment.length.get().saturating_sub(needed)
    });
    found.map(|segment| segment.number.get())
}

/// How many of the chain's newest to merge: `least`, and on as long as the next one is no larger than those together.
/// So a byte is written again only when what it's merged with has doubled, and what stays behind grows by twice
/// with each layer.
fn tiers(chain: &[Entry], least: usize) -> usize {
    let mut sum = 0;
    for (taken, entry) in chain.iter().enumerate() {
        if least <= taken && sum < entry.group.get() {
            return taken;
        }
        sum += entry.group.get();
    }
    chain.len()
}
