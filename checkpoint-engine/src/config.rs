//! What an engine is asked to keep, and its limits.

use std::num::NonZeroUsize;

use crate::HostCosts;

/// Regions that a session may have at once. Bounds the tables that one program can ask for.
pub const MAX_REGIONS: usize = 64;

/// Bytes that all regions may have together unless [`Config`] says otherwise: 64 GiB. Bounds what a mirror can grow to.
pub const MAX_REGION_BYTES: u64 = 64 << 30;

/// Checkpoints that are retained unless [`Config`] says otherwise.
const DEFAULT_HISTORY: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// Which pages are write-protected after a checkpoint.
///
/// Whatever the rule decides, the results are the same bytes: it only trades faults for compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Every page that was written.
    Always,
    /// Those whose next write costs less as a fault than as a compare at every checkpoint until then, by what pages
    /// like them did in the last epochs and by the [`HostCosts`].
    Model,
    /// The opposite of the model.
    #[cfg(test)]
    Wrong,
    /// Decides by a pseudorandom sequence: shows that no result depends on the rule.
    #[cfg(test)]
    Random,
}

/// What an engine keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Checkpoints that are retained at most; one more evicts the oldest.
    pub history: NonZeroUsize,
    /// Which pages are protected.
    pub rule: Rule,
    /// What the rule weighs.
    pub costs: HostCosts,
    /// Regions at once.
    pub max_regions: usize,
    /// Bytes of all regions together.
    pub max_region_bytes: u64,
    /// Bytes of all retained checkpoints' deltas together. One that would be beyond evicts the oldest until all
    /// fit; one whose own delta doesn't fit alone fails with [`crate::EngineError::NoMemory`], and evicts none.
    /// Bounds what a program can make its host keep: this much, and as much again while a checkpoint is made and
    /// for buffers that are used again. A rollback may need more, as it keeps what it swaps out, at most the
    /// regions' bytes for each retained checkpoint.
    pub max_history_bytes: u64,
    /// Pages that one try of a checkpoint or rollback compares, of regions whose memory is scattered; what is
    /// left counts as [absent](crate::EngineError::Absent) until the next. Bounds the comparing in one call, in a
    /// guest whose kernel would think that its CPU is stuck; the bytes of deltas that a rollback swaps, or an
    /// eviction merges, grow with what was written and have no such bound. Memory in one piece is done in one try.
    pub max_pages_per_try: u64,
    /// Whether it's recorded what changes, for [`Engine::gather`](crate::Engine::gather). Costs 16 bytes a page, and
    /// no bytes of old versions.
    pub records_changes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history: DEFAULT_HISTORY,
            rule: Rule::Model,
            costs: HostCosts::default(),
            max_regions: MAX_REGIONS,
            max_region_bytes: MAX_REGION_BYTES,
            max_history_bytes: u64::MAX,
            max_pages_per_try: u64::MAX,
            records_changes: false,
        }
    }
}
