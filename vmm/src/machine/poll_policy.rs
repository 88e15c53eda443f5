//! When a host thread polls, for requests or for system calls: decisions without a thread or a clock.
//!
//! ```text
//!            two notifications within IDLE, a spare core, no back-off
//!   sleeping ───────────────────────────────────────────────────────> polling
//!      ^                                                                 │
//!      ├──────────────── no request for IDLE ────────────────────────────┤
//!      └── a request came by notification that polling should have seen ─┘  (and back off)
//! ```
//!
//! A back-off is long where the poller never gets a core, and doubles each time. Where other programs take
//! the core now and then, polling has paid before it missed something, and goes on after a moment.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Without a request for so long, polling ends.
pub const IDLE: Duration = Duration::from_millis(10);
/// How long polling stays off after the poller was found without a core; doubles each time in a row.
pub const FIRST_BACK_OFF: Duration = Duration::from_millis(20);
/// The longest back-off.
pub const LONGEST_BACK_OFF: Duration = Duration::from_millis(160);

/// How long it stays off after a miss that came behind [`PAID`] requests.
pub const SHORT_BACK_OFF: Duration = Duration::from_millis(1);
/// Requests served in a row that are worth more than the miss at their end: a miss costs about as much as ten
/// notifications.
pub const PAID: u32 = 64;

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum PollMode {
    /// While requests come and a core is spare.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: each request is a notification, and each system call an exit.
    Never,
}

/// The decisions.
#[derive(Debug)]
pub struct PollPolicy {
    mode: PollMode,
    spare_core: bool,
    polling: bool,
    last_request: Option<Instant>,
    /// Requests served since polling was last off.
    served: u32,
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
            served: 0,
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
            let paid = PAID <= self.served;
            let back_off = if paid { SHORT_BACK_OFF } else { self.back_off };
            self.quiet_until = now.checked_add(back_off);
            self.back_off = if paid { FIRST_BACK_OFF } else { (back_off * 2).min(LONGEST_BACK_OFF) };
            return;
        }
        let frequent = before.is_some_and(|before| now.saturating_duration_since(before) < IDLE);
        let quiet = self.quiet_until.is_some_and(|until| now < until);
        if frequent && self.spare_core && !quiet {
            self.served = if self.polling { self.served } else { 0 };
            self.polling = true;
        }
    }

    /// Polling served a request at `now`.
    pub fn served(&mut self, now: Instant) {
        self.last_request = Some(now);
        self.served = self.served.saturating_add(1);
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
        for expected in [20, 40, 80, 160, 160] {
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
    fn a_poller_that_loses_its_core_now_and_then_is_soon_back() {
        let start = Instant::now();
        let mut policy = PollPolicy::new(PollMode::Auto, true);
        for (served, quiet) in [(0, 20), (0, 40), (PAID, 1), (PAID - 1, 20), (PAID, 1), (0, 20)] {
            let now = policy.quiet_until.unwrap_or(start);
            policy.notified(now, false);
            policy.notified(now, false);
            assert!(policy.polls());
            for _ in 0..served {
                policy.served(now);
            }
            policy.notified(now, true);
            assert_eq!(policy.quiet_until, Some(at(now, quiet)), "{served}");
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
