//! The results, and the JSON text that keeps them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::contender::Contender;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::engine::{Poll, Tracker};
use crate::host::Host;
use crate::pattern::Pattern;
use crate::protocol::{Figures, Stops};
use crate::stats::{Quantiles, Spread};

/// The version of the JSON file's layout: it changes when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Bytes of a recorded report, at most: bounds what reading one takes. A cell of one engine has some 800.
const MAX_RECORD: u64 = 16 << 20;

/// Why a file is no recorded report.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has more bytes than a record of a run can have.
    #[error("it has more than {MAX_RECORD} bytes")]
    TooLong,
    /// It is no JSON, or not that of a report.
    #[error("it is not what cairn bench --json writes")]
    Malformed(#[from] serde_json::Error),
    /// It has another layout than this program's.
    #[error("its layout is number {0}, and this program reads number {SCHEMA}")]
    Schema(u32),
}

/// A whole run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it ran on. The clock of a run in a Linux guest is the guest's.
    pub host: Host,
    /// The guest that all engines ran in, if they did; `host` is the machine that ran it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux_guest: Option<Host>,
    /// The command that measured it; older records don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How `cairn` was asked to poll.
    pub poll: Poll,
    /// How `cairn` was asked to find what was written.
    #[serde(default)]
    pub tracker: Tracker,
    /// What was measured and verified.
    pub cells: Vec<Measured>,
    /// What could not be measured here.
    pub unavailable: Vec<Absent>,
    /// What went wrong.
    pub failed: Vec<Absent>,
}

/// An engine's figures in a cell. Times in ns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Which pages were written.
    pub pattern: Pattern,
    /// MiB of the region.
    pub region_mib: u32,
    /// Pages that each epoch wrote.
    pub dirty_pages: u32,
    /// The engine's name.
    pub engine: String,
    /// Cycles that were timed: with fewer than 100, a p99 is the largest.
    pub cycles: u64,
    /// Rollbacks that were timed.
    pub rollbacks: u64,
    /// A checkpoint.
    pub checkpoint_ns: Quantiles,
    /// Writes and checkpoint.
    pub cycle_ns: Quantiles,
    /// How these are distributed; older records don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle_spread_ns: Option<Spread>,
    /// A rollback with all that it takes to notice later writes.
    pub rollback_ns: Quantiles,
    /// What the writes took longer than to plain memory.
    pub overhead_ns: Median<i64>,
    /// CPU time of all threads of the engine per cycle.
    pub cpu_ns: Median<u64>,
    /// Bytes that the engine keeps beside the regions.
    pub extra_bytes: u64,
    /// What stood still for it; none where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops: Option<Stops>,
    /// Always true: figures of an engine that restores wrong bytes don't count.
    pub verified: bool,
}

/// A quantity of which only the median means something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Median<T> {
    /// The median.
    pub p50: T,
}

/// Why an engine has no figures in a cell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Absent {
    /// Which pages would have been written.
    pub pattern: Pattern,
    /// MiB of the region.
    pub region_mib: u32,
    /// Pages that each epoch would have written.
    pub dirty_pages: u32,
    /// The engine's name.
    pub engine: String,
    /// What is missing or went wrong.
    pub why: String,
}

/// How an engine fared in a cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its figures, and its CPU time per cycle in ns.
    Measured(Box<Figures>, u64),
    /// It doesn't work here.
    Unavailable(String),
    /// It works here, and not in this cell: there is no memory for it, or the program doesn't do what it takes.
    NotInCell(String),
    /// It should have worked and didn't.
    Failed(String),
}

