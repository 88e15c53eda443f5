//! `cairn ps`: which guests are running.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::guests::{self, Guest};
use crate::size::readable;
use crate::stats::time;
use crate::store::{print_json, table};

/// What stands where there is nothing to say.
const NOTHING: &str = "-";

/// Options of `cairn ps`.
#[derive(Args, Debug)]
#[command(max_term_width = 100)]
pub(crate) struct Ps {
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// A line of the list; what is about checkpoints of the whole is missing where there are none.
#[derive(Serialize)]
struct Line {
    name: String,
    pid: u32,
    kind: String,
    program: String,
    up_ns: u64,
    store: Option<String>,
    newest: Option<u64>,
    newest_age_ns: Option<u64>,
    newest_pages: Option<u64>,
    newest_bytes: Option<u64>,
    longest_pause_ns: Option<u64>,
    rollbacks: Option<u64>,
}

impl From<&Guest> for Line {
    fn from(guest: &Guest) -> Self {
        let text = |name| guest.get(name).unwrap_or_default().to_owned();
        // Figures of a checkpoint are this process's; of one that it came back from only the id is known.
        let taken = guest.number("whole_checkpoints").filter(|taken| *taken != 0);
        Self {
            name: guest.name().to_owned(),
            pid: guest.pid,
            kind: text("kind"),
            program: text("program"),
            up_ns: guest.number("up_ns").unwrap_or(0),
            store: guest.get("store_directory").map(str::to_owned),
            newest: guest.number("whole_newest").filter(|newest| *newest != 0),
            newest_age_ns: guest.number("whole_newest_age_ns"),
            newest_pages: taken.and_then(|_| guest.number("whole_newest_pages")),
            newest_bytes: taken.and_then(|_| guest.number("whole_newest_bytes")),
            longest_pause_ns: taken.and_then(|_| guest.number("whole_longest_pause_ns")),
            rollbacks: guest.number("whole_rollbacks"),
        }
    }
}

impl Ps {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let lines: Vec<Line> = guests::running()?.iter().map(Line::from).collect();
        if self.json {
            print_json(&lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        if lines.is_empty() {
            say!("no guest of yours is running");
            return Ok(ExitCode::SUCCESS);
        }
        let titles = [
            "name",
            "pid",
            "kind",
            "up",
            "newest",
            "age",
            "pages",
            "bytes",
            "longest pause",
            "program",
            "store",
        ];
        let mut table = table(&titles, &[1, 3, 4, 5, 6, 7, 8]);
        for line in lines {
            let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
            table.add_row([
                line.name,
                line.pid.to_string(),
                line.kind,
                time(line.up_ns),
                or_nothing(line.newest.map(|id| id.to_string())),
                or_nothing(line.newest_age_ns.map(time)),
                or_nothing(line.newest_pages.map(|pages| pages.to_string())),
                or_nothing(line.newest_bytes.map(readable)),
                or_nothing(line.longest_pause_ns.map(time)),
                line.program,
                or_nothing(line.store),
            ]);
        }
        say!("{}", table.trim_fmt());
        Ok(ExitCode::SUCCESS)
    }
}
