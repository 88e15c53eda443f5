//! The program's clocks. Its vDSO computes them from the time stamp counter and a page of ours, without an exit;
//! system calls that tell the time answer from the same numbers, so that the two never disagree.
//!
//! The numbers are a line through the host's clock. It holds for at most [`LONGEST`]: whoever asks later makes a
//! system call, which draws a new one. So nothing wakes up to keep the clock right, and how far it can be off is
//! bounded: Linux changes the rate of its clock by at most 500 ppm to either side, so that a line of the old rate
//! is off by at most 1000 ppm of its length, 100 us, and as a rule by less than 1 us. A new line begins at the
//! host's time, or, should the old one have ended ahead of that, at its end, and is so much flatter: no clock
//! goes backwards. CLOCK_REALTIME jumps when somebody sets the host's, at the next line.

#[path = "../../../vdso/page.rs"]
mod page;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::guest::app::image::FrozenClock;
use crate::host::mapping::Reservation;
use crate::host::tsc;
use crate::memory::page_table::{SYSTEM_PAGES, SYSTEM_VIRTUAL};

/// The vDSO: an ELF file that is mapped as it is.
pub const VDSO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));
/// Offset of the clock page in the system span.
pub const CLOCK_PAGE: u64 = page::ADDRESS - SYSTEM_VIRTUAL;

/// How long a line holds at first, while only KVM's word for the counter's rate is known.
pub const FIRST: Duration = Duration::from_millis(10);
/// How long one holds at most. Each holds twice as long as the one before.
pub const LONGEST: Duration = Duration::from_millis(100);
/// A rate that differs so much from KVM's word isn't one: the host slept, or the counter is no clock. Parts in
/// a million: Linux's 500, and as much for what KVM's word can be off.
const ODD_PPM: u128 = 1000;
/// After so many odd rates in a row the counter isn't used any more.
const ODD_LIMIT: u32 = 3;
/// Pairs of counter and clock of which the closest is taken.
const SAMPLES: u32 = 5;

/// The program's clocks.
#[derive(Debug)]
pub struct Clock {
    counter: Option<Counter>,
    ahead: Ahead,
}

/// How far the program's clocks are ahead of the host's, in nanoseconds that wrap around: a program that was brought
/// back goes on with the time that it had.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    monotonic: u64,
    boottime: u64,
    used: u64,
}

/// The line, as it is in the page.
#[derive(Debug)]
struct Counter {
    system: Arc<Reservation>,
    /// Nanoseconds for each tick, times 2^SHIFT, as KVM says.
    nominal: u64,
    holds: Duration,
    line: Line,
    /// The host's time when the line was drawn.
    drawn: Option<Sample>,
    odd: u32,
    to_realtime: u64,
    to_boottime: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Line {
    from: u64,
    ticks: u64,
    rate: u64,
    monotonic: u64,
}

/// The counter and CLOCK_MONOTONIC at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sample {
    ticks: u64,
    monotonic: u64,
}

impl Clock {
    /// Clocks of the host's, each by a system call.
    #[must_use]
    pub fn host() -> Self {
        Self { counter: None, ahead: Ahead::default() }
    }

    /// Clocks that the program can read from its counter, which is the host's and makes `khz` thousand ticks a
    /// second. The page is in `system`.
    #[must_use]
    pub fn counting(system: Arc<Reservation>, khz: u32) -> Self {
        let nominal = (1_000_000_u64 << page::SHIFT).checked_div(u64::from(khz));
        let counter = nominal.map(|nominal| Counter {
            system,
            nominal,
            holds: FIRST,
            line: Line::default(),
            drawn: None,
            odd: 0,
            to_realtime: 0,
            to_boottime: 0,
        });
        Self { counter, ahead: Ahead::default() }
    }

    /// Whether the program reads the time without an exit.
    #[must_use]
    pub fn is_counting(&self) -> bool {
        self.counter.is_some()
    }

