//! Whether a job is shared: a decision without a clock.

use std::time::Duration;

/// Jobs that aren't shared after the first that lost by it; twice as many after each further one.
const FIRST_BACK_OFF: u32 = 2;
/// The most that are. A machine that has become quiet is found so after as many.
const MOST_BACK_OFF: u32 = 64;

/// What sharing has come to.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Jobs yet that aren't shared.
    alone: u32,
    back_off: u32,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { alone: 0, back_off: FIRST_BACK_OFF }
    }
}

impl Sharing {
    /// Whether the next job is shared.
    pub(super) fn next(&mut self) -> bool {
        let shared = self.alone == 0;
        self.alone = self.alone.saturating_sub(1);
        shared
    }

    /// A shared job of `parts` took `whole`, and who asked did `own` of them in `own_time`. Alone it would have done
    /// all of them as fast as its own.
    pub(super) fn took(&mut self, whole: Duration, own_time: Duration, own: usize, parts: usize) {
        let nanoseconds = |time: Duration, times: usize| time.as_nanos().saturating_mul(times as u128);
        if own == 0 || nanoseconds(whole, own) <= nanoseconds(own_time, parts) {
            self.back_off = FIRST_BACK_OFF;
        } else {
            self.alone = self.back_off;
            self.back_off = (self.back_off * 2).min(MOST_BACK_OFF);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// Jobs until the next one is shared.
    fn alone(sharing: &mut Sharing) -> u32 {
        (0..).find(|_| sharing.next()).unwrap_or(u32::MAX)
    }

    #[test]
    fn helpers_that_hold_a_job_up_are_asked_less_and_less() {
        let mut sharing = Sharing::default();
        for expected in [2, 4, 8, 16, 32, 64, 64, 64] {
            assert!(sharing.alone == 0);
            // Seven parts of eight in 700 us, and then a millisecond's wait for the last.
            sharing.took(1700 * US, 700 * US, 7, 8);
            assert_eq!(alone(&mut sharing), expected);
        }
        sharing.took(400 * US, 390 * US, 4, 8);
        assert_eq!(alone(&mut sharing), 0);
        sharing.took(801 * US, 700 * US, 7, 8);
        assert_eq!(alone(&mut sharing), FIRST_BACK_OFF, "patience begins anew");
    }

    #[test]
    fn a_job_that_took_no_longer_than_alone_is_no_loss() {
        let mut sharing = Sharing::default();
        sharing.took(800 * US, 700 * US, 7, 8);
        assert!(sharing.next());
        sharing.took(US, Duration::ZERO, 0, 8);
        assert!(sharing.next(), "helpers did all of it");
    }
}
