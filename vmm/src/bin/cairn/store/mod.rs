//! `cairn store`: stores of checkpoints on disk.

mod export;
mod list;
mod maintain;
mod show;
mod time;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_abi::CheckpointId;
use cairn_store::{Snapshot, StoreError};
use cairn_vmm::tell;
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Options of `cairn store`.
#[derive(Args, Debug)]
#[command(max_term_width = 100)]
pub(crate) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the checkpoints of a store.
    Ls(list::List),
    /// Show what a checkpoint holds.
    Show(show::Show),
    /// Tell which pages differ between two checkpoints.
    Diff(show::Diff),
    /// Read a whole store against its checksums. Exits with 121 if something is damaged.
    Verify(maintain::Verify),
    /// Merge what can be merged and delete what nobody needs.
    Compact(maintain::Compact),
    /// Write an object of a checkpoint to a file, with holes where it is zero.
    Export(export::Export),
}

impl Store {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Ls(list) => list.run(),
            Command::Show(show) => show.run(),
            Command::Diff(diff) => diff.run(),
            Command::Verify(verify) => verify.run(),
            Command::Compact(compact) => compact.run(),
            Command::Export(export) => export.run(),
        }
    }
}

/// The store that a command is about.
#[derive(Args, Debug)]
struct Place {
    /// The store's directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Place {
    fn open(&self) -> Result<cairn_store::Store, StoreError> {
        let store = cairn_store::Store::open(&self.directory)?;
        for damage in store.damage().into_iter().chain(store.lost()) {
            tell!("cairn: {damage}; checkpoints may be missing");
        }
        Ok(store)
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot, StoreError> {
        self.open()?.snapshot(CheckpointId(id))
    }
}

/// A table as all commands print it; `right` are the columns of numbers.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A progress bar over bytes on standard error, if that is a terminal.
fn bar() -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes} ({eta} left)") {
        bar.set_style(style);
    }
    bar
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    say!("{}", serde_json::to_string_pretty(value).context("the result is no JSON")?);
    Ok(())
}