    /// What the program's clock shows.
    ///
    /// # Errors
    /// EINVAL: no such clock.
    pub fn now(&mut self, clock: ClockId) -> Result<TimeSpec, Errno> {
        let ahead = self.ahead;
        let Some(counter) = &mut self.counter else {
            return ahead.now(clock);
        };
        let Some(monotonic) = counter.monotonic(ahead)? else {
            self.counter = None;
            return ahead.now(clock);
        };
        let now = match clock {
            ClockId::CLOCK_MONOTONIC | ClockId::CLOCK_MONOTONIC_COARSE => monotonic,
            ClockId::CLOCK_REALTIME | ClockId::CLOCK_REALTIME_COARSE => {
                monotonic.wrapping_add(counter.to_realtime)
            }
            ClockId::CLOCK_BOOTTIME => monotonic.wrapping_add(counter.to_boottime),
            other => return ahead.now(other),
        };
        Ok(TimeSpec::from_duration(Duration::from_nanos(now)))
    }

    /// What the clocks show, on the thread whose CPU time is the program's.
    ///
    /// # Errors
    /// What the host's say.
    pub fn freeze(&mut self) -> Result<FrozenClock, Errno> {
        Ok(FrozenClock {
            monotonic: nanoseconds(self.now(ClockId::CLOCK_MONOTONIC)?),
            boottime: nanoseconds(self.now(ClockId::CLOCK_BOOTTIME)?),
            used: nanoseconds(self.now(ClockId::CLOCK_THREAD_CPUTIME_ID)?),
        })
    }

    /// Goes on from what the clocks showed. Before anybody looks at them, and before the program's thread is there.
    ///
    /// # Errors
    /// What the host's say.
    pub fn thaw(&mut self, frozen: &FrozenClock) -> Result<(), Errno> {
        let host = |clock| clock_gettime(clock).map(nanoseconds);
        self.ahead = Ahead {
            monotonic: frozen.monotonic.wrapping_sub(host(ClockId::CLOCK_MONOTONIC)?),
            boottime: frozen.boottime.wrapping_sub(host(ClockId::CLOCK_BOOTTIME)?),
            used: frozen.used,
        };
        Ok(())
    }
}

impl Ahead {
    /// Nanoseconds for one of the clocks.
    fn of(self, clock: ClockId) -> u64 {
        match clock {
            ClockId::CLOCK_MONOTONIC | ClockId::CLOCK_MONOTONIC_COARSE | ClockId::CLOCK_MONOTONIC_RAW => {
                self.monotonic
            }
            ClockId::CLOCK_BOOTTIME => self.boottime,
            ClockId::CLOCK_THREAD_CPUTIME_ID => self.used,
            _ => 0,
        }
    }

    /// The program's clock by the host's.
    fn now(self, clock: ClockId) -> Result<TimeSpec, Errno> {
        let host = clock_gettime(clock)?;
        let ahead = self.of(clock);
        if ahead == 0 {
            return Ok(host);
        }
        Ok(TimeSpec::from_duration(Duration::from_nanos(nanoseconds(host).wrapping_add(ahead))))
    }

    /// How far the program's `clock` is ahead of its CLOCK_MONOTONIC; `before` as for [`offset`].
    fn offset(self, clock: ClockId, before: u64) -> Result<u64, Errno> {
        let shift = self.monotonic.wrapping_sub(self.of(clock));
        Ok(offset(clock, before.wrapping_add(shift))?.wrapping_sub(shift))
    }
}

