//! `cairn store verify` and `cairn store compact`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::Result;
use cairn_store::{Options, Writer};
use clap::Args;
use serde::Serialize;

use super::{Place, bar, print_json};
use crate::exit;
use crate::number;
use crate::size::{Size, readable};

/// Options of `cairn store verify`.
#[derive(Args, Debug)]
pub(super) struct Verify {
    #[command(flatten)]
    place: Place,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Options of `cairn store compact`.
#[derive(Args, Debug)]
pub(super) struct Compact {
    #[command(flatten)]
    place: Place,
    /// Keep only the newest N checkpoints [default: as many as the store's last writer wanted].
    #[arg(long, value_name = "N", value_parser = number::from_one)]
    keep: Option<NonZeroUsize>,
    /// Drop old checkpoints until the store has at most SIZE, if the newest fits.
    #[arg(long, value_name = "SIZE")]
    keep_bytes: Option<Size>,
}

#[derive(Serialize)]
struct Report {
    checkpoints: usize,
    whole: usize,
    bytes: u64,
    unfinished_bytes: u64,
    damage: Vec<Damaged>,
}

#[derive(Serialize)]
struct Damaged {
    file: String,
    offset: u64,
    what: String,
}

impl Verify {
    pub(super) fn run(self) -> Result<ExitCode> {
        let bar = bar();
        let found = cairn_store::verify(&self.place.directory, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        let code = if found.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::DAMAGED) };
        if self.json {
            let damage = found.damage.iter().map(|damage| Damaged {
                file: damage.path.display().to_string(),
                offset: damage.offset,
                what: damage.what.clone(),
            });
            print_json(&Report {
                checkpoints: found.kept,
                whole: found.whole,
                bytes: found.bytes,
                unfinished_bytes: found.unfinished,
                damage: damage.collect(),
            })?;
            return Ok(code);
        }
        for damage in &found.damage {
            say!("{damage}");
        }
        if found.kept == 0 && !found.damage.is_empty() {
            say!("no checkpoint can be reached");
            return Ok(code);
        }
        say!("{} of {} checkpoints are whole, {} read", found.whole, found.kept, readable(found.bytes));
        if found.unfinished != 0 {
            say!(
                "{} behind the last one belong to none: a commit that didn't get through",
                readable(found.unfinished)
            );
        }
        Ok(code)
    }
}

impl Compact {
    pub(super) fn run(self) -> Result<ExitCode> {
        let before = self.place.open()?;
        let options = Options {
            keep: self.keep.or(before.keep()),
            keep_bytes: self.keep_bytes.map(|size| size.0),
            ..Options::default()
        };
        let size = |place: &Place| -> Result<u64> {
            let mut bytes = 0;
            for entry in std::fs::read_dir(&place.directory)? {
                bytes += entry?.metadata()?.len();
            }
            Ok(bytes)
        };
        let bytes = size(&self.place)?;
        let bar = bar();
        let mut writer = Writer::open(&self.place.directory, options)?;
        writer.compact(&mut |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            true
        })?;
        drop(writer);
        bar.finish_and_clear();
        say!(
            "{} checkpoints in {}, {} checkpoints in {} before",
            self.place.open()?.checkpoints().len(),
            readable(size(&self.place)?),
            before.checkpoints().len(),
            readable(bytes)
        );
        Ok(ExitCode::SUCCESS)
    }
}
