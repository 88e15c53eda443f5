//! What is fetched once and kept: a directory that is whole or isn't there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Makes the directory `whole` by `fill`, unless it is there; `fill` gets an empty directory beside it.
///
/// # Errors
/// Those of `fill`, or a directory can't be made; `whole` isn't there then.
pub(crate) fn once(whole: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if whole.exists() {
        return Ok(());
    }
    let name = whole.file_name().context("a directory without a name")?.to_string_lossy();
    let unfinished = whole.with_file_name(format!("{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("removing {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
    fill(&unfinished)?;
    // The last step, so that an interrupted run leaves nothing that looks whole.
    fs::rename(&unfinished, whole).with_context(|| format!("moving to {}", whole.display()))
}