impl Report {
    /// An empty report.
    #[must_use]
    pub fn new(host: Host, poll: Poll, tracker: Tracker) -> Self {
        Self {
            schema: SCHEMA,
            host,
            linux_guest: None,
            command: None,
            poll,
            tracker,
            cells: Vec::new(),
            unavailable: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The report of a run in a Linux guest, where it was the guest's own, on the host of that guest.
    #[must_use]
    pub fn of_linux_guest(self, host: Host) -> Self {
        Self { linux_guest: Some(self.host), host, ..self }
    }

    /// The JSON text of the report.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn to_json(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads what [`Report::to_json`] made.
    ///
    /// # Errors
    /// [`Unread`]
    pub fn read(path: &Path) -> Result<Self, Unread> {
        let mut text = Vec::new();
        File::open(path)?.take(MAX_RECORD + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_RECORD {
            return Err(Unread::TooLong);
        }
        let report: Self = serde_json::from_slice(&text)?;
        if report.schema == SCHEMA { Ok(report) } else { Err(Unread::Schema(report.schema)) }
    }

    /// The exit status: 0, or 1 if an engine failed or there is no figure at all.
    #[must_use]
    pub fn status(&self) -> u8 {
        u8::from(!self.failed.is_empty() || self.cells.is_empty())
    }

    /// Adds how `engine` fared in `cell`. Figures without verified bytes are a failure.
    pub fn add(&mut self, cell: Cell, engine: Contender, outcome: Outcome) {
        let absent = |why| Absent {
            pattern: cell.pattern,
            region_mib: cell.region_mib,
            dirty_pages: cell.dirty_pages,
            engine: engine.name().to_owned(),
            why,
        };
        match outcome {
            Outcome::Measured(figures, cpu_ns) if figures.verified => {
                self.cells.push(Measured::new(cell, engine, &figures, cpu_ns));
            }
            Outcome::Measured(..) => {
                self.failed.push(absent("a rollback restored wrong bytes: its times don't count".to_owned()));
            }
            Outcome::Unavailable(why) | Outcome::NotInCell(why) => self.unavailable.push(absent(why)),
            Outcome::Failed(why) => self.failed.push(absent(why)),
        }
    }
}

impl Measured {
    fn new(cell: Cell, engine: Contender, figures: &Figures, cpu_ns: u64) -> Self {
        Self {
            pattern: cell.pattern,
            region_mib: cell.region_mib,
            dirty_pages: cell.dirty_pages,
            engine: engine.name().to_owned(),
            cycles: figures.cycles,
            rollbacks: figures.rollbacks,
            checkpoint_ns: figures.checkpoint_ns,
            cycle_ns: figures.cycle_ns,
            cycle_spread_ns: figures.cycle_spread_ns,
            rollback_ns: figures.rollback_ns,
            overhead_ns: Median { p50: figures.overhead_ns_p50 },
            cpu_ns: Median { p50: cpu_ns },
            extra_bytes: figures.extra_bytes,
            stops: figures.stops,
            verified: figures.verified,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The runs that are recorded in this repository.
    pub(crate) fn records() -> Vec<PathBuf> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("record");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let records: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
        assert!(!records.is_empty());
        records
    }

    fn report() -> Report {
        let figures = Figures {
            cycles: 1,
            rollbacks: 2,
            checkpoint_ns: Quantiles { p50: 3, p99: 4 },
            cycle_ns: Quantiles { p50: 5, p99: 6 },
            cycle_spread_ns: None,
            rollback_ns: Quantiles { p50: 7, p99: 8 },
            overhead_ns_p50: -9,
            extra_bytes: 10,
            stops: None,
            verified: true,
        };
        let cell = Cell::new(Pattern::Hot, 64, 10).unwrap();
        let mut report = Report::new(Host::look(1), Poll::Auto, Tracker::Auto);
        report.add(cell, Contender::Cairn, Outcome::Measured(Box::new(figures), 11));
        report.add(
            cell,
            Contender::Fork,
            Outcome::Measured(Box::new(Figures { verified: false, ..figures }), 11),
        );
        report.add(cell, Contender::UffdWp, Outcome::Unavailable("no kernel for it".to_owned()));
        report
    }

    #[test]
    fn a_cell_has_the_fields_that_readers_rely_on() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!((&json["schema"], &json["poll"]), (&1.into(), &"auto".into()));
        assert!(json["host"]["kernel"].is_string());
        let expected = serde_json::json!({
            "pattern": "hot", "region_mib": 64, "dirty_pages": 163, "engine": "cairn",
            "cycles": 1, "rollbacks": 2,
            "checkpoint_ns": {"p50": 3, "p99": 4},
            "cycle_ns": {"p50": 5, "p99": 6},
            "rollback_ns": {"p50": 7, "p99": 8},
            "overhead_ns": {"p50": -9},
            "cpu_ns": {"p50": 11},
            "extra_bytes": 10,
            "verified": true,
        });
        assert_eq!(json["cells"], serde_json::json!([expected]));
    }

    #[test]
    fn a_guests_own_facts_stay_beside_those_of_its_host() {
        let (guest, host) = (report(), Host { kernel: "the host's".to_owned(), ..Host::look(2) });
        let report = guest.clone().of_linux_guest(host.clone());
        assert_eq!((report.linux_guest, report.host), (Some(guest.host), host));
        assert_eq!(report.cells, guest.cells);
    }

    #[test]
    fn failures_and_nothing_at_all_are_no_success() {
        let mut report = report();
        assert_eq!(report.status(), 1);
        report.failed.clear();
        assert_eq!(report.status(), 0);
        report.cells.clear();
        assert_eq!(report.status(), 1);
    }

    #[test]
    fn figures_without_verified_bytes_are_a_failure() {
        let report = report();
        assert_eq!(report.cells.len(), 1);
        assert_eq!(report.failed[0].engine, "fork");
        assert_eq!(report.unavailable[0].why, "no kernel for it");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let read = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            Report::read(&path)
        };
        assert_eq!(read(&report().to_json().unwrap()).unwrap(), report());
        let other = Report { schema: SCHEMA + 1, ..report() };
        assert!(matches!(read(&other.to_json().unwrap()), Err(Unread::Schema(_))));
        assert!(matches!(read(b"{}"), Err(Unread::Malformed(_))));
        assert!(matches!(read(&vec![b' '; usize::try_from(MAX_RECORD).unwrap() + 1]), Err(Unread::TooLong)));
        assert!(matches!(Report::read(Path::new("/no/such/record")), Err(Unread::Io(_))));
    }

    #[test]
    fn the_records_of_this_repository_are_read() {
        for path in records() {
            assert!(!Report::read(&path).unwrap().cells.is_empty(), "{}", path.display());
        }
    }
}
