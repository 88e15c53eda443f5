//! `cairn store export`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_store::PAGE_SIZE;
use clap::Args;

use super::{Place, bar};
use crate::number;
use crate::size::readable;

/// Options of `cairn store export`.
#[derive(Args, Debug)]
pub(super) struct Export {
    #[command(flatten)]
    place: Place,
    /// The checkpoint.
    #[arg(value_parser = number::checkpoint)]
    id: u64,
    /// The object's name, as `cairn store show` tells.
    object: String,
    /// The file to write. It must not exist.
    file: PathBuf,
}

impl Export {
    pub(super) fn run(self) -> Result<ExitCode> {
        let snapshot = self.place.snapshot(self.id)?;
        let object = snapshot
            .find(&self.object)
            .with_context(|| format!("checkpoint {} has no object '{}'", self.id, self.object))?;
        let page_bytes = PAGE_SIZE as u64;
        let path = self.file.display();
        let file = OpenOptions::new().write(true).create_new(true).open(&self.file);
        let file = file.with_context(|| format!("{path} can't be made"))?;
        let len = snapshot.objects()[object.place()].pages * page_bytes;
        file.set_len(len).with_context(|| format!("{path} can't have {}", readable(len)))?;
        let bar = bar();
        bar.set_length(snapshot.present(object).map(|span| (span.end - span.start) * page_bytes).sum());
        let mut bytes = [0; PAGE_SIZE];
        let mut written = 0;
        for page in snapshot.present(object).flatten() {
            snapshot.read_page(object, page, &mut bytes)?;
            if bytes != [0; PAGE_SIZE] {
                file.write_all_at(&bytes, page * page_bytes)
                    .with_context(|| format!("{path} can't be written"))?;
                written += page_bytes;
            }
            bar.inc(page_bytes);
        }
        bar.finish_and_clear();
        say!("{path}: {}, of which {} are not zero", readable(len), readable(written));
        Ok(ExitCode::SUCCESS)
    }
}
