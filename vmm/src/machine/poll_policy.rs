//! When a host thread polls the checkpoint queue: decisions without a thread or a clock.
//!
//! ```text
//!            two notifications within IDLE, a spare core, no back-off
//!   sleeping ───────────────────────────────────────────────────────> polling
//!      ^                                                                 │
//!      ├──────────────── no request for IDLE ────────────────────────────┤
//!      └── a request came by notification that polling should have seen ─┘  (and back off)
//! ```

use std::time::{Duration, Instant};

/// Without a request for so long, polling ends.
pub const IDLE: Duration = Duration::from_millis(10);
/// How long polling stays off after the poller was found without a core; doubles each time in a row.
pub const FIRST_BACK_OFF: Duration = Duration::from_millis(20);
/// The longest back-off.
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// While requests come and a core is spare.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: each request is a notification.
    Never,
}

/// The decisions.
#[derive(Debug)]
pub struct PollPolicy {
    mode: PollMode,
    spare_core: bool,
    polling: bool,
    last_request: Option<Instant>,
    back_off: Duration,
    quiet_until: Option<Instant>,
}

impl PollPolicy {
    /// Sleeping. `spare_core` says whether the poller would have a core besides the vCPU's.
    #[must_use]
    pub fn new(mode: PollMode, spare_core: bool) -> Self {
        Self {
            mode,
            spare_core,
            polling: false,
            last_request: None,
            back_off: FIRST_BACK_OFF,
            quiet_until: None,
        }
    }

    /// Whether somebody should poll now.
    #[must_use]
    pub fn polls(&self) -> bool {
        self.polling
    }

    /// The driver took the device into use.
    pub fn activated(&mut self) {
        self.polling = self.mode == PollMode::Always;
    }

    /// The driver reset the device: there is nothing to poll.
    pub fn reset(&mut self) {
        self.polling = false;
        self.last_request = None;
    }

    /// A notification came at `now`. `missed` says that it brought a request which polling, being on,
    /// should have seen: the poller has no core.
    pub fn notified(&mut self, now: Instant, missed: bool) {
        let before = self.last_request.replace(now);
        if self.mode != PollMode::Auto {
            return;
        }
        if self.polling && missed {
            self.polling = false;
            self.quiet_until = now.checked_add(self.back_off);
            self.back_off = (self.back_off * 2).min(LONGEST_BACK_OFF);
            return;
        }
        let frequent = before.is_some_and(|before| now.saturating_duration_since(before) < IDLE);
        let quiet = self.quiet_until.is_some_and(|until| now < until);
        if frequent && self.spare_core && !quiet {
            self.polling = true;
        }
    }

    /// Polling served a request at `now`.
    pub fn served(&mut self, now: Instant) {
        self.last_request = Some(now);
    }

    /// Polling found nothing, and it's `now`.
    pub fn found_nothing(&mut self, now: Instant) {
        let idle = self.last_request.is_none_or(|last| IDLE <= now.saturating_duration_since(last));
        if self.mode == PollMode::Auto && idle {
            self.polling = false;
            // A whole stint without a miss: the core was there.
            self.back_off = FIRST_BACK_OFF;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn frequent_requests_turn_it_on_and_silence_off() {
        let start = Instant::now();
        let mut policy = PollPolicy::new(PollMode::Auto, true);
        policy.activated();
        policy.notified(at(start, 0), false);
        assert!(!policy.polls());
        policy.notified(at(start, 100), false);
        assert!(!policy.polls());
        policy.notified(at(start, 101), false);
        assert!(policy.polls());
        policy.served(at(start, 108));
        policy.found_nothing(at(start, 112));
        assert!(policy.polls());
        policy.found_nothing(at(start, 118));
        assert!(!policy.polls());
    }

    #[test]
    fn a_poller_without_a_core_backs_off_longer_each_time() {
        let start = Instant::now();
        let mut policy = PollPolicy::new(PollMode::Auto, true);
        let mut now = 0;
        for expected in [20, 40, 80, 160, 320, 640, 1280, 2000, 2000] {
            policy.notified(at(start, now), false);
            policy.notified(at(start, now + 1), false);
            assert!(policy.polls(), "after {now} ms");
            policy.notified(at(start, now + 2), true);
            assert!(!policy.polls());
            policy.notified(at(start, now + 2 + expected - 1), false);
            policy.notified(at(start, now + 2 + expected - 1), false);
            assert!(!policy.polls(), "back-off of {expected} ms");
            now += 2 + expected + 100;
        }
    }

    #[test]
    fn the_user_decides() {
        let start = Instant::now();
        let mut never = PollPolicy::new(PollMode::Never, true);
        let mut always = PollPolicy::new(PollMode::Always, false);
        let mut alone = PollPolicy::new(PollMode::Auto, false);
        for policy in [&mut never, &mut always, &mut alone] {
            policy.activated();
            policy.notified(at(start, 0), false);
            policy.notified(at(start, 1), true);
            policy.found_nothing(at(start, 1000));
        }
        assert_eq!([never.polls(), always.polls(), alone.polls()], [false, true, false]);
        always.reset();
        assert!(!always.polls());
    }
}