impl Counter {
    /// CLOCK_MONOTONIC by the line, or by a new one where it doesn't hold any more. None once the counter turned
    /// out to be no clock.
    fn monotonic(&mut self, ahead: Ahead) -> Result<Option<u64>, Errno> {
        if let Some(now) = self.line.at(tsc::read()) {
            return Ok(Some(now));
        }
        // Odd: the vDSO takes nothing from the page now. What it took before is at most the line's end, as the
        // counter is read below.
        let sequence = self.word(page::SEQUENCE).load(Ordering::Relaxed);
        self.word(page::SEQUENCE).store(sequence | 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let drawn = self.draw(ahead);
        let line = if matches!(drawn, Ok(true)) { self.line } else { Line::default() };
        let words = [
            (page::FROM, line.from),
            (page::TICKS, line.ticks),
            (page::RATE, line.rate),
            (page::MONOTONIC, line.monotonic),
            (page::TO_REALTIME, self.to_realtime),
            (page::TO_BOOTTIME, self.to_boottime),
        ];
        for (offset, value) in words {
            self.word(offset).store(value, Ordering::Relaxed);
        }
        self.word(page::SEQUENCE).store((sequence | 1).wrapping_add(1), Ordering::Release);
        Ok(drawn?.then_some(self.line.monotonic))
    }

    /// Draws the next line; false when the counter is no clock.
    fn draw(&mut self, ahead: Ahead) -> Result<bool, Errno> {
        let mut sample = Sample::take()?;
        sample.monotonic = sample.monotonic.wrapping_add(ahead.monotonic);
        let mut rate = self.nominal;
        if let Some(before) = self.drawn {
            match sample.rate_since(before, self.nominal) {
                Some(measured) => {
                    rate = measured;
                    self.odd = 0;
                    self.holds = (self.holds * 2).min(LONGEST);
                }
                None => {
                    self.odd += 1;
                    self.holds = FIRST;
                }
            }
        }
        self.line = self.line.next(sample, rate, self.holds);
        self.drawn = Some(sample);
        self.to_realtime = ahead.offset(ClockId::CLOCK_REALTIME, self.to_realtime)?;
        self.to_boottime = ahead.offset(ClockId::CLOCK_BOOTTIME, self.to_boottime)?;
        Ok(self.odd < ODD_LIMIT)
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        self.system.word(CLOCK_PAGE + offset)
    }
}

impl Line {
    /// CLOCK_MONOTONIC when the counter shows `ticks`, if the line holds then.
    fn at(&self, ticks: u64) -> Option<u64> {
        let passed = ticks.wrapping_sub(self.from);
        (passed < self.ticks)
            .then(|| self.monotonic.wrapping_add(passed.wrapping_mul(self.rate) >> page::SHIFT))
    }

    /// The line that begins at `sample` and holds for a time, after this one, which has ended.
    fn next(self, sample: Sample, rate: u64, holds: Duration) -> Self {
        let end = self.monotonic.wrapping_add(self.ticks.wrapping_mul(self.rate) >> page::SHIFT);
        let length = u64::try_from(holds.as_nanos()).unwrap_or(u64::MAX);
        // At most half the length, so that the clock goes on at half its rate at least.
        let ahead = end.saturating_sub(sample.monotonic).min(length / 2);
        let flatter = u128::from(rate) * u128::from(length - ahead) / u128::from(length);
        let ticks = (u128::from(length) << page::SHIFT) / u128::from(rate.max(1));
        Self {
            from: sample.ticks,
            ticks: u64::try_from(ticks).unwrap_or(0),
            rate: u64::try_from(flatter).unwrap_or(rate),
            monotonic: sample.monotonic.max(end),
        }
    }
}

impl Sample {
    /// The counter and the clock, as close together as they can be had.
    fn take() -> Result<Self, Errno> {
        let mut best = (u64::MAX, Self { ticks: 0, monotonic: 0 });
        for _ in 0..SAMPLES {
            let before = tsc::read();
            let monotonic = nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
            let width = tsc::read().wrapping_sub(before);
            if width < best.0 {
                best = (width, Self { ticks: before.wrapping_add(width / 2), monotonic });
            }
        }
        Ok(best.1)
    }

