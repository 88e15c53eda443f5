//! What checkpoints of a whole program cost, as a status tells it.

use std::time::{Duration, SystemTime};

use cairn_abi::CheckpointId;

/// What has been done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Checkpoints in the store by this process.
    pub checkpoints: u64,
    /// Those that couldn't be taken or written.
    pub failed: u64,
    /// The newest one's id.
    pub newest: u64,
    /// Pages that the newest took.
    pub pages: u64,
    /// Bytes that it added to the store.
    pub bytes: u64,
    /// How long the program stood still for it, nanoseconds.
    pub pause_ns: u64,
    /// How long at most, nanoseconds.
    pub longest_pause_ns: u64,
    /// How long at all, nanoseconds.
    pub all_pauses_ns: u64,
    /// When the newest was taken, by the host's clock.
    pub taken: Option<SystemTime>,
    /// How often the program was rolled back.
    pub rollbacks: u64,
    /// How long the last time took, from the request to the program's run, nanoseconds.
    pub rollback_ns: u64,
}

impl Figures {
    /// Counts a checkpoint, for which the program stood still for `pause`.
    pub(super) fn count(&mut self, id: CheckpointId, pages: u64, bytes: u64, pause: Duration) {
        let pause_ns = nanoseconds(pause);
        *self = Self {
            checkpoints: self.checkpoints + 1,
            newest: id.0,
            pages,
            bytes,
            pause_ns,
            longest_pause_ns: self.longest_pause_ns.max(pause_ns),
            all_pauses_ns: self.all_pauses_ns + pause_ns,
            taken: Some(SystemTime::now()),
            ..*self
        };
    }

    /// Every figure with its name.
    pub fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self {
            checkpoints, failed, newest, pages, bytes, pause_ns, longest_pause_ns, all_pauses_ns, ..
        } = self;
        let Self { taken, rollbacks, rollback_ns, .. } = self;
        // By a clock that was set back it may be yet to come.
        let age = taken.map(|taken| nanoseconds(taken.elapsed().unwrap_or_default()));
        let figures = [
            ("whole_checkpoints", checkpoints),
            ("whole_failed", failed),
            ("whole_newest", newest),
            ("whole_newest_pages", pages),
            ("whole_newest_bytes", bytes),
            ("whole_newest_pause_ns", pause_ns),
            ("whole_longest_pause_ns", longest_pause_ns),
            ("whole_all_pauses_ns", all_pauses_ns),
            ("whole_rollbacks", rollbacks),
            ("whole_newest_rollback_ns", rollback_ns),
        ];
        figures.into_iter().chain(age.map(|age| ("whole_newest_age_ns", age)))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
