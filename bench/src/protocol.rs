//! What driver and worker say to each other: one JSON value a line.

use std::io::{self, BufRead, Read};

use cairn_guest::SessionFigures;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::stats::{Quantiles, Spread};

/// Bytes that a line may have: bounds the memory that the other side can take.
pub const MAX_LINE: u64 = 64 << 10;
/// Cycles that one batch may have: bounds, with [`MAX_PLANNED_PAGES`], what a worker allocates for it.
pub const MAX_BATCH: u32 = 20_000;
/// Page numbers that one batch's sets may have together.
pub const MAX_PLANNED_PAGES: u32 = 4 << 20;

/// From the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Make the region, fill it, take the warm-up epochs.
    Prepare {
        /// What is to be measured.
        cell: Cell,
        /// Hz of the time-stamp counter.
        ticks_per_second: u64,
        /// Time that warm-up may take beyond its least number of epochs.
        warm_up_ns: u64,
    },
    /// Draw the page sets of the next batch, so that this takes no time of it.
    Plan {
        /// Cycles of the batch, at most [`MAX_BATCH`].
        cycles: u32,
    },
    /// Run the batch that was planned.
    Run,
    /// Time rollbacks, verify, and report all figures.
    Finish {
        /// Time that rollbacks may take beyond their least number.
        rollback_ns: u64,
    },
}

/// From the worker, one for each order and one before the first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// The session is open.
    Ready,
    /// The engine doesn't work here.
    Unavailable {
        /// What is missing.
        why: String,
    },
    /// The warm-up is over.
    Prepared {
        /// How long its last cycle took.
        cycle_ns: u64,
    },
    /// The sets are drawn.
    Planned,
    /// The batch is over.
    Ran {
        /// How long it took.
        elapsed_ns: u64,
        /// CPU time of this process and its ended children during it; none in a VM, where only the driver sees it.
        cpu_ns: Option<u64>,
    },
    /// All is measured.
    Finished(Figures),
    /// The order can't be carried out. The worker is of no more use.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a worker measured in one cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Cycles that were timed.
    pub cycles: u64,
    /// Rollbacks that were timed.
    pub rollbacks: u64,
    /// A checkpoint.
    pub checkpoint_ns: Quantiles,
    /// An epoch's writes and the checkpoint after them.
    pub cycle_ns: Quantiles,
    /// How these are distributed.
    pub cycle_spread_ns: Option<Spread>,
    /// A rollback.
    pub rollback_ns: Quantiles,
    /// Median of what the writes took longer than to plain memory.
    pub overhead_ns_p50: i64,
    /// What the engine keeps beside the regions.
    pub extra_bytes: u64,
    /// What stood still for it; none where nothing does.
    pub stops: Option<Stops>,
    /// Whether the restored bytes were those of the model.
    pub verified: bool,
}

/// What a guest's CPUs stood still for, from the first checkpoint to the last timed cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stops {
    /// How often they were stopped.
    pub pauses: u64,
    /// The mean length of a pause.
    pub mean_ns: u64,
    /// The longest pause since the guest began, in whatever cell it was.
    pub longest_so_far_ns: u64,
    /// What it took to have the region's memory watched, once.
    pub arming_ns: u64,
}

impl Stops {
    /// Between two looks at a session's figures; none if nothing was stopped or watched.
    #[must_use]
    pub fn between(before: &SessionFigures, after: &SessionFigures) -> Option<Self> {
        let pauses = after.pauses.saturating_sub(before.pauses);
        let arming_ns = after.arming_ns.saturating_sub(before.arming_ns);
        if pauses == 0 && arming_ns == 0 {
            return None;
        }
        let mean_ns = after.pause_ns.saturating_sub(before.pause_ns).checked_div(pauses).unwrap_or(0);
        Some(Self { pauses, mean_ns, longest_so_far_ns: after.longest_pause_ns, arming_ns })
    }
}

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The line is longer than [`MAX_LINE`].
    #[error("a message is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The line is no such message.
    #[error("{start:?} is no message")]
    Malformed {
        /// How it begins.
        start: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The line can't be read.
    #[error("a message could not be read")]
    Io(#[from] io::Error),
}

/// An error with its causes, as one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Reads the next message; none at the end of the input.
///
/// # Errors
/// [`Unread`]; where the next line begins is then unknown.
pub fn read<M: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<M>, Unread> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 > MAX_LINE {
        return Err(Unread::TooLong);
    }
    serde_json::from_slice(&line).map(Some).map_err(|source| {
        let start = &line[..line.len().min(80)];
        Unread::Malformed { start: String::from_utf8_lossy(start).trim_end().to_owned(), source }
    })
}