    /// The counter's rate since an earlier moment, if it's near the nominal one.
    fn rate_since(self, before: Self, nominal: u64) -> Option<u64> {
        let ticks = u128::from(self.ticks.checked_sub(before.ticks)?);
        let passed = u128::from(self.monotonic.checked_sub(before.monotonic)?);
        let rate = (passed << page::SHIFT).checked_div(ticks)?;
        let nominal = u128::from(nominal);
        (rate.abs_diff(nominal) * 1_000_000 <= nominal * ODD_PPM).then(|| u64::try_from(rate).ok())?
    }
}

/// How far `clock` is ahead of CLOCK_MONOTONIC. It's `before`, if that can be: a new number for the same distance
/// would make the clock jump by the time that it takes to read it.
fn offset(clock: ClockId, before: u64) -> Result<u64, Errno> {
    let first = nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    let other = nanoseconds(clock_gettime(clock)?);
    let last = nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    let (least, most) = (other.wrapping_sub(last), other.wrapping_sub(first));
    let still = before.wrapping_sub(least) <= most.wrapping_sub(least);
    Ok(if still { before } else { least.wrapping_add(most.wrapping_sub(least) / 2) })
}

fn nanoseconds(time: TimeSpec) -> u64 {
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

const _: () = assert!(
    SYSTEM_PAGES.start <= CLOCK_PAGE && CLOCK_PAGE < SYSTEM_PAGES.end && VDSO.len() <= 4096,
    "the clock page is one of the system pages, and the vDSO is one page"
);

#[cfg(test)]
mod tests {
    use super::*;

    const GHZ_3: u64 = (1_000_000_u64 << page::SHIFT) / 3_000_000;

    #[test]
    fn lines_follow_the_clock_and_never_go_back() {
        // A clock whose rate differs from the nominal one by -400 and then by +400 ppm, over and over.
        let mut line = Line::default();
        let mut drawn: Option<Sample> = None;
        let (mut ticks, mut monotonic, mut last) = (1_000_000_u64, 5_000_000_000_u64, 0);
        for step in 0..20_000_u64 {
            ticks += 30_000;
            monotonic += if step / 3000 % 2 == 0 { 9_996 } else { 10_004 };
            let now = line.at(ticks).unwrap_or_else(|| {
                let sample = Sample { ticks, monotonic };
                let rate = drawn.map_or(GHZ_3, |before| sample.rate_since(before, GHZ_3).unwrap());
                drawn = Some(sample);
                line = line.next(sample, rate, LONGEST);
                line.monotonic
            });
            assert!(last <= now, "step {step}: {last} > {now}");
            assert!(now.abs_diff(monotonic) <= 100_000, "step {step}: {now} is not {monotonic}");
            last = now;
        }
    }

    #[test]
    fn a_counter_of_another_rate_or_that_went_back_is_odd() {
        let before = Sample { ticks: 1 << 40, monotonic: 1 << 30 };
        let after = |ticks, monotonic| Sample { ticks, monotonic }.rate_since(before, GHZ_3);
        let (second, nanos) = (before.ticks + 3_000_000_000, before.monotonic + 1_000_000_000);
        assert_eq!(after(second, nanos), Some(GHZ_3));
        assert!(after(second, nanos + 900_000).is_some() && after(second, nanos - 900_000).is_some());
        assert_eq!(after(second, nanos + 1_100_000), None);
        assert_eq!(after(before.ticks - 1, nanos), None);
        assert_eq!(after(before.ticks, nanos), None);
    }

    #[test]
    fn the_hosts_clock_is_shown_and_an_odd_counter_is_given_up() {
        let system = || Arc::new(Reservation::anonymous(1 << 21, 1 << 21).unwrap());
        for khz in [1, 0] {
            let mut clock = Clock::counting(system(), khz);
            for _ in 0..100 {
                let before = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
                let shown = clock.now(ClockId::CLOCK_MONOTONIC).unwrap();
                assert!(khz == 1 || before <= shown);
            }
            assert!(khz == 1 || !clock.is_counting());
        }
    }

    #[test]
    fn clocks_go_on_from_where_they_were() {
        let system = Arc::new(Reservation::anonymous(1 << 21, 1 << 21).unwrap());
        let frozen = FrozenClock { monotonic: 5_000_000_000, boottime: 1 << 60, used: 77_000_000_000 };
        for mut clock in [Clock::host(), Clock::counting(system, 3_000_000)] {
            clock.thaw(&frozen).unwrap();
            let again = clock.freeze().unwrap();
            for (before, after) in [
                (frozen.monotonic, again.monotonic),
                (frozen.boottime, again.boottime),
                (frozen.used, again.used),
            ] {
                assert!(before <= after && after - before < 60_000_000_000, "{frozen:?} {again:?}");
            }
            let shown = clock.now(ClockId::CLOCK_REALTIME).unwrap();
            let host = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
            assert!(shown.tv_sec().abs_diff(host.tv_sec()) < 60, "{shown:?} {host:?}");
        }
    }

    #[test]
    fn other_clocks_keep_their_distance() {
        let distance = offset(ClockId::CLOCK_BOOTTIME, 7).unwrap();
        assert_eq!(offset(ClockId::CLOCK_BOOTTIME, distance), Ok(distance));
    }
}
