//! `cairn store ls`.

use std::process::ExitCode;

use anyhow::Result;
use cairn_store::CheckpointInfo;
use clap::Args;
use serde::Serialize;

use super::{Place, print_json, table, time};
use crate::size::readable;

/// Options of `cairn store ls`.
#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    id: u64,
    parent: Option<u64>,
    time: String,
    objects: usize,
    bytes: u64,
    deltas: usize,
}

impl From<&CheckpointInfo> for Line {
    fn from(info: &CheckpointInfo) -> Self {
        Self {
            id: info.id.0,
            parent: info.parent.map(|id| id.0),
            time: time::utc(info.time),
            objects: info.objects,
            bytes: info.bytes,
            deltas: info.deltas,
        }
    }
}

impl List {
    pub(super) fn run(self) -> Result<ExitCode> {
        let store = self.place.open()?;
        let lines: Vec<Line> = store.checkpoints().iter().map(Line::from).collect();
        if self.json {
            print_json(&lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        if lines.is_empty() {
            say!("no checkpoints in {}", self.place.directory.display());
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = table(&["id", "parent", "time", "objects", "own bytes", "deltas"], &[0, 1, 3, 4, 5]);
        for line in lines {
            table.add_row([
                line.id.to_string(),
                line.parent.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                line.time,
                line.objects.to_string(),
                readable(line.bytes),
                line.deltas.to_string(),
            ]);
        }
        say!("{}", table.trim_fmt());
        Ok(ExitCode::SUCCESS)
    }
}