/// Writes a message and sees it off.
///
/// # Errors
/// The other side is gone.
pub fn write(output: &mut impl io::Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    #[test]
    fn messages_come_back_as_they_were() {
        let cell = Cell::new(Pattern::Random, 64, 10).unwrap();
        let orders = [
            Order::Prepare { cell, ticks_per_second: 1_000_000_000, warm_up_ns: 5 },
            Order::Plan { cycles: 3 },
            Order::Run,
            Order::Finish { rollback_ns: 1 },
        ];
        let mut wire = Vec::new();
        for order in &orders {
            write(&mut wire, order).unwrap();
        }
        let mut input = wire.as_slice();
        for order in orders {
            assert_eq!(read::<Order>(&mut input).unwrap(), Some(order));
        }
        assert!(read::<Order>(&mut input).unwrap().is_none());
    }

    #[test]
    fn figures_survive_the_wire() {
        let figures = Figures {
            cycles: 1,
            rollbacks: 2,
            checkpoint_ns: Quantiles { p50: 3, p99: 4 },
            cycle_ns: Quantiles { p50: 5, p99: 6 },
            cycle_spread_ns: Some(Spread { min: 1, max: 9, ..Spread::default() }),
            rollback_ns: Quantiles { p50: 7, p99: 8 },
            overhead_ns_p50: -9,
            extra_bytes: u64::MAX,
            stops: Some(Stops { pauses: 1, mean_ns: 2, longest_so_far_ns: 3, arming_ns: 4 }),
            verified: true,
        };
        let mut wire = Vec::new();
        write(&mut wire, &Answer::Finished(figures)).unwrap();
        assert_eq!(read(&mut wire.as_slice()).unwrap(), Some(Answer::Finished(figures)));
    }

    #[test]
    fn stops_are_those_between_two_looks() {
        let none = SessionFigures::default();
        let before = SessionFigures { pauses: 2, pause_ns: 100, longest_pause_ns: 90, arming_ns: 7, ..none };
        let after = SessionFigures { pauses: 6, pause_ns: 300, arming_ns: 14, ..before };
        let stops = Stops { pauses: 4, mean_ns: 50, longest_so_far_ns: 90, arming_ns: 7 };
        assert_eq!(Stops::between(&before, &after), Some(stops));
        let armed = SessionFigures { arming_ns: 15, ..after };
        assert_eq!(Stops::between(&after, &armed).unwrap().mean_ns, 0);
        assert_eq!(Stops::between(&after, &after), None);
        assert_eq!(Stops::between(&none, &none), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bad in [
            "\n",
            "{}\n",
            "{\"order\":\"dance\"}\n",
            "{\"order\":\"plan\"}\n",
            "{\"order\":\"run\"",
            "\u{0}\n",
        ] {
            assert!(matches!(read::<Order>(&mut bad.as_bytes()), Err(Unread::Malformed { .. })), "{bad:?}");
        }
        let huge = r#"{"order":"prepare","cell":{"pattern":"hot","region_mib":9999999,"dirty_pages":1},"ticks_per_second":1,"warm_up_ns":1}"#;
        assert!(read::<Order>(&mut huge.as_bytes()).is_err());
    }

    #[test]
    fn lines_are_read_up_to_the_limit_and_no_further() {
        let limit = usize::try_from(MAX_LINE).unwrap();
        let mut line = b"{\"order\":\"run\"}".to_vec();
        line.resize(limit - 1, b' ');
        line.push(b'\n');
        assert_eq!(read(&mut line.as_slice()).unwrap(), Some(Order::Run));
        line.insert(limit - 1, b' ');
        assert!(matches!(read::<Order>(&mut line.as_slice()), Err(Unread::TooLong)));
    }
}
